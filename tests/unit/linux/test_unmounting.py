# SPDX-License-Identifier: Apache-2.0
"""stage1.rootfs.unmounting against the real kernel."""

from collections.abc import Callable

InNamespace = Callable[[str], str]


def test_all_mounts_of_a_pod_go_in_one_thread_and_no_others(in_namespace: InNamespace) -> None:
    code = """
import threading
from stage1.rootfs import unmounting
for d in ("/pod", "/beside"):
    os.mkdir(T + d)
for d in ("/pod/a", "/pod/a/b c", "/pod/a/b c/d", "/pod/e", "/beside/f"):
    os.mkdir(T + d)
    mount.mount("x", T + d, "tmpfs")
mount.mount("again", T + "/pod/e", "tmpfs")
begun, start = [], threading.Thread.start
threading.Thread.start = lambda thread: (begun.append(thread), start(thread))[1]
here = os.getcwd()
unmounting.below(T + "/pod")
unmounting.below(T + "/pod")
print(len(begun), os.getcwd() == here, mount.mounts_below(T + "/pod"), len(mount.mounts_below(T + "/beside")))
"""
    assert in_namespace(code) == "1 True [] 1"


PODS = """
from stage1.rootfs import unmounting
for d in ("/pods/a/tree/x", "/pods/a/share", "/pods/b/tree", "/pods/b/share", "/all"):
    os.makedirs(T + d)
for pod in ("/pods/a", "/pods/b"):
    mount.bind(T + pod + "/tree", T + pod + "/share")
    mount.set_propagation(T + pod + "/share", mount.MS_SHARED)
mount.mount("image", T + "/pods/a/share/x", "tmpfs")
"""
COPY = """
mount.bind("/", T + "/all", recursive=True)
mount.set_propagation(T + "/all", mount.MS_PRIVATE | mount.MS_REC)
"""


def test_a_pod_is_removed_although_the_hosts_tree_was_bound_to_another_place_with_it(in_namespace: InNamespace) -> None:
    code = (
        """
open(T + "/pods/a/shifted", "x").close()
mount.bind("/proc/self/ns/user", T + "/pods/a/shifted")
"""
        + """
unmounting.points(T + "/pods/a", ("share", "shifted", "none"))
try:
    files.remove_tree(T + "/pods/a")
except KernelError as error:
    print(error.errno)
unmounting.remove(T + "/pods/a")
print(os.listdir(T + "/pods"), len(mount.mounts_below(T + "/all" + T + "/pods")), len(mount.mounts_below(T + "/pods")))
"""
    )
    made, _, rest = code.partition("\n\n")
    assert in_namespace(PODS + made + COPY + rest) == "16\n['b'] 1 1"


def test_no_table_of_mounts_is_read_for_a_pod_unless_something_is_in_the_way(in_namespace: InNamespace) -> None:
    code = """
seen = []
sys.addaudithook(lambda event, args: seen.append(args[0]) if event == "open" and "mountinfo" in str(args[0]) else None)
unmounting.points(T + "/pods/a", ("share",))
unmounting.remove(T + "/pods/a")
print(seen, os.listdir(T + "/pods"))
mount.mount("unknown", T + "/pods/b/tree", "tmpfs")
unmounting.points(T + "/pods/b", ("share",))
unmounting.remove(T + "/pods/b")
print(len(seen) > 0, os.listdir(T + "/pods"))
"""
    assert in_namespace(PODS + code) == "[] ['b']\nTrue []"


def test_what_is_removed_out_of_a_living_pod_is_taken_off_its_copies(in_namespace: InNamespace) -> None:
    """The image of a container, a container's own directory with a volume, and a network namespace."""
    code = (
        """
from stage1 import engine
from stage1.rootfs import export
from stage1.rootfs.share import ImageFiles
pod, name = T + "/pods/a", "1" * 64
for d in (f"/tree/layers/{name}", "/tree/volumes/containers/c/mounts/0", "/images"):
    os.makedirs(pod + d)
mount.mount("image", f"{pod}/share/layers/{name}", "tmpfs")
mount.mount("volume", f"{pod}/share/volumes/containers/c/mounts/0", "tmpfs")
os.mkdir(T + "/netns")
namespace.make_net(T + "/netns/n")
"""
        + COPY
        + """
export.remove_image(pod, ImageFiles("sha256:" + name, "", (), ""))
engine.remove_container(pod, "c")
namespace.remove_net(T + "/netns/n")
print(os.listdir(pod + "/tree/layers"), os.listdir(pod + "/tree/volumes/containers"), os.listdir(T + "/netns"))
print(mount.is_mounted(f"{T}/all{pod}/share/x"))
"""
    )
    assert in_namespace(PODS + code) == "[] [] []\nTrue"


def test_a_mount_on_a_file_is_known_as_well_and_what_is_none(in_namespace: InNamespace) -> None:
    code = """
open(T + "/file", "x").close()
os.mkdir(T + "/d")
os.symlink(T, T + "/link")
before = [mount.is_mounted(T + one) for one in ("/file", "/d", "/link", "/none")]
mount.bind(T + "/file", T + "/file")
mount.bind(T + "/d", T + "/d")
print(before, [mount.is_mounted(T + one) for one in ("/file", "/d", "")])
"""
    assert in_namespace(code) == "[False, False, False, False] [True, True, True]"


def test_what_others_have_mounted_elsewhere_stays(in_namespace: InNamespace) -> None:
    """Also what is bound from the pod's directory, which does not keep it, and mounts on places of the same name."""
    code = (
        """
for d in ("/x/pods/a/tree", "/y"):
    os.makedirs(T + d)
mount.mount("others", T + "/x/pods/a/tree", "tmpfs")
mount.bind(T + "/pods/a/tree", T + "/y")
"""
        + COPY
        + """
unmounting.points(T + "/pods/a", ("share",))
unmounting.remove(T + "/pods/a")
print([mount.is_mounted(T + d) for d in ("/x/pods/a/tree", "/y", f"/all{T}/x/pods/a/tree", "/all")])
"""
    )
    assert in_namespace(PODS + code) == "[True, True, True, True]"


def test_a_file_that_something_is_mounted_on_is_not_removed(in_namespace: InNamespace) -> None:
    code = """
open(T + "/file", "x").close()
mount.bind(T + "/file", T + "/file")
for remove in (files.remove_tree, files.remove_unmounted):
    try:
        remove(T + "/file")
    except KernelError as error:
        print(error.errno, os.listdir(T))
"""
    assert in_namespace(code) == "16 ['file']\n16 ['file']"
