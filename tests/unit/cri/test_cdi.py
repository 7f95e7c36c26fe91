# SPDX-License-Identifier: Apache-2.0
"""CDI specs: what a device adds, and what is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from cri.translate import cdi
from stage1.errors import BadRequest, NotFound, PodError, Unsupported
from stage1.pod.model import Device, Mount


def _spec(place: Path, file: str = "a.json", kind: str = "x.com/y", **devices: dict[str, Any]) -> tuple[str]:
    named = [{"name": name, "containerEdits": edits} for name, edits in devices.items()]
    document = {"cdiVersion": "0.6.0", "kind": kind, "devices": named, "containerEdits": {"env": [f"SPEC={file}"]}}
    place.mkdir(exist_ok=True)
    (place / file).write_text(json.dumps(document))
    return (str(place),)


def test_without_devices_no_spec_is_read(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    assert cdi.edits([], (str(tmp_path),)) == cdi.Edits()


def test_devices_add_up_and_their_spec_counts_once(tmp_path: Path) -> None:
    one = {"env": ["A=1"], "mounts": [{"hostPath": "/tmp", "containerPath": "/t/", "options": ["ro"]}]}
    two = {"deviceNodes": [{"path": "/dev/f", "hostPath": "/dev/fuse", "permissions": "rw"}], "additionalGids": [5]}
    where = _spec(tmp_path / "d", one=one, two=two)
    assert cdi.edits(["x.com/y=one", "x.com/y=two", "x.com/y=one"], where) == cdi.Edits(
        env=("SPEC=a.json", "A=1"),
        devices=(Device("/dev/fuse", "/dev/f", "rw"),),
        mounts=(Mount("/tmp", "/t", read_only=True),),
        groups=(5,),
    )


def test_the_later_directory_wins(tmp_path: Path) -> None:
    first, second = _spec(tmp_path / "1", one={"env": ["A=1"]}), _spec(tmp_path / "2", one={"env": ["A=2"]})
    result = cdi.edits(["x.com/y=one"], (*first, f"{tmp_path}/absent", *second))
    assert result.env == ("SPEC=a.json", "A=2")


REFUSED: list[tuple[dict[str, Any], type[PodError], str]] = [
    ({"hooks": [{"hookName": "createContainer", "path": "/x"}]}, Unsupported, "hooks"),
    ({"intelRdt": {"closID": "x"}}, Unsupported, "intelRdt"),
    ({"deviceNodes": [{"path": "/dev/nvidia0"}]}, Unsupported, "/dev/nvidia0"),
    ({"mounts": [{"hostPath": "/no/such", "containerPath": "/t"}]}, NotFound, "/no/such"),
    ({"mounts": [{"hostPath": "x", "containerPath": "/t", "type": "tmpfs"}]}, Unsupported, "tmpfs"),
    ({"mounts": [{"hostPath": "/tmp", "containerPath": "/"}]}, BadRequest, "own root"),
    ({"surprise": 1}, BadRequest, "surprise"),
    ({"additionalGids": [-1]}, BadRequest, "additionalGids"),
    ({"env": "A=1"}, BadRequest, "env"),
]


@pytest.mark.parametrize(("edits", "error", "sentence"), REFUSED)
def test_edits_that_a_vm_can_not_have_are_refused(
    tmp_path: Path, edits: dict[str, Any], error: type[PodError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        cdi.edits(["x.com/y=one"], _spec(tmp_path / "d", one=edits))


@pytest.mark.parametrize("name", ["x.com/y=two", "y=one", "", "x.com/y"])
def test_an_unknown_device_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFound, match=f"has the device {name!r}"):
        cdi.edits([name], _spec(tmp_path / "d", one={}))


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "x"}', "\xff"])
def test_a_file_that_is_no_spec_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadRequest, match=r"bad\.json"):
        cdi.edits(["x.com/y=one"], (str(tmp_path),))
