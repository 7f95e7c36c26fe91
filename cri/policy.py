# SPDX-License-Identifier: Apache-2.0
"""What the author of a pod may ask for by annotations: the table `[policy]` of the configuration. Pure.

`cri.config` parses it, `cri.translate.annotations` applies it to a pod, `clearpod check` prints it. It must not know
where an annotation's value ends up.
"""

from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from cri.config_tables import Table, key
from stage1.pod.model import MOST_WINDOW_MIB

MEMORY = "clearpod.io/memory-mib"
"""Memory of the pod's VM in MiB, regardless of its limits."""
VCPUS = "clearpod.io/vcpus"
"""vCPUs of the pod's VM, at most as many as the host has processors."""
SHM = "clearpod.io/shm-mib"
"""Size in MiB of `/dev/shm`, which the pod's containers share; default 64."""
WINDOW = "clearpod.io/dax-window-mib"
"""Size in MiB, 0 to 16384, of the DAX window for images; kvmtool only."""
SCRATCH = "clearpod.io/scratch-mib"
"""Size in MiB of the disk for writable layers, rounded down to one of 16, 24, 32, 48, 64, 96 and so on."""
NETWORKS = "clearpod.io/networks"
"""Names of CNI networks that the pod joins in addition to the default one, separated by commas."""
KERNEL = "clearpod.io/kernel"
"""Guest kernel: `default`, a variant such as `stock` in the guest's directory, or `image`: the kernel in the image of
the pod's only container, and no guest is booted.
"""
PROFILE = "clearpod.io/guest-profile"
"""Userspace of the guest: `default`, or `systemd`, which also gives the pod a journal."""
SPOOFING = "clearpod.io/allow-spoofing"
"""`true`: the pod may send from addresses that are not its own (no filter against spoofing)."""

EMPTY_DIRS = "clearpod.io/emptydir"
"""Place of the pod's emptyDirs: `guest`, on the pod's disk beside the writable layers, or `host`, in the kubelet's
directory. The default is `volumes.empty_dirs`, and `guest` for pods that can be suspended or copied. Those with
`medium: Memory` are in the guest's memory unless this is `host`.
"""
EMPTY_DIR_LIMITS = "clearpod.io/emptydir-limits"
"""Size limits of emptyDirs on the pod's disk: `NAME=SIZE` such as `cache=512Mi`, separated by commas, at most 16,
each 16Mi or more. They are partitions of the disk, `clearpod.io/scratch-mib`.
"""
FILES = "clearpod.io/files"
"""Place of config maps, secrets, projected and downwardAPI volumes and the kubelet's hosts file: `guest`, in copies
in the guest's memory that are kept current, or `host`. The default is `volumes.files`.
"""
TEMPLATE = "clearpod.io/template"
"""`none`: the pod's VM boots, and is not a copy of a template."""
SNAPSHOT = "clearpod.io/snapshot"
"""Name of a snapshot of a pod of the same namespace, made by `clearpod snapshot create`: this pod begins as a copy."""

SUSPEND = "clearpod.io/suspend"
"""Allows `clearpod suspend`: with `manual` the pod is resumed by `clearpod resume`, with `on-demand` also by the next
exec, attach or connection to a host port. QEMU only.
"""

FORKABLE = "clearpod.io/forkable"
"""`true`: the pod consents to be copied, with its memory and disk, into pods of its namespace, and to be saved
as a named snapshot there. It can also be suspended.
"""
FORK_OF = "clearpod.io/fork-of"
"""Name or id of a running pod of the same namespace that consents: this pod starts as a copy of it."""
COPY_SIGNAL = "clearpod.io/copy-signal"
"""Name of a signal, such as `SIGUSR1`, that the first process of each container of a copy gets when it is unfrozen."""

DEBUG = "clearpod.io/debug"
"""The annotation of a container that `clearpod debug` creates; not for pods."""
DETACHED = "clearpod.io/detached"
"""The label of pods that `clearpod run --detach` creates: when the pod is removed, `AT_ITS_END` or `WHEN_ASKED`."""
AT_ITS_END, WHEN_ASKED = "at-its-end", "when-asked"

KNOWN = (
    MEMORY, VCPUS, SHM, WINDOW, SCRATCH, NETWORKS, KERNEL, PROFILE, SPOOFING, EMPTY_DIRS, EMPTY_DIR_LIMITS,
    FILES, TEMPLATE, SNAPSHOT, SUSPEND, FORKABLE, FORK_OF, COPY_SIGNAL,
)  # fmt: skip
"""All annotations by which a pod changes its VM."""
MOST_MEMORY_MIB, MOST_VCPUS, MOST_NETWORKS = 1 << 20, 256, 7
LEAST_SCRATCH_MIB, MOST_SCRATCH_MIB = 16, 1 << 24

Names = tuple[str, ...]
_NOT_EMPTY = {"min_length": 1}


def are_known(names: Names | None) -> Names | None:
    """Return the names if all are known annotations. Raises ValueError."""
    for name in names or ():
        if name not in KNOWN:
            import difflib  # here, since only a wrong name needs it

            guess = difflib.get_close_matches(name, KNOWN, n=1)
            hint = f'did you mean "{guess[0]}"?' if guess else f"known are {', '.join(KNOWN)}"
            raise ValueError(f'has the unknown annotation "{name}"; {hint}')
    return names


