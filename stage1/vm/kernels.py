# SPDX-License-Identifier: Apache-2.0
"""Which file of the guest's directory a VM boots: the hypervisor's kernel, or a variant of it that can more.

Called by the engine. It reads names only; a variant NAME is there when its file, such as `vmlinux-NAME`, is.
"""

import os

from stage1.errors import NotFound
from stage1.vm.spec import Hypervisor

STOCK = "stock"
"""A distribution's kernel (images/stock), the one variant that can be built; an operator may put others beside it. Its
devices are on PCI, and what it boots with are modules.
"""
BUILD_STOCK = f"clearpod images build {STOCK}"

LEAST_STOCK_MIB = 96
"""With less memory it panics as it begins, or leaves a container some MiB."""

SLOW = "clearpod's own kernel is not built, so pods boot a distribution's, several times slower and with more memory"
REMEDY = "clearpod images build kernel (minutes, once)"


def chosen(guest_dir: str, variant: str, *, hypervisor: Hypervisor) -> str:
    """The variant that a pod boots which asks for `variant`: the stock kernel where the ordinary one is not built."""
    names = os.listdir(guest_dir) if not variant and os.path.isdir(guest_dir) else []
    has_stock_only = hypervisor.kernel not in names and f"{hypervisor.kernel}-{STOCK}" in names
    return STOCK if has_stock_only else variant


def file_name(guest_dir: str, variant: str, *, hypervisor: Hypervisor) -> str:
    """The kernel's name in `guest_dir`; the ordinary one, which may be missing, for an empty `variant`.

    Raises NotFound, with the names that are there, for a variant that is not.
    """
    ordinary = hypervisor.kernel
    if not variant:
        return ordinary
    known = variants(guest_dir, hypervisor=hypervisor)
    if variant not in known:
        raise NotFound(
            f"the pod needs the guest kernel {variant!r}, but {guest_dir} has, in addition to the default one, "
            f"{', '.join(known) or 'none'}; {_remedy(variant, known)}"
        )
    return f"{ordinary}-{variant}"


def _remedy(variant: str, known: list[str]) -> str:
    if variant == STOCK:
        return f"ask for another, or build it with `{BUILD_STOCK}`"
    return "ask for one of these" + ("" if STOCK in known else f", or for {STOCK}, which `{BUILD_STOCK}` builds")


def variants(guest_dir: str, *, hypervisor: Hypervisor) -> list[str]:
    """The names of the variants that are there, sorted."""
    prefix = f"{hypervisor.kernel}-"
    names = os.listdir(guest_dir) if os.path.isdir(guest_dir) else []
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))
