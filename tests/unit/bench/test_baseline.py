# SPDX-License-Identifier: Apache-2.0
"""A figure that grew by more than two percent is reported, and the baseline is that of the kernel's own compiler."""

import json

import pytest

from tests.bench.lib import baseline

BANNER = b"\0Linux version 6.12.118-clearpod (clearpod@clearpod) (%s, GNU ld (GNU Binutils for Debian) 2.44) #1 SMP\0"


@pytest.mark.parametrize(
    ("compiler", "key"),
    [
        (b"gcc (Debian 12.4.0-5) 12.4.0", "6.12.118, gcc 12.4.0"),
        (b"gcc-14 (Debian 14.2.0-19) 14.2.0", "6.12.118, gcc 14.2.0"),
        (b"x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0", "6.12.118, gcc 14.2.0"),
    ],
)
def test_the_kernels_banner_has_its_version_and_compiler(compiler, key):
    assert baseline.key(BANNER % compiler) == key


def test_a_kernel_without_a_banner_is_an_error():
    with pytest.raises(ValueError, match="banner"):
        baseline.key(b"\x7fELF")


@pytest.mark.parametrize(
    ("new", "told"),
    [
        ({"a_ms": 20.0, "b_ms": 0.8}, 0),
        ({"a_ms": 20.4, "b_ms": 0.83}, 0),  # exactly two percent, and the least that counts
        ({"a_ms": 20.41, "b_ms": 0.8}, 1),
        ({"a_ms": 20.0, "b_ms": 0.831}, 1),
        ({"a_ms": 21.0, "b_ms": 0.9}, 2),
        ({"a_ms": 1.0, "b_ms": 0.1}, 0),
        ({"a_ms": 20.0}, 1),
        ({"a_ms": 20.0, "b_ms": 0.8, "new_ms": 1e9}, 0),
    ],
)
def test_more_than_two_percent_is_worse(new, told):
    assert len(baseline.worse(new, {"a_ms": 20.0, "b_ms": 0.8})) == told


def test_a_written_baseline_is_read_and_leaves_the_others_alone(tmp_path):
    file = tmp_path / "baseline.json"
    assert baseline.read("one", file) is None
    baseline.write("one", {"a": 1.0}, file)
    baseline.write("two", {"a": 2.0}, file)
    baseline.write("one", {"a": 3.0}, file)
    assert baseline.read("one", file) == {"a": 3.0} and baseline.read("two", file) == {"a": 2.0}
    assert baseline.read("three", file) is None


def test_the_committed_file_is_what_this_reads():
    entries = json.loads(baseline.FILE.read_text())
    assert entries and all(isinstance(value, int | float) for entry in entries.values() for value in entry.values())


def test_a_comparison_reports_worse_figures_and_a_missing_baseline(tmp_path, capsys):
    file = tmp_path / "baseline.json"
    assert baseline.hold("mine", {"a_ms": 20.0}, update=False, file=file) == 0
    assert "no baseline" in capsys.readouterr().err
    assert baseline.hold("mine", {"a_ms": 20.0}, update=True, file=file) == 0
    assert baseline.hold("mine", {"a_ms": 20.3}, update=False, file=file) == 0
    assert baseline.hold("mine", {"a_ms": 21.0}, update=False, file=file) == 1
    assert "a_ms is 21.0, 5.0 percent above" in capsys.readouterr().err
