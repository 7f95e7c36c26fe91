# SPDX-License-Identifier: Apache-2.0
"""The files that a process has open for writing, also after a rename or removal."""

import os
import subprocess
from pathlib import Path

from stage1.linux.open_files import written_blocks

BYTES = 1 << 20


def test_files_that_are_written_count_once_and_removed_ones_too(tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("own", "gone", "read")}
    for path in paths.values():
        path.write_bytes(os.urandom(BYTES))
    script = 'exec 5<>"$1" 6>>"$2" 7>&6 8<"$3" 9<>/dev/null; echo; exec sleep 100'
    argv = ["sh", "-c", script, "-", *map(str, paths.values())]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout and holder.stdout.readline()
            paths["gone"].unlink()
            own = paths["own"].stat()
            assert written_blocks(holder.pid, own.st_dev, but=own.st_ino) * 512 == BYTES
            assert written_blocks(holder.pid, own.st_dev, but=0) * 512 == 2 * BYTES
            assert written_blocks(holder.pid, own.st_dev + 1, but=0) == 0
        finally:
            holder.kill()
    assert written_blocks(holder.pid, own.st_dev, but=0) == 0
