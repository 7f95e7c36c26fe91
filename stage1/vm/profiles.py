# SPDX-License-Identifier: Apache-2.0
"""Which files of the guest's directory are a profile's (stage1/pod/profile.py): its initramfs and its system image.

Called by the engine. It reads names only.
"""

import os

from stage1.errors import NotFound


def file_names(guest_dir: str, profile: str) -> tuple[str, str]:
    """The initramfs and the system image in `guest_dir`; the ordinary ones, which may be missing, for an empty profile.

    Raises NotFound for a profile that was not built.
    """
    names = (f"initramfs-{profile}", f"system-{profile}.erofs") if profile else ("initramfs", "system.erofs")
    missing = [name for name in names if not os.path.exists(f"{guest_dir}/{name}")] if profile else []
    if missing:
        raise NotFound(
            f"the pod wants the guest profile {profile}, but {guest_dir} has no {' and no '.join(missing)}; "
            f"build it with `images/build {profile}`, where Debian's package {profile} is installed"
        )
    return names
