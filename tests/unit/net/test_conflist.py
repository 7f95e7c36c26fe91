# SPDX-License-Identifier: Apache-2.0
"""CNI configurations: which file counts, which are refused and why."""

import json
from pathlib import Path
from typing import Any

import pytest

from stage1.errors import BadRequest
from stage1.net import conflist, networks
from stage1.net.settings import Settings


def text(**changes: Any) -> str:
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}], **changes})


def plugin(directory: Path, name: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text("#!/bin/sh\n")
    (directory / name).chmod(0o755)


@pytest.mark.parametrize(
    "changes, version",
    [
        ({}, "1.0.0"),
        ({"cniVersion": "0.4.0"}, "0.4.0"),
        ({"cniVersion": "1.1.0"}, "1.1.0"),
        ({"cniVersions": ["0.4.0", "1.1.0", "9.0.0"]}, "1.1.0"),
        ({"cniVersions": ["9.0.0"], "cniVersion": "0.3.1"}, "0.3.1"),
    ],
)
def test_the_newest_version_that_both_speak_is_used(changes: dict[str, Any], version: str) -> None:
    assert conflist.parse(text(**changes), "f").version == version


def test_a_single_plugin_is_a_list_of_one() -> None:
    network = conflist.parse('{"cniVersion": "0.4.0", "name": "old", "type": "ptp", "mtu": 1400}', "f")
    assert (network.name, network.types(), network.plugins[0]["mtu"]) == ("old", ("ptp",), 1400)


@pytest.mark.parametrize(
    "given, sentence",
    [
        ("", "f .*JSON: Expecting value"),
        ("{", "f .*JSON"),
        ("[1]", "JSON object"),
        (text(name="../etc"), r"name '\.\./etc'"),
        (text(name=""), "name ''"),
        (text(name=None), "name None"),
        (text(name=7), "name 7"),
        (text(plugins=[]), "list .*plugin"),
        (text(plugins={}), "list .*plugin"),
        (text(plugins=[{"type": "../../bin/sh"}]), r"program, .*'\.\./\.\./bin/sh'"),
        (text(plugins=["bridge"]), "program, .*None"),
        (text(plugins=[{"type": "a", "capabilities": []}]), "\"capabilities\" .*'a' .*object"),
        (text(cniVersion="0.2.0"), "cniVersion '0.2.0' .*0.3.0, "),
        (text(cniVersion=None), "cniVersion None"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused_with_its_file(given: str, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence) as caught:
        conflist.parse(given, "f")
    assert str(caught.value).startswith("f")


def test_the_first_file_by_name_counts_and_a_broken_one_is_passed_over_and_reported(tmp_path: Path) -> None:
    (tmp_path / "00-readme.txt").write_text("no configuration")
    (tmp_path / "20-b.conf").write_text(text(name="b"))
    (tmp_path / "30-c.json").write_text(text(name="c"))
    (tmp_path / "10-a.conflist").write_text("{")
    result = conflist.find(str(tmp_path))
    assert result.network is not None and result.network.name == "b"
    assert len(result.problems) == 1 and result.problems[0].startswith(f"{tmp_path}/10-a.conflist is not JSON")
    (tmp_path / "10-a.conflist").write_text(text(name="a"))
    second = conflist.find(str(tmp_path))
    assert second.network is not None and (second.network.name, second.problems) == ("a", ())


def test_why_there_is_no_network_is_a_sentence_and_follows_each_change(tmp_path: Path) -> None:
    conf, bins = tmp_path / "net.d", (str(tmp_path / "one"), str(tmp_path / "two"))

    def why() -> str:
        return networks.lacks(Settings(str(conf), bins, f"{tmp_path}/cache"))

    assert why() == f"there is no CNI configuration in {conf}"
    conf.mkdir()
    (conf / "10.conflist").write_text("{")
    assert why().startswith(f"{conf}/10.conflist is not JSON")
    (conf / "10.conflist").write_text(text())
    assert why() == (
        f"the CNI plugin 'bridge' of network 'pods' ({conf}/10.conflist) is not in {bins[0]} or {bins[1]}; "
        "install it there"
    )
    plugin(tmp_path / "two", "bridge")
    assert why() == ""


def test_a_plugin_that_is_no_program_does_not_count(tmp_path: Path) -> None:
    plugin(tmp_path / "bin", "bridge")
    (tmp_path / "bin" / "bridge").chmod(0o644)
    (tmp_path / "bin" / "ptp").mkdir()
    for name in ("bridge", "ptp"):
        assert conflist.find_plugin(name, (f"{tmp_path}/bin",)) == ""
