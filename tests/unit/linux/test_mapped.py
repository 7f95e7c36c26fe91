# SPDX-License-Identifier: Apache-2.0
"""Pages of files are unmapped, pages that differ from their file never are. In a process of its own."""

import resource
import subprocess
import sys

from stage1.linux import mapped
from tests.fakes.patience import PATIENCE

RELEASED = """
import hashlib, mmap, os, ssl, sys, tempfile
from stage1.linux import mapped

def of_files():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[2]) * mmap.PAGESIZE

with tempfile.TemporaryFile() as file:
    file.write(b"a" * 3 * mmap.PAGESIZE)
    file.flush()
    changed = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    changed[mmap.PAGESIZE] = ord("b")
    shared = mmap.mmap(file.fileno(), 0)
    before = of_files()
    mapped.release()
    after = of_files()
    assert changed[mmap.PAGESIZE - 1 : mmap.PAGESIZE + 2] == b"aba", "the copy"
    shared[0] = ord("c")
    assert os.pread(file.fileno(), 1, 0) == b"c"
for _ in range(3):
    mapped.release()
hashlib.sha256(b"x" * 100_000).hexdigest(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # code and data come back
print(before, after)
"""

SMAPS = """\
00400000-00401000 r--p 00000000 08:01 17 /usr/bin/python3.13
Rss:                   4 kB
Anonymous:             0 kB
00401000-00405000 r-xp 00001000 08:01 17 /usr/bin/python3.13
Anonymous:             0 kB
00405000-00406000 r--p 00005000 08:01 17 /usr/bin/a relocated library
Anonymous:             4 kB
00406000-00407000 rw-p 00006000 08:01 17 /usr/bin/python3.13
Anonymous:             0 kB
00407000-00408000 r--s 00000000 08:01 18 /usr/lib/gconv-modules.cache
Anonymous:             0 kB
00408000-00409000 r--p 00000000 00:00 0
Anonymous:             0 kB
7ffe0000-7fff1000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
7fff2000-7fff4000 r-xp 00000000 08:01 19 /a name with  spaces (deleted)
Anonymous:             0 kB
"""


def test_pages_of_files_are_unmapped_and_come_back_and_changed_ones_stay() -> None:
    argv = [sys.executable, "-c", RELEASED]
    ended = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30 * PATIENCE)
    before, after = map(int, ended.stdout.split())
    assert after < before / 2


def test_only_private_files_that_nobody_can_write_to_and_nobody_has_changed_are_released() -> None:
    found = [*mapped._unchanged(SMAPS.splitlines(keepends=True))]
    assert found == [(0x400000, 0x401000), (0x401000, 0x405000), (0x7FFF2000, 0x7FFF4000)]


def test_a_process_without_a_free_descriptor_keeps_its_pages_and_goes_on() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
    try:
        mapped.release()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
