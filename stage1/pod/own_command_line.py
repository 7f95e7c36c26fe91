# SPDX-License-Identifier: Apache-2.0
"""The command line of a kernel that an image brings: its address, in the form that it reads, and its arguments.

Called when its VM is made. Pure. The forms are those of the systems themselves; docs/user/own-kernels.md shows each.
"""

import json
from collections.abc import Callable, Sequence

from stage1.errors import BadRequest
from stage1.pod import own_kernel, own_quoting
from stage1.pod.own_kernel import OwnKernel
from stage1.pod.own_quoting import Writer
from stage1.pod.own_values import OWN_INIT, Address, Asked, Carried, Line, Values

Parts = tuple[str, ...]


MOST_BYTES, MOST_OF_OTHERS = 2047, 4095
"""Of a line: what Linux takes, and more than most others do; and what those take whose forms have an environment."""
MOST_OF_LINUX, MOST_ARGUMENTS = 30, 31
"""Variables that Linux takes of its command line, beside the two that it has, and arguments of init; with more it
panics.
"""
_OF_LINUX = ("HOME", "TERM")
_OF_SERVICE = ("_SERVICE_HOST", "_SERVICE_PORT", "_PORT")
"""How the names of those three variables end that a kubelet makes for each service, beside some that begin with the
last two.
"""
_INIT = "/init"
"""What Linux starts in an initrd by default."""
_DATA = "/data"
"""The default mount point of a block image in Rumprun."""


_NOTHING = Asked()


def compose(kernel: OwnKernel, at: Address | None, *, asked: Asked = _NOTHING, hostname: str = "") -> Line:
    """The whole line. Raises BadRequest when it is too long or can't be written."""
    passed = without_services(asked.environment) if kernel.environment == own_kernel.PASSED else ()
    values = Values(at, asked.arguments, kernel.arguments, hostname, passed)
    if not (_can_carry(kernel) and any(map(_may_be_a_parameter, values.environment))):
        try:
            return Line(_line(kernel, values))
        except BadRequest:
            if not _can_carry(kernel):
                raise
    text = _line(kernel, values._replace(is_carried=True))
    return Line(text, _carried(kernel, values))


def _line(kernel: OwnKernel, values: Values) -> str:
    text = " ".join(filter(None, _FORMS[kernel.network](kernel, values)))
    if not text.isprintable():
        raise BadRequest(
            f"the arguments {(' '.join(values.arguments) or values.text)[:100]!r} of a kernel, or a variable of its "
            "environment, have a character that can't be in a command line; remove it"
        )
    most = MOST_OF_OTHERS if kernel.network in _WITH_ENVIRONMENT else MOST_BYTES
    if (length := len(text.encode(errors="surrogateescape"))) > most:
        raise BadRequest(
            f"the command line of the kernel would have {length} bytes of at most {most}; give it fewer or "
            f"shorter arguments or variables than {text[:60]!r}..., or set {own_kernel.OURS}environment to "
            f"{own_kernel.NOT_PASSED} in the image"
        )
    return text


def _can_carry(kernel: OwnKernel) -> bool:
    """Whether the first program is one of an initrd, in front of which ours can be."""
    return kernel.network in (own_kernel.LINUX, own_kernel.LINUX_INIT) and bool(kernel.initrd)


def _may_be_a_parameter(variable: str) -> bool:
    """Whether Linux may take it for a parameter of its own, or of a module (a name with a dot)."""
    name = variable.partition("=")[0]
    return not name.isupper() or "." in name


def _carried(kernel: OwnKernel, values: Values) -> Carried:
    """The `values` that are not on its line."""
    if _is_init_of_disk(kernel) or kernel.network == own_kernel.LINUX:
        return Carried(_rdinit(_arguments(kernel, values)) or _INIT, (), values.environment)
    program = values.arguments[0] if values.arguments else values.text.partition(" ")[0]
    return Carried(program or _INIT, values.arguments[1:], values.environment)


def _is_init_of_disk(kernel: OwnKernel) -> bool:
    """Whether the program named is one of the disk, which the initrd's own first program starts."""
    return bool(kernel.block) and bool(kernel.initrd)


def _rdinit(arguments: str) -> str:
    """The first program that parameters of the kernel name; empty if they do not."""
    options = arguments.partition(" -- ")[0].split()
    return next((one.removeprefix("rdinit=") for one in reversed(options) if one.startswith("rdinit=")), "")


def has_environment(kernel: OwnKernel) -> bool:
    """Whether its form has a place for an environment."""
    return kernel.network in (own_kernel.LINUX, own_kernel.LINUX_INIT, *_WITH_ENVIRONMENT)


