# SPDX-License-Identifier: Apache-2.0
"""Built once, kept by its inputs, never half made."""

import io
import os
import queue
import re
import subprocess
import sys
import threading

import pytest

from tests.fakes.builders import cache, progress, tools
from tests.fakes.patience import PATIENCE


def fill(text: str):
    return lambda out: (out / "file").write_text(text) and None


def test_the_same_key_is_built_once(tmp_path):
    first = cache.built(tmp_path, "kind", "k", fill("1"))
    assert cache.built(tmp_path, "kind", "k", fill("2")) == first == tmp_path / "kind" / "k"
    assert (first / "file").read_text() == "1"


def test_two_builders_at_once_do_the_work_once(tmp_path):
    calls, go = [], threading.Event()

    def slow(out):
        calls.append(out)
        go.wait(5 * PATIENCE)

    threads = [threading.Thread(target=cache.built, args=(tmp_path, "kind", "k", slow)) for _ in range(3)]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(10 * PATIENCE)
    assert len(calls) == 1 and (tmp_path / "kind" / "k").is_dir()


def test_a_build_that_fails_leaves_nothing_behind(tmp_path):
    def fail(out):
        (out / "half").write_text("half")
        raise cache.BuildFailed("no")

    with pytest.raises(cache.BuildFailed):
        cache.built(tmp_path, "kind", "k", fail)
    assert [path.name for path in (tmp_path / "kind").iterdir()] == ["k.lock"]


def test_what_a_killed_builder_left_is_removed_but_not_what_a_living_one_builds(tmp_path):
    kind = tmp_path / "kind"
    for name in ("dead.new", "alive.new"):
        (kind / name).mkdir(parents=True)
    holder = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('held', flush=True); input()"
    argv = [sys.executable, "-c", holder, str(kind / "alive.lock")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        cache.built(tmp_path, "kind", "k", fill("1"))
        assert sorted(path.name for path in kind.iterdir() if path.is_dir()) == ["alive.new", "k"]
        other.communicate("\n")


@pytest.mark.parametrize(
    "a, b, same",
    [
        (["x"], ["x"], True),
        (["x", "y"], ["xy"], False),
        (["x", ""], ["x"], False),
        ([b"x"], ["x"], True),
        ([], [], True),
        ([], [""], False),
    ],
)
def test_the_hash_depends_on_each_input(a, b, same):
    assert (cache.hash_of(a) == cache.hash_of(b)) is same


def test_the_hash_sees_the_content_of_files_and_folders(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "f").write_text("1")
    before = cache.hash_of([tmp_path])
    (tmp_path / "sub" / "f").write_text("2")
    assert cache.hash_of([tmp_path]) != before


def test_publishing_the_same_bytes_again_touches_nothing(tmp_path):
    source, target = tmp_path / "a", tmp_path / "new" / "b"
    source.write_text("1")
    assert cache.publish(source, target) is True
    inode = target.stat().st_ino
    assert cache.publish(source, target) is False and target.stat().st_ino == inode
    source.write_text("2")
    assert cache.publish(source, target) is True and os.listdir(target.parent) == ["b"]


def test_a_missing_program_is_reported_with_the_command_that_installs_it():
    with pytest.raises(cache.BuildFailed, match=r"missing: /no/such\.h no-such-1 no-such-2; .*recommends d1 d2$"):
        tools.need({"no-such-1": "d1", "no-such-2": "d2", "sh": "dash"}, {"/no/such.h": "d2", "/": "base-files"})


def test_a_program_that_fails_is_quoted():
    with pytest.raises(cache.BuildFailed, match="exit status 3:\nwhy"):
        tools.run(["sh", "-c", "echo why >&2; exit 3"])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("done, percents", [(0, {0}), (5, {50}), (10, {99}), (25, {99})])
@pytest.mark.parametrize("is_whole", [True, False])
def test_progress_ends_at_100_percent_when_it_is_over_and_never_before(monkeypatch, done, percents, is_whole):
    monkeypatch.setattr("lib.progress.REFRESH_S", 0)
    stream = Terminal()
    with progress.Progress("kernel", 10, stream) as shown:
        for _ in range(done):
            shown.step()
        if is_whole:
            shown.end()
    shown = [int(text) for text in re.findall(r"(\d+) percent", stream.getvalue())]
    assert shown[-1] == (100 if is_whole else max(percents)) and stream.getvalue().endswith("\n")
    assert not {100} & set(shown[:-1])


def test_waiting_for_another_build_is_reported(tmp_path, monkeypatch):
    started, go = threading.Event(), threading.Event()
    said: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(cache, "say", said.put)
    first = threading.Thread(
        target=cache.built, args=(tmp_path, "kind", "k", lambda _: started.set() or go.wait(5 * PATIENCE))
    )
    first.start()
    assert started.wait(5 * PATIENCE)
    second = threading.Thread(target=cache.built, args=(tmp_path, "kind", "k", fill("2")))
    second.start()
    try:
        text = said.get(timeout=5 * PATIENCE)
    finally:
        go.set()
        first.join(5 * PATIENCE)
        second.join(5 * PATIENCE)
    assert "waiting" in text and "k.lock" in text


def test_what_took_long_the_last_time_is_said_before_it_is_built_again(tmp_path, capsys):
    cache.built(tmp_path, "thing", "one", lambda place: None)
    assert (tmp_path / "thing" / cache.LAST_TIME).read_text() == "0\n"
    (tmp_path / "thing" / cache.LAST_TIME).write_text("301\n")
    cache.built(tmp_path, "thing", "two", lambda place: None)
    assert "thing" in (said := capsys.readouterr().err) and "301 s" in said


def test_progress_is_quiet_where_nothing_can_be_refreshed(capsys):
    with progress.Progress("kernel", 10, sys.stderr) as shown:
        for _ in range(10):
            shown.step()
    assert capsys.readouterr().err == ""


def test_progress_writes_only_the_end_where_a_line_can_not_be_refreshed(capsys):
    with progress.Progress("kernel", 10, sys.stderr) as shown:
        shown.step()
        shown.end()
    assert capsys.readouterr().err == "images: kernel: 100 percent, 1 objects, 0m00s\n"
