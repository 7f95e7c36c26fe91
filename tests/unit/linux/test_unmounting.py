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
