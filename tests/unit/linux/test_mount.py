# SPDX-License-Identifier: Apache-2.0
"""stage1.linux.mount against the real kernel."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stage1.errors import KernelError
from stage1.linux import mount

InNamespace = Callable[[str], str]


def test_a_bind_shows_the_source_and_goes_away(in_namespace: InNamespace) -> None:
    code = """
os.mkdir(T + "/a"); os.mkdir(T + "/b, c"); open(T + "/a/f", "w").close()
mount.bind(T + "/a", T + "/b, c")
print(os.listdir(T + "/b, c"), mount.is_mount_point(T + "/b, c"), mount.is_mount_point(T + "/a"))
mount.umount(T + "/b, c")
print(os.listdir(T + "/b, c"), mount.mounts_below(T) == [T])
"""
    assert in_namespace(code) == "['f'] True False\n[] True"


@pytest.mark.parametrize("recursive", [False, True])
def test_a_read_only_bind_refuses_writes_and_the_source_still_takes_them(
    in_namespace: InNamespace, recursive: bool
) -> None:
    code = f"""
for d in ("/a", "/a/sub", "/b"): os.mkdir(T + d)
mount.mount("s", T + "/a/sub", "tmpfs")
mount.bind(T + "/a", T + "/b", recursive={recursive}, read_only=True)
for path in ("/a/f", "/b/f", "/b/sub/f"):
    try: open(T + path, "w").close(); print("ok")
    except OSError as e: print(e.errno)
"""
    assert in_namespace(code).split() == ["ok", "30", "30"]


def test_a_bind_that_fails_midway_leaves_no_mount(in_namespace: InNamespace) -> None:
    code = """
from stage1.linux import libc
for d in ("/a", "/b"): os.mkdir(T + d)
libc.NR_MOUNT_SETATTR = 100000
try: mount.bind(T + "/a", T + "/b", read_only=True)
except PodError as e: print(e)
print(mount.mounts_below(T + "/b"))
"""
    output, left = in_namespace(code).splitlines()
    assert "mount_setattr: read-only" in output
    assert "ENOSYS" in output
    assert left == "[]"


def test_mounts_below_are_listed_deepest_first_and_not_the_siblings(in_namespace: InNamespace) -> None:
    code = r"""
for d in ("/p", "/p/q r", "/p/q r/s\\040\t", "/pp"): os.mkdir(T + d); mount.mount("x", T + d, "tmpfs")
mount.mount("again", T + "/p", "tmpfs")
print([p[len(T):] for p in mount.mounts_below(T + "/p")])
mount.umount(T + "/p")
for p in mount.mounts_below(T + "/p"): mount.umount(p)
print(mount.mounts_below(T + "/p"), mount.is_mount_point(T + "/pp"))
"""
    first, last = in_namespace(code).splitlines()
    assert first == repr(["/p/q r/s\\040\t", "/p/q r", "/p", "/p"])
    assert last == "[] True"


def test_a_mount_point_may_have_any_name(in_namespace: InNamespace) -> None:
    code = r"""
for name in (b"a b", b"tab\tnew\nline", b"back\\slash", b"\\040", b"#\xff"):
    point = T + "/" + os.fsdecode(name)
    os.mkdir(point)
    mount.mount("x", point, "tmpfs")
    print(mount.is_mount_point(point), mount.mounts_below(point) == [point])
"""
    assert in_namespace(code).splitlines() == ["True True"] * 5


def test_a_busy_mount_needs_lazy(in_namespace: InNamespace) -> None:
    code = """
os.mkdir(T + "/m"); mount.mount("x", T + "/m", "tmpfs")
held = open(T + "/m/f", "w")
try: mount.umount(T + "/m")
except PodError as e: print(e.errno)
mount.umount(T + "/m", lazy=True)
print(mount.mounts_below(T + "/m"))
"""
    assert in_namespace(code).splitlines() == ["16", "[]"]


def test_remove_tree_refuses_a_tree_with_a_mount_and_touches_nothing(in_namespace: InNamespace) -> None:
    code = """
os.makedirs(T + "/tree/a/m"); os.mkdir(T + "/volume")
for f in ("/tree/1", "/volume/precious"): open(T + f, "w").close()
mount.bind(T + "/volume", T + "/tree/a/m")
for victim in ("/tree", "/tree/a/m"):
    try: files.remove_tree(T + victim)
    except PodError as e: print("still mounted" in str(e))
