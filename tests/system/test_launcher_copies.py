# SPDX-License-Identifier: Apache-2.0
"""The launcher of rkt's stage1 image with a VMM that is tried as a copy of a template first; scripts in place of Python
and of both VMMs.
"""

import os
import signal

import pytest

from tests.fakes.bare_stage1 import END, GO, MARK, OUT, BareStage1, record
from tests.system.test_launcher import finish, has_started, stage1, wait_until

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the launcher leaves the host's mounts, for which it must be root"),
    pytest.mark.timeout(60),
]
__all__ = ["stage1"]


def test_a_copy_of_a_template_gets_its_files_and_its_monitor_and_the_signal_to_start(stage1: BareStage1) -> None:
    stage1.vmm()
    there = "read -r -u 12 told; cat <&13; cat <&14; head -c 4 | od -An -tx1; test -w /proc/$$/fd/14 || :; echo $told"
    says = "printf '\\nclearpod-console\\n'; printf '\\003\\000\\001\\000\\007'; sleep 60"
    template = stage1.copy(f"{{ {there}; }} > {stage1.place}/heard; {says}")
    (stage1.place / "spec").write_bytes((stage1.place / "spec").read_bytes().replace(b"mtell", b"mtell\n"))
    assert finish(stage1.run()) == (7, b"", b"")
    assert stage1.wrote("heard").split() == ["state", "ram", *record(GO).hex(" ").split(), "tell"]
    assert not stage1.wrote("vmm") and (template / "manifest.json").exists()


@pytest.mark.parametrize(
    "then",
    [
        "exit 1",
        "kill -9 $$",
        'echo \'{"error": {"desc": "no"}}\' >&12; exec sleep 60',
        'echo \'{"event": "MIGRATION", "data": {"status": "failed"}}\' >&12; exec sleep 60',
        "exec 12>&-; exec sleep 60",
    ],
)
def test_a_copy_that_does_not_come_to_life_is_given_up_and_the_pod_boots(stage1: BareStage1, then: str) -> None:
    stage1.vmm(says=MARK + record(OUT, b"out\n") + record(END, b"\5"))
    template = stage1.copy(then)
    code, out, err = finish(stage1.run())
    assert (code, out) == (5, b"out\n")
    assert err.decode().count("\n") == 1 and str(template) in err.decode() and "boots" in err.decode()
    assert sorted(os.listdir(template)) == ["ram", "rejected", "state"]


def test_a_template_that_has_just_gone_is_no_reason_not_to_boot(stage1: BareStage1) -> None:
    stage1.vmm(says=MARK + record(END, b"\5"))
    template = stage1.copy("exit 1")
    (template / "ram").unlink()
    code, _, err = finish(stage1.run())
    assert code == 5 and b"No such file" in err


def test_a_pod_that_was_stopped_while_it_was_copied_does_not_boot(stage1: BareStage1) -> None:
    stage1.vmm(says=MARK + record(END, b"\5"))
    stage1.copy(f"echo up > {stage1.place}/vmm; exec sleep 60")
    process = stage1.run()
    wait_until(has_started(stage1))
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: stage1.wrote("stopped"))
    os.kill(stage1.vmm_pid(), signal.SIGKILL)
    assert finish(process)[0] == 254 and not stage1.wrote("vmm-fds")
