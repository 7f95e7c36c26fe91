# SPDX-License-Identifier: Apache-2.0
"""What the annotations of a pod's author may ask for: by default nothing that costs others, and more by a rule."""

from typing import Any

import pytest

from cri import policy
from cri.config import Config, parse
from cri.pb import runtime_pb2 as pb
from cri.translate import sandbox
from stage1.errors import BadRequest
from stage1.pod.model import Pod
from tests.fakes.open_policy import OPEN

MIB = 1 << 20
RULES = """
[policy]
networks = ["storage"]
[[policy.rules]]
namespaces = ["team-a", "trusted-*"]
max_memory_mib = 1024
networks = ["storage-?", "backup"]
profiles = ["systemd"]
[[policy.rules]]
namespaces = ["trusted-x", "routers"]
annotations = ["clearpod.io/allow-spoofing"]
max_memory_mib = 2048
"""


def asked(config: Config, namespace: str = "default", *, memory: int = 0, cpus: int = 0, **argv: str) -> Pod:
    """The pod of a sandbox with these annotations (`memory_mib` is clearpod.io/memory-mib) and limits."""
    annotations = {f"clearpod.io/{word.replace('_', '-')}": value for word, value in argv.items()}
    names = pb.PodSandboxMetadata(name="web", namespace=namespace)
    expected = pb.PodSandboxConfig(metadata=names, annotations=annotations | {"example.com/memory-mib": "9" * 9})
    expected.linux.resources.memory_limit_in_bytes = memory * MIB
    expected.linux.resources.cpu_quota, expected.linux.resources.cpu_period = cpus * 1000, 1000
    return sandbox.record(pb.RunPodSandboxRequest(config=expected), config, handlers=("",)).pod


ALLOWED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"memory_mib": "64"}, {"memory_mib": 64}),
    ({"memory_mib": "128"}, {"memory_mib": 128}),
    ({"memory_mib": "1128", "memory": 1000}, {"memory_mib": 1128}),
    ({"vcpus": "1"}, {"vcpus": 1}),
    ({"shm_mib": "128"}, {"shm_bytes": 128 * MIB}),
    ({"shm_mib": "500", "memory": 1000}, {"shm_bytes": 500 * MIB}),
    ({"dax_window_mib": "0"}, {"window_mib": 0}),
    ({"dax_window_mib": "256"}, {"window_mib": 256}),
    ({"kernel": "mine"}, {"kernel": "mine"}),
    ({"guest_profile": "default"}, {"profile": ""}),
    ({"networks": " "}, {"networks": ()}),
    ({"allow_spoofing": "false"}, {"allow_spoofing": False}),
    ({"template": "none"}, {"boots": True}),
    ({"template": ""}, {"boots": False, "suspend": ""}),
    ({"snapshot": "web"}, {"boots": False, "suspend": "manual"}),
    ({"emptydir": "guest", "files": "host"}, {"kubelet_dir": "", "disk_volumes": ()}),
]


@pytest.mark.parametrize(("argv", "expected"), ALLOWED)
def test_the_default_allows_what_has_no_cost_for_others(argv: dict[str, Any], expected: dict[str, Any]) -> None:
    pod = asked(Config(), **argv)
    assert {name: getattr(pod, name) for name in expected} == expected


REFUSED = [
    ({"memory_mib": "20000"}, "clearpod.io/memory-mib is 20000", "at most 128; policy.max_memory_mib"),
    ({"memory_mib": "2148", "memory": 1000}, "clearpod.io/memory-mib is 2148", "at most 2147"),
    ({"vcpus": "200"}, "clearpod.io/vcpus is 200", "at most 1; policy.max_vcpus"),
    ({"shm_mib": "129"}, "clearpod.io/shm-mib is 129", "at most 128; policy.max_shm_mib"),
    ({"shm_mib": "65", "memory_mib": "64"}, "clearpod.io/shm-mib is 65", "at most 64"),
    ({"dax_window_mib": "257"}, "clearpod.io/dax-window-mib is 257", "at most 256; policy.max_window_mib"),
    ({"guest_profile": "systemd"}, "clearpod.io/guest-profile asks for 'systemd'", "policy.profiles"),
    ({"networks": "storage"}, "clearpod.io/networks asks for 'storage'", "policy.networks"),
    ({"networks": ",".join("abcdefgh")}, "clearpod.io/networks names 8 networks", "policy.max_networks"),
    ({"allow_spoofing": "true"}, "clearpod.io/allow-spoofing is not allowed", "policy.annotations"),
    ({"template": "web"}, "clearpod.io/template", "must be none"),
    ({"snapshot": "We b"}, "clearpod.io/snapshot", "'We b'"),
    ({"allow_spoofing": "yes"}, "clearpod.io/allow-spoofing ", "it is 'yes'"),
    *(
        ({word: text}, f"clearpod.io/{word.replace('_', '-')} must be a whole number from 0 to ", "but it is ")
        for word in ("memory_mib", "vcpus", "shm_mib", "dax_window_mib")
        for text in ("9" * 5000, "-1", "1e3", "0x10", "1.5", " 1", "\u0663", "1\n", "99999999")
    ),
]