print(os.path.exists(T + "/tree/1"), os.path.exists(T + "/volume/precious"))
files.mounts_below = lambda path: []    # a mount that appears after the first look
try: files.remove_tree(T + "/tree")
except PodError as e: print(e.errno)
print(os.path.exists(T + "/volume/precious"))
"""
    assert in_namespace(code).splitlines() == ["True", "True", "True True", "18", "True"]


@pytest.mark.parametrize(
    ("code", "errno"),
    [
        ('mount.mount("x", T + "/absent", "tmpfs")', "ENOENT"),
        ('mount.mount("x", T, "nosuchfs")', "ENODEV"),
        ('mount.mount("x", T, "tmpfs", 0, "size=lots")', "EINVAL"),
        ('mount.bind(T + "/absent", T)', "ENOENT"),
        ('os.mkdir(T + "/d"); mount.umount(T + "/d")', "EINVAL"),
        ('mount.set_propagation(T + "/absent", mount.MS_SHARED)', "ENOENT"),
        ('os.setgroups([]); os.setgid(65534); os.setuid(65534); mount.mount("x", "/tmp", "tmpfs")', "EPERM"),
    ],
)
def test_a_failing_mount_names_the_object_and_the_reason(in_namespace: InNamespace, code: str, errno: str) -> None:
    output = in_namespace(f"try: {code}\nexcept PodError as e: print(isinstance(e, KernelError), e)")
    assert output.startswith("True ")
    assert errno in output
    assert "/" in output


def test_an_unreadable_file_is_reported(in_namespace: InNamespace) -> None:
    code = """
files.write_atomic(T + "/private", b"x"); os.chmod(T, 0o755)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try: files.read(T + "/private")
except PodError as e: print(e)
"""
    assert "EACCES" in in_namespace(code)


def test_a_missing_mount_point_is_none(tmp_path: Path) -> None:
    assert not mount.is_mount_point(str(tmp_path / "absent"))
    assert mount.mounts_below(str(tmp_path / "absent")) == []
    assert mount.is_mount_point("/proc")


def test_umount_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc")
    with pytest.raises(KernelError):
        mount.umount(str(tmp_path / "link"))
    assert mount.is_mount_point("/proc")


def test_a_copied_tree_can_be_attached_in_another_namespace_and_the_host_may_clear_away_its_own(
    in_namespace: InNamespace,
) -> None:
    code = """
from stage1.linux import process
for d in ("/a", "/a/sub", "/b"): os.mkdir(T + d)
mount.mount("s", T + "/a/sub", "tmpfs"); open(T + "/a/sub/f", "w").close()
other = process.spawn(["/bin/unshare", "--mount", "--propagation=slave", "--", "sleep", "60"])
while os.readlink(f"/proc/{other}/ns/mnt") == os.readlink("/proc/self/ns/mnt"): pass
fd = mount.open_tree(T + "/a")
namespace.in_mounts_of(other, lambda: mount.move_tree(fd, T + "/b"))
os.close(fd)
print(os.listdir(T + "/b"), namespace.in_mounts_of(other, lambda: os.listdir(T + "/b/sub")))
print(len(mount.mounts_below(T + "/b")), namespace.in_mounts_of(other, lambda: len(mount.mounts_below(T + "/b"))))
mount.umount(T + "/a/sub"); os.rmdir(T + "/a/sub")
try: namespace.in_mounts_of(other, lambda: mount.umount(T + "/nothing"))
except FileNotFoundError as e: print("raised here")
os.kill(other, 9); os.waitpid(other, 0)
try: namespace.in_mounts_of(other, list)
except FileNotFoundError: print("gone")
"""
    assert in_namespace(code) == "[] ['f']\n0 2\nraised here\ngone"


def test_mounts_that_a_process_could_have_made_up_are_not_entered(in_namespace: InNamespace) -> None:
    code = """
from stage1.linux import process
other = process.spawn(["/bin/unshare", "--user", "--map-root-user", "--mount", "--", "sleep", "60"])
while os.readlink(f"/proc/{other}/ns/mnt") == os.readlink("/proc/self/ns/mnt"): pass
try: namespace.in_mounts_of(other, lambda: print("was there"))
except KernelError as e: print(e)
os.kill(other, 9); os.waitpid(other, 0)
"""
    output = in_namespace(code)
    assert "belongs to another user namespace: Operation not permitted (EPERM)" in output
    assert "was there" not in output


def test_a_new_file_system_is_nowhere_until_it_is_moved(in_namespace: InNamespace) -> None:
    code = """
