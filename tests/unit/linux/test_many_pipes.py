# SPDX-License-Identifier: Apache-2.0
"""A confined program runs also when its user has as many pipes as the kernel lets be large (pipe-user-pages-soft)."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import fcntl, os
from stage1.linux import supervise
held = []
while True:
    held += os.pipe()
    try:
        fcntl.fcntl(held[-1], 1031, 1 << 18)
    except PermissionError:
        break
ends = []
print(b"".join(supervise.output(supervise.Job(supervise.program(["echo", "through"]), -1, 60.0), ends)), ends[0].code)
"""


def test_a_program_runs_though_no_pipe_may_be_larger() -> None:
    """The pipes are a user's of the test's own, who may read the checkout wherever it is."""
    reads = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
    user = ("setpriv", "--reuid=64321", "--regid=64321", "--clear-groups", *reads)
    argv = [*user, "prlimit", "--nofile=8192", sys.executable, "-c", PROGRAM]
    ran = subprocess.run(argv, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=120)
    assert (ran.stdout, ran.returncode) == ("b'through\\n' 0\n", 0), ran.stderr
