# SPDX-License-Identifier: Apache-2.0
"""Which files of the guest's directory are a profile's (stage1/pod/profile.py): its initramfs and its system image,
which is another one for a variant of the kernel that has modules.

Called by the engine. It reads names only.
"""

import os

from stage1.errors import NotFound
from stage1.vm.kernels import BUILD_STOCK, STOCK


def file_names(guest_dir: str, profile: str, *, variant: str = "") -> tuple[str, str]:
    """The initramfs and the system image in `guest_dir`; the ordinary ones, which may be missing, for an empty profile.

    With `variant` it is the system image with the modules of that kernel, where the variant has any, and the initramfs
    with those that it boots with. Raises NotFound for a profile that was not built, or not for that kernel, and for
    Debian's kernel without its modules.
    """
    names = (f"initramfs-{profile}", f"system-{profile}.erofs") if profile else ("initramfs", "system.erofs")
    missing = [name for name in names if not os.path.exists(f"{guest_dir}/{name}")] if profile else []
    if missing:
        raise NotFound(
            f"the pod requests the guest profile {profile}, but {guest_dir} has no {' and no '.join(missing)}; build "
            f"it with `images/build {profile}` on a machine with Debian's package {profile}"
        )
    if variant != STOCK and not (variant and os.path.exists(f"{guest_dir}/system-{variant}.erofs")):
        return names
    system = _of_variant(guest_dir, names[1].removesuffix(".erofs"), variant=variant, suffix=".erofs")
    if variant == STOCK:
        return _of_variant(guest_dir, names[0], variant=variant), system
    initramfs = f"{names[0]}-{variant}"
    return (initramfs if os.path.exists(f"{guest_dir}/{initramfs}") else names[0]), system


def _of_variant(guest_dir: str, name: str, *, variant: str, suffix: str = "") -> str:
    """The name of a file that a kernel with modules can't do without. Raises NotFound with what makes it."""
    made = f"{name}-{variant}{suffix}"
    if not os.path.exists(f"{guest_dir}/{made}"):
        build = f"`{BUILD_STOCK}`, where Debian's packages for the profile are installed, makes it"
        raise NotFound(
            f"the pod's guest with the kernel {variant} needs {made}, which is not in {guest_dir}; "
            f"{build if variant == STOCK else 'put it beside the kernel'}"
        )
    return made