def without_services(environment: Sequence[str]) -> tuple[str, ...]:
    """The variables without those that a kubelet makes for each service of the namespace: they would fill the line."""
    names = {one.partition("=")[0] for one in environment}
    hosts = (name.removesuffix(_OF_SERVICE[0]) for name in names if name.endswith(_OF_SERVICE[0]))
    services = [one for one in hosts if all(one + end in names for end in _OF_SERVICE)]
    begins = tuple(f"{one}{end}{sign}" for one in services for end in _OF_SERVICE for sign in "=_")
    return tuple(one for one in environment if not one.startswith(begins))


def _arguments(kernel: OwnKernel, values: Values) -> str:
    """The arguments as the kernel reads them. Raises BadRequest for words that it can't read."""
    write = _QUOTING.get(kernel.network, own_quoting.plain)
    written = []
    for word in values.arguments:
        if (text := write(word)) is None:
            raise BadRequest(
                f"the argument {word[:100]!r} has quotation marks that can't be in the command line of a kernel of the "
                f"form {kernel.network}; leave them out"
            )
        written.append(text)
    return " ".join(written) or values.text


def _variables(values: Values, write: Writer, *, form: str = "{}") -> Parts:
    """The environment in the given form for the kernel's command line. Raises BadRequest for what it can't read."""
    written = []
    for one in values.environment:
        if (text := write(form.format(one))) is None:
            raise BadRequest(
                f"the value of the variable {one.partition('=')[0][:100]!r} has quotation marks or backslashes that "
                f"can't be in this kernel's command line; leave them out, or set {own_kernel.OURS}environment to "
                f"{own_kernel.NOT_PASSED}"
            )
        written.append(text)
    return tuple(written)


def _none(kernel: OwnKernel, values: Values) -> Parts:
    return (_arguments(kernel, values),)


def _linux(kernel: OwnKernel, values: Values) -> Parts:
    """Linux hands words with a value that it does not know to init, as its environment."""
    arguments = _arguments(kernel, values)
    if values.is_carried:
        before, dashes, rest = f" {arguments} ".partition(" -- ")
        kept = (one for one in before.split(" ") if not one.startswith("rdinit="))
        return *_linux_begin(values), f"rdinit=/{OWN_INIT}", " ".join(kept).strip(), f"{dashes}{rest}".strip()
    return *_linux_begin(values), *_linux_variables(values), arguments


def _linux_begin(values: Values) -> Parts:
    at = values.at
    ip = f"ip={at.ip}::{at.gateway}:{at.mask}:{values.hostname}:eth0:off" if at else ""
    return "console=ttyS0", "panic=-1", ip


def _linux_variables(values: Values) -> Parts:
    names = {one.partition("=")[0] for one in values.environment}.difference(_OF_LINUX)
    if len(names) > MOST_OF_LINUX:
        raise BadRequest(
            f"the environment has {len(names)} variables, and Linux takes {MOST_OF_LINUX} of its command line; give "
            f"the image an initrd, by which they can come, or fewer variables, or set {own_kernel.OURS}environment to "
            f"{own_kernel.NOT_PASSED} in the image"
        )
    return _variables(values, own_quoting.for_linux)


def _linux_init(kernel: OwnKernel, values: Values) -> Parts:
    """The first word is the program that becomes init, the rest are its arguments."""
    root = "root=/dev/vda rw" if kernel.block else ""
    if values.is_carried and not _is_init_of_disk(kernel):
        rest = "" if values.arguments else values.text.partition(" ")[2]
        return *_linux_begin(values), f"rdinit=/{OWN_INIT}", f"-- {rest}" if rest else ""
    if len(values.arguments) > MOST_ARGUMENTS + 1:
        raise BadRequest(
            f"the kernel has {len(values.arguments)} arguments, and Linux takes {MOST_ARGUMENTS} beside the "
            "program; give it fewer"
        )
    program, _, rest = _arguments(kernel, values).partition(" ")
    word = "rdinit" if kernel.initrd and not kernel.block else "init"
    init = f"{word}={program} -- {rest}".rstrip() if program else ""
    passed = (f"rdinit=/{OWN_INIT}",) if values.is_carried else _linux_variables(values)
    return *_linux_begin(values), *passed, root, init


def _solo5(kernel: OwnKernel, values: Values) -> Parts:
    at = values.at
    ip = f"--ipv4={at.ip}/{at.prefix}" if at else ""
    return ip, f"--ipv4-gateway={at.gateway}" if at and at.gateway else "", _arguments(kernel, values)


def _osv(kernel: OwnKernel, values: Values) -> Parts:
    at = values.at
    ip = f"--ip=eth0,{at.ip},{at.mask}" if at else ""
    gateway = f"--defaultgw={at.gateway}" if at and at.gateway else ""
    dns = f"--nameserver={at.dns}" if at and at.dns else ""
    variables = _variables(values, own_quoting.for_osv_loader, form="--env={}")
    return ip, gateway, dns, *variables, _arguments(kernel, values)


