# SPDX-License-Identifier: Apache-2.0
"""Manifests, indexes and configs: pure functions over tables."""

import json
from typing import Any

import pytest

from cri.image import manifest
from cri.image.manifest import Manifest
from stage1.errors import BadRequest, PodError, Unsupported
from stage1.rootfs.corrupt import Corrupt

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
OCI, DOCKER = "application/vnd.oci.image", "application/vnd.docker"
CONFIG = {"mediaType": f"{OCI}.config.v1+json", "digest": A}
LAYER = {"mediaType": f"{OCI}.layer.v1.tar+gzip", "digest": B}


def dump(document: Any) -> bytes:
    return json.dumps(document).encode()


def entry(os: str, arch: str, variant: str = "", digest: str = A) -> dict[str, Any]:
    return {"digest": digest, "platform": {"os": os, "architecture": arch, "variant": variant}}


@pytest.mark.parametrize(
    ("entries", "arch", "chosen"),
    [
        ([entry("linux", "amd64")], "amd64", A),
        ([entry("linux", "arm64"), entry("linux", "amd64", digest=B)], "amd64", B),
        ([entry("windows", "amd64"), entry("linux", "amd64", digest=B)], "amd64", B),
        ([entry("linux", "arm64", "v8")], "arm64", A),
        ([entry("linux", "amd64", "v3"), entry("linux", "amd64", digest=B)], "amd64", B),
        ([entry("linux", "riscv64")], "riscv64", A),
    ],
)
def test_of_an_index_the_entry_for_this_host_is_chosen(entries: Any, arch: str, chosen: str) -> None:
    assert manifest.choose(dump({"manifests": entries}), arch, name="x") == chosen


@pytest.mark.parametrize(
    ("entries", "there"),
    [
        ([], "nothing"),
        ([entry("linux", "s390x"), entry("unknown", "unknown")], "linux/s390x"),
        ([entry("linux", "arm", "v7"), entry("windows", "amd64")], "linux/arm, windows/amd64"),
        (["rubbish", 5], "nothing"),
        ([{"digest": A, "platform": "x"}, {"digest": A, "platform": {"os": 7, "architecture": ["a"]}}], "nothing"),
        (5, "nothing"),
    ],
)
def test_an_index_without_this_platform_is_reported_with_its_platforms(entries: Any, there: str) -> None:
    with pytest.raises(BadRequest, match=f"image x .*{there} .*linux/amd64"):
        manifest.choose(dump({"manifests": entries}), "amd64", name="x")


def test_a_manifest_is_no_index() -> None:
    assert manifest.choose(dump({"config": CONFIG}), "amd64", name="x") is None


@pytest.mark.parametrize("kind", ["tar", "tar+gzip", "tar+zstd"])
@pytest.mark.parametrize("prefix", [f"{OCI}.layer.v1.", f"{OCI}.layer.nondistributable.v1."])
def test_oci_layers_of_all_kinds_are_taken(kind: str, prefix: str) -> None:
    document = {"schemaVersion": 2, "config": CONFIG, "layers": [{"mediaType": prefix + kind, "digest": B}]}
    assert manifest.read_manifest(dump(document), name="x") == Manifest(A, (B,))


@pytest.mark.parametrize(
    "annotations, kept",
    [
        ({"io.clearpod.kernel.path": "/k", "other": "x"}, {"io.clearpod.kernel.path": "/k"}),
        ({"com.urunc.unikernel.binary": "L2s="}, {"com.urunc.unikernel.binary": "L2s="}),
        ({"io.clearpod.kernel.path": 7}, {}),
        ({"io.clearpod.kernel.path": "k" * 5000}, {}),
        (["io.clearpod.kernel.path"], {}),
        (None, {}),
    ],
)
def test_a_manifests_annotations_about_a_kernel_are_kept_as_labels(annotations: Any, kept: dict[str, str]) -> None:
    labels = manifest.kernel_annotations(dump({"annotations": annotations}))
    assert labels == kept
    config = {"config": {"Labels": {"io.clearpod.kernel.machine": "pc"}}}
    labelled = manifest.with_labels(config, labels)
    assert labelled["config"]["Labels"] == {"io.clearpod.kernel.machine": "pc", **kept}
    assert manifest.with_labels({"config": {"Labels": {**kept, "a": "b"}}}, labels)["config"]["Labels"]["a"] == "b"


@pytest.mark.parametrize(
    "own, labels",
    [
        ({"a": "b"}, {"a": "b", "com.urunc.unikernel.binary": "/file"}),
        (None, {"com.urunc.unikernel.binary": "/file"}),
        (
            {"io.clearpod.kernel.machine": "pc"},
            {"io.clearpod.kernel.machine": "pc", "com.urunc.unikernel.binary": "/file"},
        ),
        ({"com.urunc.unikernel.cmdline": "x"}, {"com.urunc.unikernel.cmdline": "x"}),
        (["odd"], {"com.urunc.unikernel.binary": "/file"}),
    ],
)
def test_uruncs_file_counts_where_no_label_of_uruncs_does(own: Any, labels: dict[str, str]) -> None:
    merged = manifest.with_file({"config": {"Labels": own}}, {"com.urunc.unikernel.binary": "/file"})
    assert merged["config"]["Labels"] == labels
    assert manifest.with_file({"config": None}, {}) == {"config": None}


