# SPDX-License-Identifier: Apache-2.0
"""The guest's program for volumes (images/volumes), in a mount namespace with an empty /run: what a guest has there.

In a real guest: tests/cri/test_guest_volumes.py.
"""

import os
import subprocess
from pathlib import Path

import pytest

from stage1.linux.host import which

IMAGES = Path(__file__).parents[3] / "images"
AGENT = IMAGES / "agent"
NEEDED = ("base/files.c", "base/fault.c", "loop/endpoint.c")
HEADERS = ("/usr/include", f"/usr/include/{os.uname().machine}-linux-gnu")
MAKE = """
mount --make-rprivate /
mount -t tmpfs none /run
mkdir -p /run/clearpod/scratch/of-an-earlier-vm/upper /run/clearpod/scratch/volumes /run/clearpod/containers/c
cd /run/clearpod
bundle=volumes/containers/c
mkdir -p $bundle/mounts/2/..1
"""
NEXT = """
mkdir $bundle/mounts/2/..2
echo two > $bundle/mounts/2/..2/key; echo new > $bundle/mounts/2/..2/new
ln -s ..data/new $bundle/mounts/2/new
ln -s ..2 $bundle/mounts/2/..data_tmp; mv -T $bundle/mounts/2/..data_tmp $bundle/mounts/2/..data
rm -r $bundle/mounts/2/..1 $bundle/mounts/2/old
echo more >> $bundle/mounts/3
"""

SLOW = """
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/mount.h>
#include <unistd.h>
int __real_mkdirat(int, const char *, mode_t);
int __real_mount(const char *, const char *, const char *, unsigned long, const void *);
static void rest(const char *name)
{
    const char *text = getenv(name);
    if (text)
        sleep((unsigned)atoi(text));
}
int __wrap_mkdirat(int above, const char *name, mode_t mode)
{
    rest("MKDIRAT_S");
    return __real_mkdirat(above, name, mode);
}
int __wrap_mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data)
{
    rest("MOUNT_S");
    return __real_mount(source, target, type, flags, data);
}
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not which("musl-gcc"), reason="needs root, and musl-gcc")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled as for the guest."""
    return _compiled(tmp_path_factory.mktemp("volumes"))


