# SPDX-License-Identifier: Apache-2.0
"""transcript.md is what the real rkt does: the same commands end with the same codes, with QEMU and,
in the lab, with kvmtool.
"""

import os
from pathlib import Path

import pytest

from stage1.vm import choose, hypervisors
from tests.rkt import small_stage1, stage1_image, transcript
from tests.vm.agent_machine import missing

pytestmark = [
    pytest.mark.rkt,
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so it needs root"),
]


def kept() -> list[tuple[str, str]]:
    """Commands and codes in the document."""
    return transcript.commands((transcript.ROOT / "tests/rkt/transcript.md").read_text())


def test_the_transcript_is_true(tmp_path: Path, guest_dir: Path) -> None:
    if lacks := missing():
        pytest.skip(lacks)
    assert len(kept()) > 40 and not any(f"{tmp_path.parent}" in command for command, _ in kept())
    fresh = transcript.write(tmp_path, stage1_image.archive(guest_dir))
    assert transcript.commands(fresh) == kept()


@pytest.mark.kvmtool
def test_it_is_true_with_kvmtool_too(tmp_path: Path) -> None:
    """With a small stage1 image: in the lab rkt needs minutes to import the whole one."""
    if lacks := missing():
        pytest.skip(lacks)
    assert choose.choose("auto", hypervisors.facts()).hypervisor.name == "kvmtool"
    (tmp_path / "rkt").mkdir()
    fresh = transcript.write(tmp_path / "rkt", small_stage1.archive(tmp_path / "stage1"))
    results = Path(os.environ.get("RESULTS", transcript.ROOT / "build" / "results"))
    results.mkdir(parents=True, exist_ok=True)
    (results / "rkt-transcript-kvmtool.md").write_text(fresh)
    assert transcript.commands(fresh) == kept()
