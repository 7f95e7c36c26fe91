# SPDX-License-Identifier: Apache-2.0
"""own_kernel_transcript.md and own_kernel_transcript_kvmtool.md are what happens: the same lines by crictl, `clearpod
run` and the real rkt end with the same codes.
"""

import os
from pathlib import Path

import pytest

from stage1.vm import hypervisors, kvmtool
from stage1.vm.choose import lacks
from tests.vm import own_kernel_transcript as transcript

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="it makes a network of its own, so it needs root"),
]
SECTIONS = {"crictl": ("crictl", "clearpod run -d"), "run": ("clearpod run,",), "rkt": ("rkt",)}
PARTS = pytest.mark.parametrize(
    "part", ["run", pytest.param("crictl", marks=pytest.mark.crictl), pytest.param("rkt", marks=pytest.mark.rkt)]
)


def _kept(part: str, hypervisor: str) -> list[tuple[str, str]]:
    """Commands and codes in the document."""
    text = (transcript.ROOT / transcript.FILES[hypervisor]).read_text()
    return [
        command
        for section in text.split("\n## ")[1:]
        if section.startswith(SECTIONS[part])
        for command in transcript.commands(section)
    ]


def _is_true(part: str, hypervisor: str, guest_dir: Path) -> None:
    if why := transcript.lacks(part):
        pytest.skip(why)
    assert len(_kept(part, hypervisor)) > 5
    fresh = transcript.write(part, guest_dir, hypervisor=hypervisor)
    results = Path(os.environ.get("RESULTS", transcript.ROOT / "build" / "results"))
    results.mkdir(parents=True, exist_ok=True)
    (results / f"own-kernels-transcript-{hypervisor}-{part}.md").write_text(fresh)
    assert transcript.commands(fresh) == _kept(part, hypervisor)


@pytest.mark.only_on("qemu", "the other transcript is for that one")
@PARTS
def test_the_transcript_is_true(part: str, guest_dir: Path) -> None:
    _is_true(part, "qemu", guest_dir)


@pytest.mark.kvmtool
@pytest.mark.only_on("kvmtool", "the other transcript is for that one")
@PARTS
def test_the_transcript_of_kvmtool_is_true(part: str, guest_dir: Path) -> None:
    if missing := lacks(kvmtool.HYPERVISOR, hypervisors.facts()):
        pytest.skip("; ".join(missing))
    _is_true(part, "kvmtool", guest_dir)
