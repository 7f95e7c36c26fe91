# SPDX-License-Identifier: Apache-2.0
"""Datagrams to systemd, and what a configuration that is read again changes."""

import contextlib
import os
import socket
import time
from pathlib import Path

import pytest

from cri import changes, notify
from cri.config import Config, parse
from cri.notify import Notifier
from tests.fakes.notified import Notified
from tests.fakes.patience import PATIENCE


@pytest.mark.parametrize("is_abstract", [False, True])
def test_a_message_is_one_datagram(tmp_path: Path, is_abstract: bool) -> None:
    with Notified(f"@clearpod-{os.getpid()}" if is_abstract else tmp_path / "notify") as systemd:
        environ = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
        notifier = Notifier(environ)
        assert environ == {} and notifier.watchdog_s == 3
        notifier.tell(notify.READY, notify.status("two\nlines"))
        assert systemd.until("READY=1") == ["READY=1", "STATUS=two lines"]
        word, stamp = notify.reloading()
        assert word == "RELOADING=1"
        assert abs(int(stamp.removeprefix("MONOTONIC_USEC=")) / 1e6 - time.clock_gettime(time.CLOCK_MONOTONIC)) < 5


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "1000"},
        {"NOTIFY_SOCKET": "relative"},
        {"NOTIFY_SOCKET": "vsock:2:1234"},
        {"NOTIFY_SOCKET": "/nobody/listens", "WATCHDOG_USEC": "x"},
        {"NOTIFY_SOCKET": "/nobody/listens", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": f"/{'x' * 200}"},
    ],
)
def test_a_missing_listener_is_no_error(environ: dict[str, str]) -> None:
    notifier = Notifier(dict(environ))
    notifier.tell(notify.READY)
    assert notifier.watchdog_s == 0


def test_what_does_not_fit_now_is_sent_later(tmp_path: Path) -> None:
    with Notified(tmp_path / "notify") as systemd, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"X=1", systemd.address)
        notifier = Notifier({"NOTIFY_SOCKET": systemd.address})
        begun = time.monotonic()
        notifier.tell(notify.READY)
        assert time.monotonic() - begun < PATIENCE
        systemd.until("X=1")
        notifier.tell(notify.ALIVE)
        systemd.until("READY=1", 5)


OLD = 'run_dir = "/run/a"\n[vm]\nmemory_mib = 100\n[log]\nlevel = "info"\n'


@pytest.mark.parametrize(
    "new, taken, later",
    [
        (OLD, (), ()),
        (OLD.replace("info", "debug"), ("log.level",), ()),
        (OLD.replace("/run/a", "/run/b"), (), ("run_dir",)),
        (OLD.replace("100", "200\nboot_timeout_s = 1"), ("vm.memory_mib",), ("vm.boot_timeout_s",)),
        (OLD + "[images]\npulls = 1\nlayers = 2\n", ("images.layers",), ("images.pulls",)),
        (OLD + '[[policy.rules]]\nnamespaces = ["a"]\n', ("policy.rules",), ()),
        ('pinned_images = ["x"]\n' + OLD, ("pinned_images",), ()),
    ],
)
def test_what_changes_while_it_runs(new: str, taken: tuple[str, ...], later: tuple[str, ...]) -> None:
    old, expected = parse(OLD), parse(new)
    result = changes.between(old, expected)
    assert (result.taken, result.later) == (taken, later)
    assert not later or all(key in result.sentence() for key in later)
    difference = changes.between(result.config, expected)
    assert difference.taken == () and difference.later == later
    assert changes.between(old, result.config).later == ()


def test_every_key_that_is_live_exists() -> None:
    keys = changes._flat(Config().values())
    for live in (*changes.LIVE, *changes.FIXED):
        assert any(key == live or key.startswith(f"{live}.") for key in keys), live
