# SPDX-License-Identifier: Apache-2.0
"""Names of pods in the foreground: one owner each, also when owners come, go and are killed at the same time."""

import multiprocessing
import os
from pathlib import Path

import pytest

from cri.cli.run import claimed_name
from cri.cli.run.claimed_name import claimed
from stage1.errors import AlreadyExists


def test_a_name_has_one_owner_who_is_named_to_the_second(tmp_path: Path) -> None:
    with claimed(str(tmp_path), "a/b", pod_id="1f3c" * 16), claimed(str(tmp_path), "b", pod_id="2" * 64):
        with pytest.raises(AlreadyExists, match="1f3c1f3c"), claimed(str(tmp_path), "a/b", pod_id="3" * 64):
            pass
        claimed_name.remove_orphans(str(tmp_path))
        assert len(os.listdir(tmp_path / "names")) == 2
    assert os.listdir(tmp_path / "names") == []


def _killed(run_dir: str) -> None:
    with claimed(run_dir, "web", pod_id="1" * 64):
        os._exit(0)


def _claims(run_dir: str, counter: str) -> None:
    for _ in range(200):
        try:
            with claimed(run_dir, "web", pod_id="1" * 64):
                os.mkdir(counter)
                os.rmdir(counter)
        except AlreadyExists:
            claimed_name.remove_orphans(run_dir)


def test_the_name_of_a_killed_process_is_free_and_removed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for is_removed in (True, False):
        process = context.Process(target=_killed, args=(str(tmp_path),))
        process.start()
        process.join()
        assert os.listdir(tmp_path / "names")
        if is_removed:
            claimed_name.remove_orphans(str(tmp_path))
            assert os.listdir(tmp_path / "names") == []
        with claimed(str(tmp_path), "web", pod_id="2" * 64):
            pass


def test_who_comes_while_another_goes_never_shares_the_name(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    args = (str(tmp_path), f"{tmp_path}/held")
    processes = [context.Process(target=_claims, args=args) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