os.mkdir(T + "/b, c")
flags = mount.MS_RDONLY | mount.MS_NODEV | mount.MS_NOSUID | mount.MS_NOEXEC
fd = mount.new("tmpfs", flags, [("size", "64k"), ("source", "a name")])
print(mount.mounts_below(T + "/b, c"))
mount.move_tree(fd, T + "/b, c"); os.close(fd)
line = next(line for line in open("/proc/self/mountinfo") if "a\\\\040name" in line)
print(sorted(set(line.split()[5].split(",")) & {"ro", "nodev", "nosuid", "noexec"}), mount.type_of(T + "/b, c"))
try: open(T + "/b, c/f", "w")
except OSError as e: print(e.errno)
for kind, options in (("no-such-fs", []), ("tmpfs", [("no-such-option", "1")])):
    before = len(os.listdir("/proc/self/fd"))
    try: mount.new(kind, 0, options)
    except PodError as e: print(kind in str(e), len(os.listdir("/proc/self/fd")) == before)
"""
    assert in_namespace(code).splitlines() == [
        "[]",
        "['nodev', 'noexec', 'nosuid', 'ro'] tmpfs",
        "30",
        "True True",
        "True True",
    ]


def test_memory_that_can_be_written_is_counted_once(in_namespace: InNamespace) -> None:
    code = """
for d in ("/v", "/v/a", "/v/b c", "/v/ro", "/v/twin", "/beside", "/v/all"): os.mkdir(T + d)
mount.mount("x", T + "/v/a", "tmpfs", 0, "size=1m")
mount.bind(T + "/v/a", T + "/v/twin")
mount.mount("x", T + "/v/b c", "tmpfs", 0, "size=2m")
mount.mount("x", T + "/v/ro", "tmpfs", mount.MS_RDONLY, "size=4m")
mount.mount("x", T + "/beside", "tmpfs", 0, "size=8m")
print(mount.memory_bytes(T + "/v/") >> 20, mount.memory_bytes(T + "/none/"))
mount.mount("x", T + "/v/all", "tmpfs", 0, "size=0")
print(mount.memory_bytes(T + "/v/") - (3 << 20) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
"""
    assert in_namespace(code).splitlines() == ["3 0", "True"]


def test_the_type_is_that_of_the_mount_that_a_path_is_on(in_namespace: InNamespace) -> None:
    code = """
os.mkdir(T + "/p"); os.mkfifo(T + "/fifo")
mount.mount("x", T + "/p", "proc")
print(mount.type_of(T + "/p/self"), mount.type_of(T + "/fifo"), mount.type_of("/dev/null"))
try: mount.type_of(T + "/none")
except PodError as e: print("ENOENT" in str(e))
"""
    kinds, missing = in_namespace(code).splitlines()
    assert kinds.split()[:2] == ["proc", "tmpfs"] and missing == "True"


@pytest.mark.parametrize("statmount", ["", "libc.NR_STATMOUNT = 100000"], ids=["by itself", "before Linux 6.8"])
def test_a_mount_is_shared_or_not_whatever_is_around_it(in_namespace: InNamespace, statmount: str) -> None:
    code = f"""
from stage1.linux import libc
{statmount}
for d in ("/p", "/p/q"): os.mkdir(T + d); mount.mount("x", T + d, "tmpfs")
for outer, inner in ((mount.MS_SHARED, mount.MS_PRIVATE), (mount.MS_PRIVATE, mount.MS_SHARED)):
    mount.set_propagation(T + "/p", outer); mount.set_propagation(T + "/p/q", inner)
    print(*(mount.is_shared(os.open(T + p, os.O_PATH)) for p in ("/p", "/p/q")))
"""
    assert in_namespace(code) == "True False\nFalse True"


def test_the_options_of_an_overlay_are_those_of_the_topmost_at_just_that_path(in_namespace: InNamespace) -> None:
    code = r"""
for d in ("/l", "/m", "/u", "/w", "/o x", "/m/y"): os.mkdir(T + d)
print(mount.overlay_options(T + "/o x"))
for lower in ("/l", "/m"):
    mount.mount("o", T + "/o x", "overlay", data=f"lowerdir={T}{lower},upperdir={T}/u,workdir={T}/w")
mount.mount("t", T + "/o x/y", "tmpfs")
print(mount.overlay_options(T + "/o x")["lowerdir"].removeprefix(T), mount.overlay_options(T + "/o x/y"))
"""
    assert in_namespace(code).splitlines() == ["None", "/m None"]