@pytest.mark.parametrize(("argv", "what", "why"), REFUSED)
def test_everything_else_is_refused_with_the_value_the_bound_and_the_key(
    argv: dict[str, Any], what: str, why: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        asked(Config(), **argv)
    assert what in str(caught.value) and why in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("namespace", "argv", "key"),
    [
        ("default", {"memory_mib": "1024"}, r"policy.max_memory_mib in"),
        ("team-a", {"memory_mib": "1024"}, ""),
        ("team-a", {"memory_mib": "1025"}, r"policy.max_memory_mib .*rule 1\b"),
        ("Team-a", {"memory_mib": "1024"}, r"policy.max_memory_mib in"),
        ("team-ab", {"memory_mib": "1024"}, r"policy.max_memory_mib in"),
        ("trusted-x", {"memory_mib": "2048"}, r"policy.max_memory_mib .*rule 1\b"),
        ("trusted-", {"guest_profile": "systemd"}, ""),
        ("routers", {"guest_profile": "default"}, r"policy.annotations .*rule 2\b"),
        ("routers", {"allow_spoofing": "true"}, ""),
        ("team-a", {"allow_spoofing": "true"}, r"policy.annotations .*rule 1\b"),
        ("default", {"networks": "storage"}, ""),
        ("default", {"networks": "storage,backup"}, r"policy.networks in"),
        ("team-a", {"networks": "storage-1,backup"}, ""),
        ("team-a", {"networks": "storage"}, r"policy.networks .*rule 1\b"),
        ("team-a", {"networks": "storage-11"}, r"policy.networks .*rule 1\b"),
    ],
)
def test_the_first_rule_whose_pattern_matches_the_namespace_applies(
    namespace: str, argv: dict[str, str], key: str
) -> None:
    config = parse(RULES)
    if not key:
        asked(config, namespace, **argv)
        return
    with pytest.raises(BadRequest, match=key):
        asked(config, namespace, **argv)


def test_kernels_are_bounded_also_when_a_handler_stands_for_one() -> None:
    expected = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="a", namespace="b"))
    request = pb.RunPodSandboxRequest(config=expected, runtime_handler="clearpod-stock")
    with pytest.raises(BadRequest, match=r"handler clearpod-stock .* 'stock', which policy\.kernels"):
        sandbox.record(request, parse("[policy]\nkernels = []"), handlers=("", "clearpod-stock"))


def test_the_nodes_own_limit_holds_under_any_policy() -> None:
    config = parse("[limits]\nmax_pod_memory_mib = 512").but(policy=OPEN)
    with pytest.raises(BadRequest, match=r"limits\.max_pod_memory_mib allows 512"):
        asked(config, memory_mib="1024")


def test_every_annotation_of_ours_is_known_and_all_but_one_are_allowed() -> None:
    assert set(policy.KNOWN) - set(policy.Policy().annotations) == {policy.SPOOFING}
    assert set(OPEN.annotations) == set(policy.KNOWN)


def test_the_policy_as_text_names_every_bound_and_rule() -> None:
    (usual,) = policy.described(policy.Policy())
    assert usual.startswith("all annotations but clearpod.io/allow-spoofing; memory as without annotation; ")
    assert "shm the VM's memory" in usual and "networks none; kernels *; profiles default" in usual
    assert set(policy.described(parse(RULES).policy)[1:]) == {
        "in team-a, trusted-*: memory up to 1024 MiB; networks storage-?, backup; profiles systemd",
        "in trusted-x, routers: annotations clearpod.io/allow-spoofing; memory up to 2048 MiB",
    }


def test_pods_of_some_namespaces_boot() -> None:
    config = parse("[policy]\ntemplates = false\n[[policy.rules]]\nnamespaces = ['one-tenant']\ntemplates = true")
    assert asked(config).boots and not asked(config, "one-tenant").boots
    assert asked(config, "one-tenant", template="none").boots
