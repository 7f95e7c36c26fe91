# SPDX-License-Identifier: Apache-2.0
"""Which userspace the guest of an rkt pod has, what follows from that, and when `enter` means the guest itself."""

from pathlib import Path
from typing import Any

import pytest

from stage1.errors import BadRequest, Unsupported
from stage1.rkt import guest_root, loader, userspace
from stage1.rkt.arguments import RunOptions
from tests.unit.rkt.pod_dir import UUID, Document, app, lay

WORD = "clearpod.io/guest-profile"


def annotated(profile: str | None, *more: tuple[str, str]) -> list[Document]:
    output = [] if profile is None else [(WORD, profile)]
    return [{"name": name, "value": value} for name, value in (*output, *more)]


def laid(place: Path, profile: str | None, *, image: str = "", apps: tuple[str, ...] = ("one",), **more: Any) -> str:
    pod_dir = lay(place, *(app(name) for name in apps), annotations=annotated(profile, *more.get("argv", ())))
    if image:
        built_for = Path(pod_dir, "stage1/rootfs", userspace.FILE)
        built_for.parent.mkdir(parents=True)
        built_for.write_text(image)
    return str(pod_dir)


@pytest.mark.parametrize(
    ("text", "image", "expected"),
    [
        (None, "", ""),
        ("default", "", ""),
        ("systemd", "", "systemd"),
        (None, "systemd\n", "systemd"),
        ("default", "systemd\n", ""),
        ("", "systemd\n", "systemd"),
    ],
)
def test_the_profile_is_the_manifests_or_else_the_images(
    tmp_path: Path, text: str | None, image: str, expected: str
) -> None:
    pod_dir = laid(tmp_path, text, image=image)
    pod = loader.read_pod(pod_dir, RunOptions(UUID)).pod
    journal = f"{Path(pod_dir).resolve()}/stage1/rootfs/var/log/journal"
    assert (pod.profile, pod.journal) == (expected, journal if expected else "")
    assert pod.memory_mib == (544 if expected else 512)


def test_memory_that_an_annotation_names_stays_what_it_is(tmp_path: Path) -> None:
    pod_dir = laid(tmp_path, "systemd", argv=(("clearpod.io/memory-mib", "200"),))
    assert loader.read_pod(pod_dir, RunOptions(UUID)).pod.memory_mib == 200


def test_an_unknown_profile_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=rf"annotation {WORD}: .*profile 'openrc'"):
        loader.read_pod(laid(tmp_path, "openrc"), RunOptions(UUID))


@pytest.mark.parametrize(
    ("profile", "apps", "named", "is_meant"),
    [
        ("systemd", ("one",), "", True),
        ("systemd", ("one", "two"), "guest", True),
        ("systemd", ("one", "guest"), "guest", False),
        ("systemd", ("one",), "one", False),
        ("default", ("one",), "guest", False),
    ],
)
def test_the_guest_is_meant_where_it_has_a_root_and_no_app_is_called_so(
    tmp_path: Path, profile: str, apps: tuple[str, ...], named: str, is_meant: bool
) -> None:
    assert guest_root.is_meant(laid(tmp_path, profile, apps=apps), named) is is_meant


def test_the_ordinary_guest_is_not_entered(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"guest .*app"):
        guest_root.is_meant(laid(tmp_path, None), "")
