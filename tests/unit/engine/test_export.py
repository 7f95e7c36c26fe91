# SPDX-License-Identifier: Apache-2.0
"""What a guest sees besides an image that is mounted for it."""

from pathlib import Path

import pytest

from stage1 import engine
from stage1.rootfs import export, layout
from stage1.rootfs.share import ImageFiles
from tests.fakes.oci_layout import Entry, digest, file, tar
from tests.unit.engine.test_engine import POD, host
from tests.unit.rootfs.test_merge import CAPABLE, IMAGE_ID, merged

__all__ = ["host"]

PLAIN, CAPABLE_FILE = file("bin/true"), file("bin/ping", xattrs=CAPABLE)


@pytest.mark.parametrize(("entry", "listed"), [(PLAIN, False), (CAPABLE_FILE, True)])
def test_a_guest_gets_a_list_of_capabilities_only_where_there_are_some(
    entry: Entry, listed: bool, host: engine.Host, tmp_path: Path
) -> None:
    out = merged(tmp_path, [entry])
    layer = layout.layer_path(f"{tmp_path}/layers", digest(tar([entry])))
    image = ImageFiles(IMAGE_ID, (layer,), f"{out}/merged.erofs", f"{out}/config.json")
    directory = engine.prepare(POD, host).directory
    try:
        name = export.add_image(directory, image)
        seen = {path.name for path in Path(directory, "tree/layers").iterdir()}
        assert seen == {name, *([f"{name}.filecaps"] if listed else [])}
        export.remove_image(directory, image)
        assert list(Path(directory, "tree/layers").iterdir()) == []
    finally:
        engine.clean_up(directory)
