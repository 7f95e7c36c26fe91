# SPDX-License-Identifier: Apache-2.0
"""What rkt's VMM may still do once it runs: as a command line of setpriv, which becomes the VMM.

Called by `order.py`. Namespaces come from rkt's launcher. Since setpriv execs and does not fork, pid and start time are
the VMM's. All other VMMs are started by the jailer (`jail.py`).
"""

import os
from typing import NamedTuple

from stage1.errors import PodError
from stage1.linux import process
from stage1.linux.host import which
from stage1.vm.spec import Dax, VmSpec

# What the 9p server needs to give the guest's root what root expects of a volume: owners, modes, set-group-id bits.
# Not mknod: the devices that a guest made on a volume would be the host's.
CAPABILITIES = ("chown", "dac_override", "fowner", "fsetid")

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_PROBE_S = 10.0

# Access rights of landlock(7), as setpriv names them. A rule for a file takes no rights of directories.
_READ, _LIST = "read-file", "read-file,read-dir"
_RUN, _RUN_FILE = "execute,read-file,read-dir", "execute,read-file"
_CHANGE = "read-file,write-file,truncate"
_TREE = f"{_CHANGE},read-dir,remove-dir,remove-file,make-dir,make-reg,make-sock,make-fifo,make-sym,refer"

_SYSTEM = (
    *((path, _RUN) for path in ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/opt", "/nix", "/gnu")),
    *((path, _READ) for path in ("/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime", "/proc/filesystems")),
    *((path, _LIST) for path in ("/proc/self", "/proc/sys/vm", "/sys/devices/system", "/sys/kernel/mm")),
    *((f"/dev/{name}", _CHANGE) for name in ("null", "zero", "urandom", "random")),
    *((f"/dev/{name}", _CHANGE) for name in ("kvm", "net/tun", "vhost-net", "vhost-vsock")),
)


class Confinement(NamedTuple):
    """What works here. `setpriv` is its path, or empty; `landlock`, whether files can be fenced off.

    `lacks` says what is missing and how to mend it; empty when all of it works.
    """

    setpriv: str
    landlock: bool
    lacks: str = ""


def find() -> Confinement:
    """Try it on this host with the program `true`: some 2 ms. Raises nothing."""
    setpriv = which("setpriv")
    if not setpriv:
        return Confinement("", False, "setpriv is not on PATH, so VMMs keep all of root's privileges")
    said = _trial([*_privileges(setpriv), *_fence([("/", _RUN)])])
    if not said:
        return Confinement(setpriv, True)
    if not (worse := _trial(_privileges(setpriv))):
        why = "so VMMs can reach files that are not the pod's"
        return Confinement(setpriv, False, f"setpriv can't use Landlock ({said}), {why}")
    return Confinement("", False, f"setpriv does not work ({worse}), so VMMs keep all of root's privileges")


def command(found: Confinement, vm: VmSpec, *, also: tuple[str, ...] = ()) -> list[str]:
    """The words before the VMM's own; none where nothing works. `also`: more programs and places of theirs.

    The disks and the directories of `vm` must exist: what does not is left out.
    """
    if not found.setpriv:
        return []
    more = [(path, _RUN if os.path.isdir(path) else _RUN_FILE) for path in also]
    return [*_privileges(found.setpriv), *(_fence([*rules(vm), *more]) if found.landlock else []), "--"]


def _privileges(setpriv: str) -> list[str]:
    kept = ",".join(f"+{name}" for name in CAPABILITIES)
    return [setpriv, "--no-new-privs", "--inh-caps=-all", "--ambient-caps=-all", f"--bounding-set=-all,{kept}"]


def _fence(rules: list[tuple[str, str]]) -> list[str]:
    words = [f"--landlock-rule=path-beneath:{rights}:{path}" for path, rights in rules if os.path.exists(path)]
    return ["--landlock-access=fs", *words]


def rules(vm: VmSpec) -> list[tuple[str, str]]:
    """Paths, with the rights of landlock(7) that it has there."""
    binary = os.path.realpath(vm.binary)
    home = os.path.dirname(os.path.dirname(binary)).rstrip("/")
    shares = ((share.path, _LIST if share.read_only else _TREE) for share in vm.shares)
    return [
        *_SYSTEM,
        (binary, _RUN_FILE),
        *((f"{home}/{name}", _RUN) for name in ("lib", "lib64", "share")),
        *((path, _READ) for path in (vm.kernel, vm.initramfs, vm.system_image)),
        *([(vm.scratch, _CHANGE)] if vm.scratch else []),
        *shares,
        *([(f"{vm.run_dir}/console.log", _CHANGE)] if vm.attended else []),
        # The link's socket is made there, or kvmtool's own and the window's.
        (vm.run_dir, "read-dir,make-dir,make-sock"),
        *(_for_dax(vm.dax) if vm.dax else []),
    ]


def _for_dax(dax: Dax) -> list[tuple[str, str]]:
    return [(dax.library, _RUN_FILE), *((image.path, _READ) for image in dax.images)]


def _trial(words: list[str]) -> str:
    """Why the program `true` can't be run so; empty when it can."""
    try:
        result = process.run([*words, "--", which("true") or "true"], timeout_s=_PROBE_S, env=_ENVIRONMENT)
    except PodError as error:
        return str(error)
    last = result.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return "" if result.code == 0 else last or f"code {result.code}"
