# SPDX-License-Identifier: Apache-2.0
"""A CI job in a pod: checkout, compile, test."""

import pytest

from tests.flavours.conftest import Pods

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]
IMAGE = "work"
JOB = """
    export HOME=/root
    git config --global user.name ci; git config --global user.email ci@example.com
    mkdir /origin; cd /origin; git init -q
    printf '#include <stdio.h>\\nint main(void) { puts("6 * 7 = 42"); return 0; }\\n' > main.c
    printf 'all: main\\ntest: main\\n\\t./main | grep 42\\n' > Makefile
    git add .; git commit -qm first
    git clone -q file:///origin /work; cd /work; git log --oneline
    make; make test
"""


async def test_a_job_checks_out_compiles_and_tests(pods: Pods) -> None:
    async with pods.running("job") as (pod,):
        assert "6 * 7 = 42" in await pod.run(JOB, name="job")
