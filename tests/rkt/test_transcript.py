# SPDX-License-Identifier: Apache-2.0
"""docs/reference/rkt-transcript.md is what the real rkt does: the same commands end with the same codes."""

import os
from pathlib import Path

import pytest

from tests.rkt import transcript
from tests.vm.agent_machine import missing

pytestmark = [
    pytest.mark.rkt,
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so it needs root"),
]


def test_the_transcript_in_docs_is_true(tmp_path: Path, guest_dir: Path) -> None:
    if lacks := missing():
        pytest.skip(lacks)
    kept = (transcript.ROOT / "docs/reference/rkt-transcript.md").read_text()
    assert len(transcript.commands(kept)) > 40 and f"{tmp_path}" not in kept
    fresh = transcript.write(tmp_path, guest_dir)
    assert transcript.commands(fresh) == transcript.commands(kept)