@pytest.fixture(scope="module")
def slow_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It sleeps before the calls that the environment names."""
    place = tmp_path_factory.mktemp("slow")
    (place / "slow.c").write_text(SLOW)
    return _compiled(place, place / "slow.c", "-Wl,--wrap=mkdirat,--wrap=mount")


def _compiled(place: Path, *more: str | Path) -> Path:
    for name in ("linux", "asm-generic", "asm"):
        source = next(f"{above}/{name}" for above in reversed(HEADERS) if os.path.exists(f"{above}/{name}"))
        (place / name).symlink_to(source)
    sources = [*(IMAGES / "volumes").glob("*.c"), *(AGENT / name for name in NEEDED)]
    flags = ["-std=c17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-static", f"-I{AGENT}"]
    argv = ["musl-gcc", *flags, "-isystem", place, "-o", place / "volumes", *sources, *more]
    subprocess.run(argv, check=True, timeout=60)
    return place / "volumes"


def _run(program: Path, script: str) -> str:
    argv = ["unshare", "--mount", "sh", "-euc", MAKE + script.replace("PROGRAM", str(program))]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done
    return done.stdout


def test_directories_are_made_once_with_owner_and_mode(program: Path) -> None:
    script = """
    printf 'disk 0 2777 5 2000 data\\ndisk 1 2777 5 2000 data/a b/c\\n' > $bundle/guest_volumes
    PROGRAM make c
    stat -c %a:%u:%g containers/c/volumes/0 containers/c/volumes/1
    echo kept > containers/c/volumes/1/file; chmod 700 containers/c/volumes/0
    while [ -e scratch/of-an-earlier-vm ]; do sleep 0.02; done
    umount containers/c/volumes/0 containers/c/volumes/1
    PROGRAM make c
    cat "scratch/volumes/data/a b/c/file" "containers/c/volumes/0/a b/c/file"; stat -c %a scratch/volumes/data
    """
    assert _run(program, script).split() == ["2777:5:2000", "2777:5:2000", "kept", "kept", "2700"]


def test_a_tmpfs_is_mounted_once_with_owner_mode_and_size_and_resized_at_any_place(program: Path) -> None:
    script = """
    mkdir -p containers/d volumes/containers/d
    printf 'tmpfs 0 1048576 2777 5 2000 mem\\ntmpfs 1 1048576 2777 5 2000 mem/a b/c\\n' > $bundle/guest_volumes
    echo 'tmpfs 0 9999 700 0 0 mem' > volumes/containers/d/guest_volumes
    PROGRAM make c; PROGRAM make d
    stat -c %a:%u:%g containers/c/volumes/0 containers/c/volumes/1
    echo kept > containers/d/volumes/0/file; cat containers/c/volumes/0/file
    stat -f -c %T:%S:%b containers/d/volumes/0
    dd if=/dev/zero of=containers/c/volumes/0/big bs=64k count=4 2>/dev/null
    printf 'tmpfs 1 2097152 2777 5 2000 another/a b/c\\n' > $bundle/guest_volumes
    PROGRAM refresh c; PROGRAM refresh c
    stat -f -c %b containers/d/volumes/0
    printf 'tmpfs 1 4096 2777 5 2000 mem/a b/c\\n' > $bundle/guest_volumes
    if PROGRAM refresh c; then exit 9; fi
    stat -f -c %b containers/d/volumes/0; cat volumes.log
    """
    *seen, error = _run(program, script).splitlines()
    assert seen == ["2777:5:2000", "2777:5:2000", "kept", "tmpfs:4096:256", "512", "512"]
    assert "mem" in error and "4096 bytes" in error


@pytest.mark.parametrize(
    ("line", "above"), [("disk 0 777 0 0 data", "scratch/volumes"), ("tmpfs 0 1048576 777 0 0 data", "memory")]
)
def test_of_two_containers_that_come_at_once_none_loses_its_directory(
    slow_program: Path, line: str, above: str
) -> None:
    """One is about to make it when the other has made it, and has yet to bind it."""
    script = """
    mkdir -p containers/d volumes/containers/d
    echo "LINE" | tee $bundle/guest_volumes > volumes/containers/d/guest_volumes
    MKDIRAT_S=1 PROGRAM make c & one=$!
    sleep 0.3
    MOUNT_S=2 PROGRAM make d & other=$!
    wait $one; wait $other
    touch containers/c/volumes/0/c containers/d/volumes/0/d
    ls -A ABOVE ABOVE/data
    """
    seen = _run(slow_program, script.replace("LINE", line).replace("ABOVE", above)).split()
    assert seen == [f"{above}:", "data", f"{above}/data:", "c", "d"]


def test_a_new_version_is_switched_to_in_one_step_and_the_old_one_goes(program: Path) -> None:
    script = f"""
    echo one > $bundle/mounts/2/..1/key; echo old > $bundle/mounts/2/..1/old; chmod 440 $bundle/mounts/2/..1/key
    ln -s ..1 $bundle/mounts/2/..data; ln -s ..data/key $bundle/mounts/2/key; ln -s ..data/old $bundle/mounts/2/old
    echo hosts > $bundle/mounts/3
    printf 'memory 0 2 8388608\\nmemory 1 3 4096\\n' > $bundle/guest_volumes
    PROGRAM make c
    at=containers/c/volumes
    cat $at/0/key $at/0/old $at/1/file; stat -L -c %a $at/0/key; stat -c %i $at/0/..1
    {NEXT}
    PROGRAM refresh c
    ls -A $at/0; cat $at/0/key $at/1/file
    stat -c %Y $at/0/..2/key > before; PROGRAM refresh c; stat -c %Y $at/0/..2/key | cmp - before
    """
    one, old, hosts, mode, _, *rest = _run(program, script).split()
    assert (one, old, hosts, mode) == ("one", "old", "hosts", "440")
    assert rest == ["..2", "..data", "key", "new", "two", "hosts", "more"]


@pytest.mark.parametrize(
    ("line", "before", "noun"),
    [
        ("disk 0 777 0 0 data/out/x", "mkdir scratch/volumes/data; ln -s /etc scratch/volumes/data/out", "data/out/x"),
        ("disk 0 777 0 0 link", "ln -s /etc scratch/volumes/link", "link"),
        ("memory 0 2 3", "echo long > $bundle/mounts/2/file", "at most 3 bytes"),
        ("memory 0 7 100", "true", "mounts/7"),
        ("disk 0 data", "true", "no volume"),
        ("tmpfs 0 x 777 0 0 mem", "true", "no volume"),
        ("tmpfs 0 4096 mem", "true", "no volume"),
        ("limited 0 x 777 0 0 data", "true", "no volume on a partition"),
        ("limited 0 5 777 0 0 data", "true", "no partitions"),
        ("limited 0 5 777 0 0 data", "mount -t tmpfs /dev/none1 scratch", "partition /dev/none5"),
    ],
)
def test_what_can_not_be_made_is_one_sentence(program: Path, line: str, before: str, noun: str) -> None:
    script = f"""
    {before}
    echo '{line}' > $bundle/guest_volumes
    if PROGRAM make c; then exit 9; fi
    cat volumes.log; test ! -e /etc/x
    """
    text = _run(program, script)
    assert noun in text and "\n" not in text


@pytest.mark.parametrize(
    "change",
    ["rm $bundle/mounts/3", "rm $bundle/mounts/3; mkfifo $bundle/mounts/3", "truncate -s 1G $bundle/mounts/3",
     "rm $bundle/mounts/3; mknod $bundle/mounts/3 c 1 5"],
)  # fmt: skip
def test_one_that_can_not_be_copied_any_more_keeps_no_other_from_it(program: Path, change: str) -> None:
    script = f"""
    echo one > $bundle/mounts/2/file; echo hosts > $bundle/mounts/3; touch $bundle/mounts/4
    printf 'memory 0 3 4096\nmemory 1 2 4096\noutput 2 4 4096\n' > $bundle/guest_volumes
    PROGRAM make c
    at=containers/c/volumes
    echo two > $bundle/mounts/2/file; echo ended > $at/2/file
    {change}
    if timeout 20 PROGRAM refresh c; then exit 9; fi
    cat $at/1/file $bundle/mounts/4; grep -o mounts/3 volumes.log
    """
    assert _run(program, script).split() == ["two", "ended", "mounts/3"]


def test_an_output_never_blocks(program: Path) -> None:
    script = """
    touch $bundle/mounts/4
    printf 'output 0 4 8\n' > $bundle/guest_volumes
    PROGRAM make c
    rm $bundle/mounts/4; mkfifo $bundle/mounts/4
    if timeout 20 PROGRAM refresh c; then exit 9; fi
    grep -o mounts/4 volumes.log
    """
    assert "mounts/4" in _run(program, script)


def test_an_output_goes_to_the_host_when_it_is_refreshed_and_not_before(program: Path) -> None:
    script = """
    printf begin > $bundle/mounts/2.log; chmod 666 $bundle/mounts/2.log; mv $bundle/mounts/2.log $bundle/mounts/4
    printf 'output 0 4 8\n' > $bundle/guest_volumes
    PROGRAM make c
    at=containers/c/volumes/0/file
    cat $at; stat -c :%a $at
    printf 'abc' > $at; cat $bundle/mounts/4; echo
    PROGRAM refresh c
    cat $bundle/mounts/4; echo
    printf '0123456789' > $at; PROGRAM refresh c; PROGRAM refresh c
    cat $bundle/mounts/4; echo; cat $at
    """
    assert _run(program, script).split() == ["begin:666", "begin", "abc", "23456789", "0123456789"]
