# SPDX-License-Identifier: Apache-2.0
"""The command line of a kernel that an image brings: its address, in the form that it reads, and its arguments.

Called when its VM is made. Pure. The forms are those of the systems themselves; docs/user/own-kernels.md shows each.
"""

import json
from typing import NamedTuple

from stage1.errors import BadRequest
from stage1.pod import own_kernel
from stage1.pod.own_kernel import OwnKernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stage1.pod.network import PodNetwork

    Parts = tuple[str, ...]

MOST_BYTES = 2047
"""Of a line: what Linux takes, and more than most others do."""
MOST_OF_LINUX = 30
"""Variables that Linux takes of its command line, beside the two that it has; with more it panics."""
_OF_LINUX = ("HOME", "TERM")
_OF_SERVICE = ("_SERVICE_HOST", "_SERVICE_PORT", "_PORT")
"""How the names of those three variables end that a kubelet makes for each service, beside some that begin with the
last two.
"""
_DATA = "/data"
"""The default mount point of a block image in Rumprun."""


class Address(NamedTuple):
    """The first IPv4 address of a pod; `gateway` and `dns` may be empty."""

    ip: str
    prefix: int
    gateway: str = ""
    dns: str = ""

    @property
    def mask(self) -> str:
        """The network mask in the form 255.255.0.0."""
        bits = (1 << 32) - (1 << 32 - self.prefix)
        return ".".join(str(bits >> shift & 0xFF) for shift in (24, 16, 8, 0))


def address(network: "PodNetwork | None") -> Address | None:
    """Return the IPv4 address of the pod's first device; None without one."""
    first = network.interfaces[0] if network and network.interfaces else None
    for text in first.addresses if first else ():
        ip, _, prefix = text.partition("/")
        if ":" in ip:
            continue
        assert network and first
        routes = (one for one in network.routes if one.destination == "0.0.0.0/0" and one.device == first.name)
        gateway = next((one.gateway for one in routes), "")
        return Address(ip, int(prefix or 32), gateway, next((one for one in network.dns_servers if ":" not in one), ""))
    return None


class Told(NamedTuple):
    """The kernel's parameters beyond its image's labels: the pod's address, if it has one, the arguments, and the
    environment's variables NAME=VALUE.
    """

    at: Address | None = None
    arguments: str = ""
    hostname: str = ""
    environment: tuple[str, ...] = ()


class Asked(NamedTuple):
    """What a pod asks for: arguments, which replace those of the image if there are any, and its environment,
    NAME=VALUE.
    """

    arguments: "tuple[str, ...]" = ()
    environment: "tuple[str, ...]" = ()


_NOTHING = Asked()


def line(kernel: OwnKernel, at: Address | None, *, asked: Asked = _NOTHING, hostname: str = "") -> str:
    """The whole line. Raises BadRequest when it is too long or can't be written."""
    passed = without_services(asked.environment) if kernel.environment == own_kernel.PASSED else ()
    told = Told(at, " ".join(map(_quoted, asked.arguments)) or kernel.arguments, hostname, passed)
    text = " ".join(filter(None, _FORMS[kernel.network](kernel, told)))
    if not text.isprintable():
        raise BadRequest(
            f"the arguments {told.arguments[:100]!r} of a kernel, or a variable of its environment, have a character "
            "that can't be in a command line"
        )
    if (length := len(text.encode(errors="surrogateescape"))) > MOST_BYTES:
        raise BadRequest(
            f"the command line of the kernel would have {length} bytes of at most {MOST_BYTES}; give it fewer or "
            f"shorter arguments or variables than {text[:60]!r}..., or set {own_kernel.OURS}environment to "
            f"{own_kernel.NOT_PASSED} in the image"
        )
    return text


def without_services(environment: "Sequence[str]") -> tuple[str, ...]:
    """The variables without those that a kubelet makes for each service of the namespace: they would fill the line."""
    names = {one.partition("=")[0] for one in environment}
    hosts = (name.removesuffix(_OF_SERVICE[0]) for name in names if name.endswith(_OF_SERVICE[0]))
    services = [one for one in hosts if all(one + end in names for end in _OF_SERVICE)]
    begins = tuple(f"{one}{end}{sign}" for one in services for end in _OF_SERVICE for sign in "=_")
    return tuple(one for one in environment if not one.startswith(begins))


def _quoted(word: str) -> str:
    return f'"{word}"' if any(c.isspace() for c in word) or not word else word


def _variables(told: Told, form: str = "{}") -> "Parts":
    """The environment in the given form for the kernel's command line; values with spaces are in quotation marks."""
    _require_no_quotes(told)
    return tuple(_quoted(form.format(one)) for one in told.environment)


def _require_no_quotes(told: Told) -> None:
    for one in told.environment:
        if '"' in one:
            raise BadRequest(
                f"the value of the variable {one.partition('=')[0][:100]!r} has a quotation mark, which can't be in a "
                f"kernel's command line; leave it out, or set {own_kernel.OURS}environment to {own_kernel.NOT_PASSED}"
            )


def _none(kernel: OwnKernel, told: Told) -> "Parts":
    return (told.arguments,)


