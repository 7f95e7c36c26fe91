# SPDX-License-Identifier: Apache-2.0
"""Which file an app's log is, and the number by which the launcher finds it."""

import os
from pathlib import Path

import pytest

from stage1.errors import BadRequest, NotFound
from stage1.pod.model import Container, Process
from stage1.rkt import logs
from stage1.rkt.loader import App
from stage1.rkt.streams import LOG, NULL, STREAM, Streams


@pytest.fixture(autouse=True)
def pod(tmp_path: Path) -> None:
    """The engine's directory of the pod."""
    (tmp_path / "pod").mkdir()


def app(name: str, file: Path | str, *, out: str = STREAM, err: str = STREAM) -> App:
    container = Container(name, name, "sha512-x", Process(("/bin/true",)))
    return App(name, container, "/root", streams=Streams(NULL, out, err, str(file)))


@pytest.mark.parametrize("out, err, which", [(STREAM, STREAM, 768), (STREAM, NULL, 256), (LOG, STREAM, 512)])
def test_a_log_has_a_number_a_file_and_the_streams_that_go_there(
    tmp_path: Path, *, out: str, err: str, which: int
) -> None:
    place, file = tmp_path / "pod", tmp_path / "a_0.log"
    file.write_text("of an earlier run\n")
    result = logs.begin(str(place), app("a", file, out=out, err=err))
    assert result.streams.log == 1 | which and file.read_text() == ""
    assert os.readlink(place / "logs" / "1") == str(file)


def test_numbers_stay_with_their_apps_and_are_given_back(tmp_path: Path) -> None:
    place = str(tmp_path / "pod")
    numbers = [logs.begin(place, app(name, tmp_path / name)).streams.log & 255 for name in ("1", "b", "1")]
    assert numbers == [1, 2, 1]
    for _ in range(2):
        logs.forget(place, "1")
    assert logs.begin(place, app("c", tmp_path / "c")).streams.log & 255 == 1
    assert sorted(os.listdir(f"{place}/logs")) == ["1", "2", "app-b", "app-c"]


def test_without_a_log_nothing_is_made(tmp_path: Path) -> None:
    given = app("a", "")
    assert logs.begin(str(tmp_path / "pod"), given) == given
    logs.forget(str(tmp_path / "pod"), "a")
    assert not os.listdir(tmp_path / "pod")


def test_the_directory_may_be_a_link_and_the_file_may_not(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    logs.begin(str(tmp_path / "pod"), app("a", tmp_path / "link" / "log"))
    assert os.readlink(tmp_path / "pod/logs/1") == str(tmp_path / "real" / "log")
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "real" / "b").symlink_to(tmp_path / "victim")
    with pytest.raises(Exception, match="real/b"):
        logs.begin(str(tmp_path / "pod"), app("b", tmp_path / "link" / "b"))
    assert (tmp_path / "victim").read_text() == "precious"


def test_what_can_be_no_log(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="directory"):
        logs.begin(str(tmp_path / "pod"), app("a", tmp_path / "absent" / "log"))
    with pytest.raises(BadRequest, match=r"/dev/null .*character device"):
        logs.begin(str(tmp_path / "pod"), app("a", "/dev/null"))
    place = tmp_path / "pod" / "logs"
    place.mkdir(parents=True)
    for number in range(1, 256):
        (place / str(number)).write_text("")
    with pytest.raises(BadRequest, match="255 logs already"):
        logs.begin(str(tmp_path / "pod"), app("a", tmp_path / "log"))
