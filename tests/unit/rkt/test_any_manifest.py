# SPDX-License-Identifier: Apache-2.0
"""Whatever stands in a manifest: it is read, or refused with a sentence; nothing else happens."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stage1.errors import PodError
from stage1.pod import oci
from stage1.rkt import loader
from stage1.rkt.arguments import RunOptions
from tests.unit.rkt.pod_dir import UUID, Document, app, lay

OPTIONS = RunOptions(UUID)
ISOLATORS = [
    {"name": "resource/memory", "value": {"limit": "64Mi"}},
    {"name": "resource/cpu", "value": {"limit": "500m"}},
    {"name": "os/linux/cpu-shares", "value": 512},
    {"name": "os/linux/capabilities-retain-set", "value": {"set": ["CAP_KILL"]}},
    {"name": "os/linux/seccomp-retain-set", "value": {"set": ["read", "@systemd/clock"], "errno": "EPERM"}},
    {"name": "os/linux/no-new-privileges", "value": True},
    {"name": "os/unix/sysctl", "value": {"a": "b"}},
]
ENTRY = app(
    entry={
        "readOnlyRootFS": True,
        "annotations": [{"name": "coreos.com/rkt/stage2/stdin", "value": "stream"}],
        "mounts": [{"volume": "v", "path": "/m", "appVolume": {"name": "v", "kind": "host", "source": "/tmp"}}],
    },
    workingDirectory="/tmp",
    supplementaryGIDs=[7],
    environment=[{"name": "A", "value": "b"}],
    eventHandlers=[{"name": "pre-start", "exec": ["sh"]}],
    mountPoints=[{"name": "d", "path": "/d", "readOnly": True}],
    ports=[{"name": "p", "protocol": "tcp", "port": 80, "count": 1}],
    isolators=ISOLATORS,
)
POD: Document = {
    "apps": [ENTRY],
    "volumes": [{"name": "w", "kind": "empty", "mode": "0755", "uid": 0}],
    "ports": [{"name": "p", "hostPort": 8080}],
    "annotations": [{"name": "clearpod.io/vcpus", "value": "1"}],
    "isolators": [],
}
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from(["", "/", "..", "\0", "a\nb", "-1", "9" * 40, "@appc.io/all", "1e99", "\ud800", "0x", "é"]),
    st.lists(st.integers(), max_size=2),
    st.just({}),
    st.just([{}]),
    st.just([None]),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in the document."""
    if path:
        yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> str:
    return lay(tmp_path_factory.mktemp("any"), ENTRY)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(where=st.sampled_from(list(places(POD))), value=VALUES)
def test_any_value_anywhere(pod: str, where: tuple[Any, ...], value: Any) -> None:
    document = copy.deepcopy(POD)
    at: Any = document
    for key in where[:-1]:
        at = at[key]
    at[where[-1]] = value
    Path(pod, "pod").write_text(json.dumps(document))
    refused, apps = "", ()
    try:
        result = loader.read_pod(pod, OPTIONS)
        apps = result.apps
    except PodError as error:
        refused = str(error)
    assert "\n" not in refused and bool(refused) != bool(apps)
    for one in apps:
        assert all("\0" not in word for word in (*one.container.process.argv, *one.container.process.env))
        json.dumps(oci.config(result.pod, one.container))


def test_the_document_itself_is_fine(pod: str) -> None:
    Path(pod, "pod").write_text(json.dumps(POD))
    assert loader.read_pod(pod, OPTIONS).apps
