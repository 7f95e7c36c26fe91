# SPDX-License-Identifier: Apache-2.0
"""docs/user/own-kernels-transcript.md is what happens: the same lines by crictl, `clearpod run` and the real rkt end
with the same codes.
"""

import os
from pathlib import Path

import pytest

from tests.vm import own_kernel_transcript as transcript

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(600),
    pytest.mark.only_on("qemu", "one of the kernels is an ELF, and the other hypervisor boots a bzImage only"),
    pytest.mark.skipif(os.geteuid() != 0, reason="it makes a network of its own, so it needs root"),
]
SECTIONS = {"crictl": ("crictl", "clearpod run -d"), "run": ("clearpod run,",), "rkt": ("rkt",)}


def _kept(part: str) -> list[tuple[str, str]]:
    """Commands and codes in the document."""
    text = (transcript.ROOT / "docs/user/own-kernels-transcript.md").read_text()
    return [
        command
        for section in text.split("\n## ")[1:]
        if section.startswith(SECTIONS[part])
        for command in transcript.commands(section)
    ]


@pytest.mark.parametrize(
    "part", ["run", pytest.param("crictl", marks=pytest.mark.crictl), pytest.param("rkt", marks=pytest.mark.rkt)]
)
def test_the_transcript_in_docs_is_true(part: str, guest_dir: Path) -> None:
    if why := transcript.lacks(part):
        pytest.skip(why)
    assert len(_kept(part)) > 10
    fresh = transcript.write(part, guest_dir)
    results = Path(os.environ.get("RESULTS", transcript.ROOT / "build" / "results"))
    results.mkdir(parents=True, exist_ok=True)
    (results / f"own-kernels-transcript-{part}.md").write_text(fresh)
    assert transcript.commands(fresh) == _kept(part)
