# SPDX-License-Identifier: Apache-2.0
"""The kernel `volumes`, whose 9p client believes names and attributes for a second: what the host changes is seen
within that time, what the guest changes at once, and what is opened is what has the name now.
"""

import os
from pathlib import Path

import pytest

from stage1.pod.model import Mount
from stage1.vm.kernels import VOLUMES
from tests.fakes.patience import PATIENCE
from tests.vm.agent_machine import GUEST_DIR
from tests.vm.test_confinement import Machine, booted, machine, output_of, started
from tests.vm.test_system_calls import with_probe

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(120 * PATIENCE),
    pytest.mark.skipif(not (GUEST_DIR / f"vmlinux-{VOLUMES}").exists(), reason="images/build kernel-volumes"),
]

__all__ = ["machine", "with_probe"]
SEEN = "sleep 1.1; "
KNOWN = "one two three four five six"
OWN = """
umask 022; cd /data; printf 12345 >own; stat -c %s own; printf 6 >>own; stat -c %s own
ln own more; stat -c %h own more; chmod 0640 own; stat -c %a more; rm own; stat -c %h more
mv more moved; test ! -e more; cat moved; echo; printf x >moved; stat -c %s moved; rm moved; test ! -e moved
mkdir -m 2775 in; chgrp 7 in; touch in/made; stat -c %g in/made; rm -r in
(set -C; echo 1 >taken; ! echo 2 >taken) 2>/dev/null; cat taken; ln -s nowhere link; echo 3 >link; cat nowhere
"""
OWN_SEEN = ["5", "6", "2", "2", "640", "1", "123456", "1", "7", "1", "3"]


def _replace(path: Path, text: str) -> None:
    (path.parent / "new").write_text(text)
    (path.parent / "new").rename(path)


def _change(volume: Path) -> None:
    """What `KNOWN` names, of which the guest knows names and attributes."""
    with (volume / "one").open("a") as file:
        file.write(" and more")
    os.chmod(volume / "two", 0o600)
    (volume / "three").unlink()
    _replace(volume / "four", "of the host")
    (volume / "five").unlink()
    (volume / "five").mkdir()
    (volume / "six").unlink()


async def test_what_the_host_changes_is_seen_within_a_second(machine: Machine, with_probe: Mount) -> None:
    async with booted(machine, kernel=VOLUMES) as pod:
        main = await started(pod, machine.image, with_probe)
        assert "cache=0x10" in await output_of(pod, main, "grep ' /data ' /proc/mounts")
        await output_of(pod, main, f"cd /data; for name in {KNOWN}; do printf old >$name; done; stat {KNOWN}")
        _change(machine.volume)
        opened = await output_of(pod, main, "cd /data; cat four; echo; printf new >six; cat six")
        assert opened.split("\n") == ["of the host", "new"], "what is opened has the name now"
        seen = await output_of(pod, main, SEEN + "cd /data; stat -c '%s %a' one two; stat -c %F five; ls three || true")
        assert seen.split("\n") == ["12 644", "3 600", "directory"]
        (machine.volume / "three").write_text("again")
        assert await output_of(pod, main, "cat /data/three") == "again", "names that were not there are not kept"


async def test_what_the_guest_changes_is_seen_at_once(machine: Machine, with_probe: Mount) -> None:
    async with booted(machine, kernel=VOLUMES) as pod:
        main = await started(pod, machine.image, with_probe)
        assert (await output_of(pod, main, OWN)).split() == OWN_SEEN
        assert await output_of(pod, main, "cd /data/work && /data/probe") == "all done"


async def test_files_can_be_mapped_there_too(machine: Machine, with_probe: Mount) -> None:
    async with booted(machine, kernel=VOLUMES, maps_volumes=True) as pod:
        main = await started(pod, machine.image, with_probe)
        assert "cache=0x15" in await output_of(pod, main, "grep ' /data ' /proc/mounts")
        assert await output_of(pod, main, "cd /data/work && /data/probe maps") == "all done"
