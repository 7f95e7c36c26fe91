# SPDX-License-Identifier: Apache-2.0
"""clearpod's annotations of rkt's pods, of their apps and of images: each counts, or is refused with a sentence."""

from pathlib import Path
from typing import Any

import pytest

from cri import policy
from cri.translate import extras
from stage1.errors import BadRequest, PodError, Unsupported
from stage1.rkt import loader, userspace
from stage1.rkt.arguments import RunOptions
from stage1.rkt.loader import RktPod
from tests.unit.rkt.pod_dir import UUID, Document, app, lay

OPTIONS = RunOptions(UUID)
OF_IMAGE = {"io.clearpod.kernel.path": "/kernel", "io.clearpod.kernel.network": "none"}
OFFERED = {policy.MEMORY, policy.VCPUS, policy.SCRATCH, policy.KERNEL, policy.PROFILE, policy.TEMPLATE}
ELSEWHERE = sorted({*policy.KNOWN, extras.TMPFS, extras.ULIMITS, extras.HOSTS} - OFFERED)


def notes(**given: str) -> list[Document]:
    return [{"name": f"clearpod.io/{name.replace('_', '-')}", "value": text} for name, text in given.items()]


def noted(name: str = "one", **given: str) -> Document:
    return app(name, {"annotations": notes(**given)})


def read(place: Path, *apps: Document, only: str = "", mutable: bool = False, **manifest: Any) -> RktPod:
    return loader.read_pod(lay(place, *apps, **manifest), OPTIONS._replace(mutable=mutable), only=only)


def test_what_an_app_asks_of_the_vm_counts_as_the_pods_own(tmp_path: Path) -> None:
    asked = {"memory_mib": "700", "vcpus": "3", "scratch_mib": "64", "root": "disk", "kernel": "stock"}
    pod = read(tmp_path, noted(**asked)).pod
    assert (pod.memory_mib, pod.vcpus, pod.scratch_mib, pod.kernel) == (700, 3, 64, "stock")


def test_what_an_image_asks_counts_where_its_app_has_no_other(tmp_path: Path) -> None:
    image = {"annotations": [*notes(memory_mib="700", kernel="stock", root="disk"), {"name": "authors", "value": "me"}]}
    loaded = read(tmp_path, noted(memory_mib="300"), image=image)
    assert (loaded.pod.memory_mib, loaded.pod.kernel, loaded.apps[0].container.root_of) == (300, "stock", "one.root")


def test_two_that_ask_for_the_same_are_served(tmp_path: Path) -> None:
    apps = noted("one", kernel="stock"), noted("two", kernel="stock"), app("three")
    assert read(tmp_path, *apps, annotations=notes(kernel="stock")).pod.kernel == "stock"


@pytest.mark.parametrize("pods", [notes(kernel="mine"), notes(kernel="default")])
def test_an_app_that_asks_for_what_the_pod_has_not(tmp_path: Path, pods: list[Document]) -> None:
    with pytest.raises(BadRequest, match=r"'one' .*kernel=stock.* manifest .* VM"):
        read(tmp_path, noted(kernel="stock"), annotations=pods)


def test_two_apps_that_ask_for_different_things(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"'two' .*memory-mib=80.* 'one'"):
        read(tmp_path, noted("one", memory_mib="90"), noted("two", memory_mib="80"))


def test_an_app_that_is_added_can_ask_only_for_what_there_is(tmp_path: Path) -> None:
    given: dict[str, Any] = {"annotations": notes(kernel="stock"), "mutable": True}
    read(tmp_path / "a", noted(kernel="stock"), only="one", **given)
    with pytest.raises(BadRequest, match=r"'one' .*vcpus=2.* runs already"):
        read(tmp_path / "b", noted(vcpus="2"), only="one", mutable=True)


@pytest.mark.parametrize("word", [*ELSEWHERE, "clearpod.io/kernels"])
def test_what_rkts_pods_do_not_have_is_refused(tmp_path: Path, word: str) -> None:
    one: list[Document] = [{"name": word, "value": "x"}]
    for number, (apps, manifest) in enumerate(
        (
            ([app()], {"annotations": one}),
            ([app("one", {"annotations": one})], {}),
            ([app()], {"image": {"annotations": one}}),
        )
    ):
        with pytest.raises(Unsupported, match=word) as error:
            read(tmp_path / str(number), *apps, **manifest)
        assert str(error.value).count("\n") == 0


@pytest.mark.parametrize(
    "given",
    [{"emptydir": "guest"}, {"files": "host"}, {"kernel": "default"}],
)
def test_an_annotation_may_repeat_what_each_pod_has(tmp_path: Path, given: dict[str, str]) -> None:
    assert read(tmp_path, noted(**given), annotations=notes(**given)).pod.kernel == ""


def test_annotations_of_others_are_theirs(tmp_path: Path) -> None:
    theirs = [{"name": name, "value": "x"} for name in ("example.com/kernel", "clearpod.io-x", "io.clearpod/kernel")]
    read(tmp_path, app("one", {"annotations": theirs}), annotations=theirs)


def test_the_stage1_image_has_the_kernel_of_pods_that_ask_for_none(tmp_path: Path) -> None:
    pods = lay(tmp_path / "a", app()), lay(tmp_path / "b", noted(kernel="default"))
    for one in pods:
        place = Path(one, "stage1/rootfs", userspace.KERNEL_FILE)
        place.parent.mkdir(parents=True)
        place.write_text("stock\n")
    assert [loader.read_pod(one, OPTIONS).pod.kernel for one in pods] == ["stock", ""]


def test_the_kernel_of_an_image(tmp_path: Path) -> None:
    image = {"app": {**app()["app"], "userLabels": OF_IMAGE}}
    for number, asked in enumerate(({}, {"kernel": "image"}, {"kernel": "default"})):
        loaded = read(tmp_path / str(number), noted(**asked), image=image)
        assert loaded.own_kernel and loaded.pod.kernel == ""
    with pytest.raises(BadRequest, match=r"'stock'.* of its own"):
        read(tmp_path / "both", noted(kernel="stock"), image=image)
    with pytest.raises(BadRequest, match=r"image.* labels"):
        read(tmp_path / "none", noted(kernel="image"))


def test_the_userspace_is_the_pods_alone(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"guest-profile .*pods"):
        read(tmp_path / "a", noted(guest_profile="systemd"))
    assert read(tmp_path / "b", noted(guest_profile="systemd"), annotations=notes(guest_profile="systemd")).pod.profile


@pytest.mark.parametrize("text", ["0x10", "-1", "many", "1" * 40])
def test_a_number_that_is_none_is_one_sentence_from_an_app_too(tmp_path: Path, text: str) -> None:
    with pytest.raises(PodError, match=r"memory-mib .*number"):
        read(tmp_path, noted(memory_mib=text))
