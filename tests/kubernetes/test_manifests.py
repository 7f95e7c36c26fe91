# SPDX-License-Identifier: Apache-2.0
"""The manifests in docs/admin/kubernetes are what Kubernetes and agent-sandbox understand, and agree."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from cri.config import Config
from cri.translate import kernel

DOCS = Path(__file__).parents[2] / "docs/admin/kubernetes"
VERSIONS = ("1.36", "1.37")
OTHERS = ("kubelet.config.k8s.io", "agents.x-k8s.io", "extensions.agents.x-k8s.io")
"""Groups whose objects the API server has no schema of: test_kubelet_files.py and the CRDs have."""
CRDS = os.environ.get("CLEARPOD_AGENT_SANDBOX_CRDS", "")
"""The directory `k8s/crds` of a checkout of kubernetes-sigs/agent-sandbox."""


def documents(folder: Path = DOCS, pattern: str = "*.yaml") -> list[dict[str, Any]]:
    """All objects of a folder's files."""
    files = sorted(folder.glob(pattern))
    return [one for file in files for one in yaml.safe_load_all(file.read_text(encoding="utf-8")) if one]


def group_of(one: dict[str, Any]) -> str:
    """Of its API; empty for the core's."""
    return str(one["apiVersion"]).rpartition("/")[0]


def title(one: dict[str, Any]) -> str:
    """For the name of a test."""
    return f"{one['kind']}-{one.get('metadata', {}).get('name', '')}"


CORE = [one for one in documents() if group_of(one) not in OTHERS]
SANDBOXES = documents(DOCS, "agent-sandbox.yaml")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("one", CORE, ids=title)
def test_a_manifest_has_only_fields_that_kubernetes_knows(one: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("wrong", [{"handlr": "clearpod"}, {"overhead": {"podFixed": ["128Mi"]}}], ids=str)
def test_a_wrong_field_would_be_noticed(wrong: dict[str, Any]) -> None:
    runtime_class = next(one for one in CORE if one["kind"] == "RuntimeClass")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**runtime_class, **wrong}, VERSIONS[0], strict=True)


def _pod_specs(node: Any) -> Iterator[dict[str, Any]]:
    """Whatever has containers, at any depth."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for value in node.values():
            yield from _pod_specs(value)


def test_every_pod_names_a_runtime_class_that_a_node_offers() -> None:
    classes = {one["metadata"]["name"]: one for one in CORE if one["kind"] == "RuntimeClass"}
    pods = [spec for one in [*CORE, *SANDBOXES] for spec in _pod_specs(one)]
    assert len(pods) >= 3 and {pod["runtimeClassName"] for pod in pods} <= classes.keys()
    assert {one["handler"] for one in classes.values()} <= set(kernel.handlers([]))


def test_labels_and_taints_of_nodes_are_those_that_runtime_classes_ask_for() -> None:
    node = next(one for one in CORE if one["kind"] == "Node")
    taints = {(taint["key"], taint["value"], taint["effect"]) for taint in node["spec"]["taints"]}
    for one in (one for one in CORE if one["kind"] == "RuntimeClass"):
        expected = one["scheduling"]
        assert expected["nodeSelector"].keys() <= node["metadata"]["labels"].keys()
        assert {(each["key"], each["value"], each["effect"]) for each in expected["tolerations"]} >= taints
    for kubelet in documents(pattern="kubelet-*.yaml"):
        assert {(taint["key"], taint["value"], taint["effect"]) for taint in kubelet["registerWithTaints"]} == taints
        assert kubelet["containerRuntimeEndpoint"] == f"unix://{Config().socket_path}"


def _strict(schema: Any) -> Any:
    """The schema of a CRD, by which a field that it does not have is an error and not dropped."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


@functools.cache
def _crds() -> list[dict[str, Any]]:
    return documents(Path(CRDS))


def _schema_of(one: dict[str, Any]) -> Any:
    """Of its kind and version; `metadata` and the rest of what every object has are checked elsewhere."""
    for crd in _crds():
        names = (crd["spec"]["group"], crd["spec"]["names"]["kind"])
        for version in crd["spec"]["versions"] if names == (group_of(one), one["kind"]) else ():
            if version["served"] and one["apiVersion"].endswith(f"/{version['name']}"):
                return _strict(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    raise AssertionError(f"no CRD in {CRDS} serves {one['apiVersion']} {one['kind']}")


@pytest.mark.skipif(not CRDS, reason="needs $CLEARPOD_AGENT_SANDBOX_CRDS, the directory k8s/crds of agent-sandbox")
@pytest.mark.parametrize("one", SANDBOXES, ids=title)
def test_a_manifest_is_what_agent_sandbox_has_a_schema_for(one: dict[str, Any]) -> None:
    schema = _schema_of(one)
    jsonschema.validate(one["spec"], schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**one["spec"], "unheardOf": 1}, schema)