@dataclass(frozen=True, kw_only=True)
class Rule(Table):
    """The bounds for namespaces that match one of the patterns. A missing key has the value of `[policy]`."""

    namespaces: Names = key(min_length=1, strict=False, items=_NOT_EMPTY)
    """Patterns of namespaces. The first rule with a matching pattern applies."""
    annotations: Names | None = key(default=None, strict=False, items=_NOT_EMPTY, check=are_known)
    max_memory_mib: int | None = key(default=None, ge=0, le=MOST_MEMORY_MIB)
    max_vcpus: int | None = key(default=None, ge=0, le=MOST_VCPUS)
    max_shm_mib: int | None = key(default=None, ge=0, le=MOST_MEMORY_MIB)
    max_window_mib: int | None = key(default=None, ge=0, le=MOST_WINDOW_MIB)
    max_scratch_mib: int | None = key(default=None, ge=0, le=MOST_SCRATCH_MIB)
    max_networks: int | None = key(default=None, ge=0, le=MOST_NETWORKS)
    networks: Names | None = key(default=None, strict=False, items=_NOT_EMPTY)
    kernels: Names | None = key(default=None, strict=False, items=_NOT_EMPTY)
    profiles: Names | None = key(default=None, strict=False, items=_NOT_EMPTY)
    debug: bool | None = None
    templates: bool | None = None

    def changes(self) -> dict[str, Any]:
        """The keys that it has, beside the namespaces."""
        return {
            one.name: value
            for one in fields(self)
            if one.name != "namespaces" and (value := getattr(self, one.name)) is not None
        }


@dataclass(frozen=True, kw_only=True)
class Policy(Table):
    """The bounds of every pod to which no rule applies. `networks`, `kernels` and `profiles` are patterns of names.

    A maximum of 0 is what the pod has without the annotation; for `max_shm_mib` it is the VM's memory.
    """

    annotations: Names = key(
        default=tuple(name for name in KNOWN if name != SPOOFING), strict=False, items=_NOT_EMPTY, check=are_known
    )
    """The annotations of clearpod's that pods may have."""
    max_memory_mib: int = key(default=0, ge=0, le=MOST_MEMORY_MIB)
    """Maximum of `clearpod.io/memory-mib`. 0: the size that the VM has without it."""
    max_vcpus: int = key(default=0, ge=0, le=MOST_VCPUS)
    """Maximum of `clearpod.io/vcpus`. 0: the number that the VM has without it."""
    max_shm_mib: int = key(default=0, ge=0, le=MOST_MEMORY_MIB)
    """Maximum of `clearpod.io/shm-mib`. 0: the memory of the pod's VM."""
    max_window_mib: int = key(default=0, ge=0, le=MOST_WINDOW_MIB)
    """Maximum of `clearpod.io/dax-window-mib`. 0: the size that the VM has without it."""
    max_scratch_mib: int = key(default=0, ge=0, le=MOST_SCRATCH_MIB)
    """Maximum of `clearpod.io/scratch-mib`. 0: `vm.scratch_mib`."""
    max_networks: int = key(default=MOST_NETWORKS, ge=0, le=MOST_NETWORKS)
    """Maximum number of networks in `clearpod.io/networks`."""
    networks: Names = key(default=(), strict=False, items=_NOT_EMPTY)
    """Networks that `clearpod.io/networks` may name, as patterns (`*`, `?`, `[...]`)."""
    kernels: Names = key(default=("*",), strict=False, items=_NOT_EMPTY)
    """Guest kernels that a pod may use, as patterns. `image` stands for kernels in images, with or without the
    annotation.
    """
    profiles: Names = key(default=("default",), strict=False, items=_NOT_EMPTY)
    """Guest profiles that a pod may use, as patterns."""
    debug: bool = False
    """Whether `clearpod debug` may start shells in pods' guests: whoever can use the socket is root in them then."""
    templates: bool = True
    """Whether pods may begin as copies of templates (`templates.enabled`) and with named snapshots."""
    rules: tuple[Rule, ...] = key(default=(), strict=False, items=Rule)

    def of(self, namespace: str) -> "Grant":
        """The bounds of a pod in `namespace`: those of the first rule with a pattern that matches it."""
        for number, rule in enumerate(self.rules, start=1):
            if is_match(namespace, rule.namespaces):
                return Grant(self.but(**rule.changes()), number)
        return Grant(self)


class Grant(NamedTuple):
    """The policy for one namespace. `rule` is the number of the rule that applies, from 1; 0: none."""

    bounds: Policy
    rule: int = 0

    def key(self, name: str) -> str:
        """The configuration's key to change, for people."""
        return f"policy.{name} (or that of rule {self.rule})" if self.rule else f"policy.{name}"


def is_match(name: str, patterns: Names) -> bool:
    """Whether one of the patterns (`*`, `?`, `[...]`, as in a shell) matches the whole name, case-sensitively."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def described(policy: Policy) -> tuple[str, ...]:
    """The policy as text: first what holds for all pods, then one sentence for each rule."""
    usual = policy.but(rules=()).values()
    del usual["rules"]
    return (
        "; ".join(_phrase(key, usual[key]) for key in usual),
        *(
            f"in {', '.join(rule.namespaces)}: "
            + "; ".join(_phrase(key, value) for key, value in sorted(rule.changes().items()))
            for rule in policy.rules
        ),
    )


def _phrase(key: str, value: Any) -> str:
    if key == "annotations":
        refused = [name for name in KNOWN if name not in value]
        if len(value) < len(refused):
            return f"annotations {', '.join(value) or 'none'}"
        return f"all annotations but {', '.join(refused)}" if refused else "all annotations"
    if key in ("debug", "templates"):
        return f"{key} {'allowed' if value else 'refused'}"
    if key.startswith("max_"):
        what = key.removeprefix("max_").removesuffix("_mib").replace("_", " ")
        none = {"max_shm_mib": "the VM's memory", "max_networks": "none"}.get(key, "as without annotation")
        what = "number of networks" if key == "max_networks" else what
        return f"{what} up to {value}{' MiB' if key.endswith('_mib') else ''}" if value else f"{what} {none}"
    return f"{key} {', '.join(value) or 'none'}"
