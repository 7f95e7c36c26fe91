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


def test_a_pod_is_removed_although_the_hosts_tree_was_bound_to_another_place_with_it(in_namespace: InNamespace) -> None:
    code = """
from stage1.rootfs import unmounting
for d in ("/pods/a/tree/x", "/pods/a/share", "/pods/b/tree", "/pods/b/share", "/all"):
    os.makedirs(T + d)
for pod in ("/pods/a", "/pods/b"):
    mount.bind(T + pod + "/tree", T + pod + "/share")
    mount.set_propagation(T + pod + "/share", mount.MS_SHARED)
mount.mount("image", T + "/pods/a/share/x", "tmpfs")
mount.bind("/", T + "/all", recursive=True)
unmounting.below(T + "/pods/a")
try:
    files.remove_tree(T + "/pods/a")
except KernelError as error:
    print(error.errno)
unmounting.remove(T + "/pods/a")
print(os.listdir(T + "/pods"), len(mount.bound_from(T + "/pods/b/tree")))
"""
    assert in_namespace(code) == "16\n['b'] 2"


def test_a_pod_in_use_for_another_reason_is_not_removed(in_namespace: InNamespace) -> None:
    code = """
from stage1.rootfs import unmounting
for d in ("/pods", "/pods/a", "/pods/a/tree"):
    os.mkdir(T + d)
mount.mount("other", T + "/pods/a/tree", "tmpfs")
try:
    unmounting.remove(T + "/pods/a")
except KernelError as error:
    print(error.errno, os.listdir(T + "/pods/a"))
"""
    assert in_namespace(code) == "16 ['tree']"
