# SPDX-License-Identifier: Apache-2.0
"""A netns kept by name, and a thread that visits it. Needs root."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from stage1.errors import KernelError
from stage1.linux import namespace, process
from tests.fakes.patience import PATIENCE


@pytest.fixture
def path() -> Iterator[str]:
    name = f"/run/netns/t-{os.urandom(6).hex()}"
    yield name
    namespace.remove_net(name)


def own() -> str:
    return os.readlink("/proc/thread-self/ns/net")


def test_a_netns_is_made_opened_and_removed_and_the_thread_stays_at_home(path: str) -> None:
    home = own()
    namespace.make_net(path)
    assert own() == home and namespace.is_net(path)
    namespace.remove_net(path)
    namespace.remove_net(path)
    assert not namespace.is_net(path) and not os.path.exists(path)


def test_a_name_that_is_taken_is_refused_and_its_netns_stays(path: str) -> None:
    namespace.make_net(path)
    with pytest.raises(KernelError, match="EEXIST"):
        namespace.make_net(path)
    assert namespace.is_net(path)


def test_inside_a_process_begins_there_and_afterwards_the_thread_is_home(path: str) -> None:
    home = own()
    namespace.make_net(path)
    with namespace.inside_net(path):
        there = own()
        child = process.run(["readlink", "/proc/self/ns/net"], timeout_s=5 * PATIENCE).stdout.decode().strip()
    assert there == child != home == own()


def test_the_thread_comes_home_from_an_error(path: str) -> None:
    home = own()
    namespace.make_net(path)
    with pytest.raises(ZeroDivisionError), namespace.inside_net(path):
        raise ZeroDivisionError
    assert own() == home


def test_a_file_that_keeps_no_netns_can_not_be_entered(path: str) -> None:
    home = own()
    with pytest.raises(KernelError, match="ENOENT"), namespace.inside_net(path):
        pass
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    with pytest.raises(KernelError, match="setns"), namespace.inside_net(path):
        pass
    assert own() == home and not namespace.is_net(path)


def test_a_thread_of_its_own_gives_its_result_or_its_error_and_leaves_ours_alone() -> None:
    ours = own()

    def elsewhere() -> str:
        namespace.unshare(namespace.NEW_NET)
        return own()

    assert namespace.in_thread(elsewhere) != ours == own()
    with pytest.raises(ZeroDivisionError):
        namespace.in_thread(lambda: 1 // 0)


def test_what_is_to_be_done_afterwards_is_not_waited_for() -> None:
    goes_on, saw = threading.Event(), list[int]()

    def then(result: int) -> None:
        goes_on.wait(10 * PATIENCE)
        saw.append(result)

    assert namespace.in_thread(lambda: 7, then=then) == 7 and saw == []
    goes_on.set()
    while not saw:
        time.sleep(0.001)
    assert saw == [7]


APART = """
import subprocess, sys
from stage1.linux import namespace
path, argv = sys.argv[1], ["unshare", "--mount", "--propagation=private", "sh", "-c", "echo up; exec sleep 100"]
with subprocess.Popen(argv, stdout=subprocess.PIPE) as other:
    other.stdout.readline()
    namespace.make_net(path)
    try:
        with namespace.inside_mounts_of(other.pid):
            print(namespace.is_net(path))
        for _ in range(2):
            with namespace.inside_mounts_of(other.pid, net=path):
                print(namespace.is_net(path))
                with namespace.inside_net(path):
                    pass
        print(namespace.is_net(path))
    finally:
        other.kill()
        namespace.remove_net(path)
"""


def test_a_netns_is_kept_in_mounts_that_no_mount_reaches(path: str) -> None:
    done = subprocess.run([sys.executable, "-c", APART, path], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "True", "True", "True"], done.stderr
    assert not os.path.exists(path)