def _linux(kernel: OwnKernel, told: Told) -> "Parts":
    """Linux hands words with a value that it does not know to init, as its environment."""
    at = told.at
    ip = f"ip={at.ip}::{at.gateway}:{at.mask}:{told.hostname}:eth0:off" if at else ""
    names = {one.partition("=")[0] for one in told.environment}.difference(_OF_LINUX)
    if len(names) > MOST_OF_LINUX:
        raise BadRequest(
            f"the environment has {len(names)} variables, and Linux takes {MOST_OF_LINUX} of its command line; give it "
            f"fewer, or set {own_kernel.OURS}environment to {own_kernel.NOT_PASSED} in the image"
        )
    return "console=ttyS0", "panic=-1", ip, *_variables(told), told.arguments


def _linux_init(kernel: OwnKernel, told: Told) -> "Parts":
    """The first word is the program that becomes init, the rest are its arguments."""
    program, _, rest = told.arguments.partition(" ")
    root, word = ("root=/dev/vda rw", "init") if kernel.block else ("", "rdinit" if kernel.initrd else "init")
    init = f"{word}={program} -- {rest}".rstrip() if program else ""
    return *_linux(kernel, told._replace(arguments="")), root, init


def _solo5(kernel: OwnKernel, told: Told) -> "Parts":
    at = told.at
    ip = f"--ipv4={at.ip}/{at.prefix}" if at else ""
    return ip, f"--ipv4-gateway={at.gateway}" if at and at.gateway else "", told.arguments


def _osv(kernel: OwnKernel, told: Told) -> "Parts":
    at = told.at
    ip = f"--ip=eth0,{at.ip},{at.mask}" if at else ""
    gateway = f"--defaultgw={at.gateway}" if at and at.gateway else ""
    dns = f"--nameserver={at.dns}" if at and at.dns else ""
    return ip, gateway, dns, *_variables(told, "--env={}"), told.arguments


def _unikraft(kernel: OwnKernel, told: Told) -> "Parts":
    at = told.at
    ip = f"netdev.ip={at.ip}/{at.prefix}:{at.gateway}:{at.dns}".rstrip(":") if at else ""
    files = 'vfs.fstab=[ "initrd0:/:extract:::" ]' if kernel.initrd else ""
    return _for_program(told, (ip, files))


def _unikraft_old(kernel: OwnKernel, told: Told) -> "Parts":
    at = told.at
    ip = f"netdev.ipv4_addr={at.ip} netdev.ipv4_subnet_mask={at.mask}" if at else ""
    gateway = f"netdev.ipv4_gw_addr={at.gateway}" if at and at.gateway else ""
    return _for_program(told, (ip, gateway, "vfs.rootfs=initrd" if kernel.initrd else ""))


def _for_program(told: Told, settings: "Parts") -> "Parts":
    """The first word is the program's name, unless it is a path: a program in its files, of which its loader is told
    behind the two dashes that end what Unikraft itself reads.
    """
    name, _, rest = told.arguments.partition(" ")
    if not name or name.lstrip('"').startswith("/"):
        name, rest = "app", told.arguments
    variables = ("env.vars=[", *_variables(told), "]") if told.environment else ()
    return name, *variables, *settings, "--", rest


def _mewz(kernel: OwnKernel, told: Told) -> "Parts":
    at = told.at
    ip = f"ip={at.ip}/{at.prefix}" if at else ""
    return ip, f"gateway={at.gateway}" if at and at.gateway else "", told.arguments


def _hermit(kernel: OwnKernel, told: Told) -> "Parts":
    at = told.at
    ip = f"-ip {at.ip} -mask {at.mask}" if at else ""
    gateway = f"-gateway {at.gateway}" if at and at.gateway else ""
    return ip, gateway, *_variables(told, "env={}"), f"-- {told.arguments}" if told.arguments else ""


def _rumprun(kernel: OwnKernel, told: Told) -> "Parts":
    at, document = told.at, dict[str, object](cmdline=told.arguments)
    if at:
        net = {"if": "vioif0", "type": "inet", "method": "static", "addr": at.ip, "mask": str(at.prefix)}
        document["net"] = net | ({"gw": at.gateway} if at.gateway else {})
    if kernel.block:
        where = kernel.block_mount or _DATA
        document["blk"] = {"source": "dev", "path": "/dev/ld0a", "fstype": "blk", "mountpoint": where}
    # Its reader wants the key `env` once for each, and takes texts as they are.
    _require_no_quotes(told)
    variables = "".join(f'"env": {json.dumps(one, ensure_ascii=False)}, ' for one in told.environment)
    return ("{" + variables + json.dumps(document, ensure_ascii=False).removeprefix("{"),)


_FORMS: "dict[str, Callable[[OwnKernel, Told], Parts]]" = {
    own_kernel.NONE: _none,
    own_kernel.ABSENT: _none,
    own_kernel.LINUX: _linux,
    own_kernel.LINUX_INIT: _linux_init,
    own_kernel.SOLO5: _solo5,
    own_kernel.RUMPRUN: _rumprun,
    own_kernel.OSV: _osv,
    own_kernel.UNIKRAFT: _unikraft,
    own_kernel.UNIKRAFT_OLD: _unikraft_old,
    own_kernel.MEWZ: _mewz,
    own_kernel.HERMIT: _hermit,
}
