# SPDX-License-Identifier: Apache-2.0
"""The sample image, which comes with the guest and needs no registry. Used by `run` and `check`."""

import os

from stage1.errors import NotFound


def reference(guest_dir: str) -> str:
    """Return the reference of the sample image, as `clearpod run` takes it. Raises NotFound."""
    layout = f"{guest_dir}/sample"
    if not os.path.exists(layout):
        raise NotFound(f"there is no sample image in {guest_dir}; build it with `clearpod images build`")
    return f"oci:{layout}:sample"