def test_only_some_annotations_about_a_kernel_are_kept() -> None:
    many = {f"io.clearpod.kernel.{number}": "x" for number in range(1000)}
    assert len(manifest.kernel_annotations(dump({"annotations": many}))) < 100


def test_a_docker_manifest_is_taken() -> None:
    document = {
        "schemaVersion": 2,
        "config": {"mediaType": f"{DOCKER}.container.image.v1+json", "digest": A},
        "layers": [{"mediaType": f"{DOCKER}.image.rootfs.diff.tar.gzip", "digest": B}],
    }
    assert manifest.read_manifest(dump(document), name="x") == Manifest(A, (B,))


@pytest.mark.parametrize(
    ("document", "kind", "says"),
    [
        ({"schemaVersion": 1}, Unsupported, "OCI nor Docker"),
        ({"schemaVersion": 2, "config": {}, "layers": []}, Unsupported, "not a container image"),
        ({"schemaVersion": 2, "config": 5, "layers": []}, Unsupported, "not a container image"),
        ({"schemaVersion": 2, "config": {"mediaType": [1]}, "layers": []}, Unsupported, "not a container image"),
        ({"schemaVersion": 2, "config": CONFIG, "layers": []}, Unsupported, "has no layers"),
        ({"schemaVersion": 2, "config": CONFIG, "layers": [{"mediaType": "a/b"}]}, Unsupported, "type a/b"),
        ({"schemaVersion": 2, "config": CONFIG, "layers": [7]}, Unsupported, "type None"),
        (
            {"schemaVersion": 2, "config": CONFIG, "layers": [{**LAYER, "digest": "../x"}]},
            Corrupt,
            "no sha256",
        ),
        ([], Corrupt, "JSON object"),
    ],
)
def test_what_is_no_image_is_refused(document: Any, kind: type[PodError], says: str) -> None:
    with pytest.raises(kind, match=says):
        manifest.read_manifest(dump(document), name="x")


@pytest.mark.parametrize(
    ("document", "kind", "says"),
    [
        (
            {"architecture": "arm64", "os": "linux", "rootfs": {"diff_ids": [A]}},
            BadRequest,
            "for linux/arm64 and",
        ),
        (
            {"architecture": "amd64", "os": "windows", "rootfs": {"diff_ids": [A]}},
            BadRequest,
            "for windows/amd64",
        ),
        (
            {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": []}},
            Corrupt,
            "1 layers .*0 diff",
        ),
        ({"architecture": "amd64", "os": "linux"}, Corrupt, "1 layers .*0 diff"),
        (
            {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": ["x"]}},
            Corrupt,
            "not a sha256 digest",
        ),
    ],
)
def test_a_config_must_fit_its_manifest_and_this_host(document: Any, kind: type[PodError], says: str) -> None:
    with pytest.raises(kind, match=says):
        manifest.read_config(dump(document), Manifest(A, (B,)), name="x", architecture="amd64")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"config": [1]}, "config .*object"),
        ({"rootfs": "x"}, "rootfs .*object"),
        ({"rootfs": {"diff_ids": {"a": 1}}}, "diff_ids .*list"),
        ({"config": {"User": 7}}, "whose User is '7'"),
        ({"config": {"Env": "A=1"}}, "whose Env is 'A=1'"),
        ({"config": {"Cmd": ["sh", None]}}, "whose Cmd is"),
        ({"config": {"Entrypoint": {"sh": 1}}}, "whose Entrypoint is"),
        ({"config": {"Volumes": 5}}, "whose Volumes is"),
        ({"config": {"Volumes": ["/a", None]}}, "whose Volumes is"),
    ],
)
def test_a_config_with_fields_that_are_something_else_is_refused(changes: Any, says: str) -> None:
    document = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [A]}, **changes}
    with pytest.raises(Corrupt, match=says):
        manifest.read_config(dump(document), Manifest(A, (B,)), name="x", architecture="amd64")


def test_a_config_may_lack_everything_that_is_not_needed() -> None:
    for inner in (None, {}, {"User": None, "Env": None, "Cmd": []}):
        document = {"rootfs": {"diff_ids": [A]}, "config": inner}
        assert manifest.read_config(dump(document), Manifest(A, (B,)), name="x", architecture="amd64") == document


def test_layers_without_a_sensible_size_have_none() -> None:
    sizes = [{"digest": str(n), "size": size} for n, size in enumerate((7, 0, -1, True, "7", None))]
    assert manifest.sizes(dump({"layers": [*sizes, {"digest": "x"}]})) == {"0": 7}
