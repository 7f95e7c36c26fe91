# SPDX-License-Identifier: Apache-2.0
"""What a log's commit record holds: nothing of what its file has."""

from pathlib import Path

from cri.consumers import written
from cri.logs.feed import LogFeed
from cri.logs.place import LogPlace
from cri.logs.record import CommitRecord
from cri.logs.writer import LogWriter

LINES = 1000


async def test_output_that_is_in_the_log_is_not_in_its_record(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    writer = LogWriter(LogPlace(str(log), ""), CommitRecord(str(tmp_path), "c"))
    writer.open()
    stream = LogFeed(writer, "c").stream("stdout", 7, consumed=lambda _, count: None)
    stream.feed(b"a line\n" * LINES, seq=1, end=False)
    while writer.is_stuck:
        await written([stream])
    stream.commit()
    assert log.read_bytes().count(b" stdout F a line\n") == LINES
    assert max(path.stat().st_size for path in (tmp_path / "logs").iterdir()) < 300
    writer.close()


async def test_a_writer_that_is_closed_commits_nothing_more(tmp_path: Path) -> None:
    writer = LogWriter(LogPlace(str(tmp_path / "0.log"), ""), CommitRecord(str(tmp_path), "c"))
    writer.open()
    writer.feed("stdout", b"x", seq=1)
    writer.close()
    writer.commit()
