# SPDX-License-Identifier: Apache-2.0
"""The confinement of an app in the guest: capabilities, seccomp, paths. Pure. Called by plan."""

from stage1.errors import BadRequest
from stage1.pod.capabilities import bounding
from stage1.pod.model import Security
from stage1.rkt import syscalls
from stage1.rkt.arguments import RunOptions
from stage1.rkt.isolators import Isolators, Names

MASKED = (
    "/proc/config.gz", "/proc/kallsyms", "/proc/kcore", "/proc/kmem", "/proc/mem", "/proc/sched_debug",
    "/sys/firmware", "/sys/fs", "/sys/hypervisor", "/sys/module", "/sys/power",
)  # fmt: skip
READ_ONLY = (
    "/proc/bus", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/panic_on_oom",
    "/proc/sysrq-trigger",
)  # fmt: skip
"""And /sys as a whole: each of its directories would be here, or is masked."""


def security(isolators: Isolators, options: RunOptions, *, uid: int, read_only_root: bool, where: str) -> Security:
    """Return the security of the app itself. Raises BadRequest for an unknown capability or errno."""
    add, drop = _capabilities(isolators.capabilities, options)
    try:
        held = bounding(add, drop)
    except BadRequest as error:
        raise BadRequest(f"{where}: {error}; see capabilities(7)") from None
    seccomp = "" if options.no_seccomp else syscalls.filter_for(isolators.seccomp, held, where=where)
    return _paths(options)._replace(
        no_new_privs=isolators.no_new_privs or bool(seccomp and (uid or syscalls.is_tight(isolators.seccomp))),
        read_only_root=read_only_root,
        add_capabilities=add,
        drop_capabilities=drop,
        seccomp=seccomp,
    )


def of_handler(options: RunOptions, *, read_only_root: bool) -> Security:
    """Return the security of an event handler, which does what the app itself may not: no filter, every capability."""
    return _paths(options)._replace(read_only_root=read_only_root, add_capabilities=("CAP_ALL",))


def _paths(options: RunOptions) -> Security:
    if options.all_paths:
        return Security(writable_sys=True)
    return Security(masked_paths=MASKED, readonly_paths=READ_ONLY)


def _capabilities(given: Names | None, options: RunOptions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The capabilities to add and to drop."""
    if options.all_capabilities:
        return ("CAP_ALL",), ()
    if given is None:
        return (), ()
    names = tuple(name.upper() for name in given.names)
    return (names, ("CAP_ALL",)) if given.retain else ((), names)