def _unikraft(kernel: OwnKernel, values: Values) -> Parts:
    at = values.at
    ip = f"netdev.ip={at.ip}/{at.prefix}:{at.gateway}:{at.dns}".rstrip(":") if at else ""
    files = 'vfs.fstab=[ "initrd0:/:extract:::" ]' if kernel.initrd else ""
    return _for_program(kernel, values, settings=(ip, files))


def _unikraft_old(kernel: OwnKernel, values: Values) -> Parts:
    at = values.at
    ip = f"netdev.ipv4_addr={at.ip} netdev.ipv4_subnet_mask={at.mask}" if at else ""
    gateway = f"netdev.ipv4_gw_addr={at.gateway}" if at and at.gateway else ""
    return _for_program(kernel, values, settings=(ip, gateway, "vfs.rootfs=initrd" if kernel.initrd else ""))


def _for_program(kernel: OwnKernel, values: Values, *, settings: Parts) -> Parts:
    """The first word is the program's name, unless it is a path: a program in its files, of which its loader is told
    behind the two dashes that end what Unikraft itself reads.
    """
    arguments = _arguments(kernel, values)
    name, _, rest = arguments.partition(" ")
    if not name or name.lstrip("\"'").startswith("/"):
        name, rest = "app", arguments
    variables = ("env.vars=[", *_variables(values, own_quoting.by_quotes), "]") if values.environment else ()
    return name, *variables, *settings, "--", rest


def _mewz(kernel: OwnKernel, values: Values) -> Parts:
    at = values.at
    ip = f"ip={at.ip}/{at.prefix}" if at else ""
    return ip, f"gateway={at.gateway}" if at and at.gateway else "", _arguments(kernel, values)


def _hermit(kernel: OwnKernel, values: Values) -> Parts:
    at = values.at
    ip = f"-ip {at.ip} -mask {at.mask}" if at else ""
    gateway = f"-gateway {at.gateway}" if at and at.gateway else ""
    arguments = _arguments(kernel, values)
    variables = _variables(values, own_quoting.by_quotes, form="env={}")
    return ip, gateway, *variables, f"-- {arguments}" if arguments else ""


def _includeos(kernel: OwnKernel, values: Values) -> Parts:
    at = values.at
    ip = f"--net={at.ip}/{at.mask}" if at else ""
    gateway = f"--gateway={at.gateway}" if at and at.gateway else ""
    return *_variables(values, own_quoting.plain), ip, gateway, _arguments(kernel, values)


def _freebsd(kernel: OwnKernel, values: Values) -> Parts:
    """Variables of its kernel, of which none is an address; in place of its loader they name the disk with its root."""
    return "vfs.root.mountfrom=ufs:/dev/vtbd0" if kernel.block else "", _arguments(kernel, values)


def _rumprun(kernel: OwnKernel, values: Values) -> Parts:
    at, document = values.at, dict[str, object](cmdline=_arguments(kernel, values))
    if at:
        net = {"if": "vioif0", "type": "inet", "method": "static", "addr": at.ip, "mask": str(at.prefix)}
        document["net"] = net | ({"gw": at.gateway} if at.gateway else {})
    if kernel.block:
        where = kernel.block_mount or _DATA
        document["blk"] = {"source": "dev", "path": "/dev/ld0a", "fstype": "blk", "mountpoint": where}
    # Its reader wants the key `env` once for each, and takes texts as they are.
    variables = "".join(f'"env": {one}, ' for one in _variables(values, own_quoting.in_json))
    return ("{" + variables + json.dumps(document, ensure_ascii=False).removeprefix("{"),)


_FORMS: dict[str, Callable[[OwnKernel, Values], Parts]] = {
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
    own_kernel.INCLUDEOS: _includeos,
    own_kernel.FREEBSD: _freebsd,
}
_QUOTING: dict[str, Writer] = {
    own_kernel.LINUX: own_quoting.for_linux,
    own_kernel.LINUX_INIT: own_quoting.for_linux,
    own_kernel.SOLO5: own_quoting.by_quotes,
    own_kernel.RUMPRUN: own_quoting.for_rumprun,
    own_kernel.OSV: own_quoting.for_osv,
    own_kernel.UNIKRAFT: own_quoting.by_quotes,
    own_kernel.UNIKRAFT_OLD: own_quoting.by_quotes,
    own_kernel.HERMIT: own_quoting.by_quotes,
}
_WITH_ENVIRONMENT = (
    own_kernel.RUMPRUN,
    own_kernel.OSV,
    own_kernel.UNIKRAFT,
    own_kernel.UNIKRAFT_OLD,
    own_kernel.HERMIT,
)
