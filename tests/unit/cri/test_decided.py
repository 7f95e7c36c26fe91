# SPDX-License-Identifier: Apache-2.0
"""Nothing that is decided of a container or a pod is forgotten when a copy is compared with its original: each field of
the CRI's messages, and of our values, is compared or has a reason why not.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cri.live.images import Accounts
from cri.pb import runtime_pb2 as pb
from cri.snapshots import decided
from cri.snapshots.decided import RULES, Rule
from cri.store.images import Image
from cri.store.pods import Decided, PodRecord
from cri.translate import container
from cri.translate.container import Findings
from stage1.errors import PodError
from stage1.pod import model
from stage1.pod.model import Container, EmptyDir, IdMap, InMemory, Mount, Pod, Process, Security, User

SAME = "another value of it is another container, or is refused by itself"
IDENTITY = "the copy's own"
PROGRAM = "of the program that runs already; docs/admin/fork.md"
ANEW = "applied anew"
HOST = "applied anew on the host"
MACHINE = "the machine must be the same: stage1.snapshot"
LATER = "decided in CreateContainer: Security.apparmor"
NOTHING = "has no effect on a process in a guest"
USERNS = "must be the pod's, and a pod with a user namespace can't be copied"

RESOURCES = {
    "cpu_period": ANEW,
    "cpu_quota": ANEW,
    "cpu_shares": ANEW,
    "memory_limit_in_bytes": ANEW,
    "oom_score_adj": "orders kills within the guest, and depends on the node",
    "cpuset_cpus": ANEW,
    "cpuset_mems": ANEW,
    "hugepage_limits": {"page_size": ANEW, "limit": ANEW},
    "unified": ANEW,
    "memory_swap_limit_in_bytes": ANEW,
}
NAMED_IMAGE = {
    "image": "by which it is looked for; its id is compared",
    "annotations": NOTHING,
    "user_specified_image": "shown in statuses",
    "runtime_handler": NOTHING,
    "image_ref": NOTHING,
}
IDS = {"host_id": USERNS, "container_id": USERNS, "length": USERNS}
NAMESPACES = {
    "network": "only a pod on the host has other ones, and can't be copied",
    "pid": SAME,
    "ipc": "only a pod on the host has other ones, and can't be copied",
    "target_id": SAME,
    "userns_options": {"mode": USERNS, "uids": IDS, "gids": IDS},
}
SELINUX = {"user": SAME, "role": SAME, "type": SAME, "level": SAME}
WINDOWS = "a pod of ours has Linux"
CONTAINER = {
    "metadata": {"name": "by which the original's is found", "attempt": "the first one takes it"},
    "image": NAMED_IMAGE,
    "command": PROGRAM,
    "args": PROGRAM,
    "working_dir": SAME,
    "envs": {"key": PROGRAM, "value": PROGRAM},
    "mounts": {
        "container_path": SAME,
        "host_path": HOST,
        "readonly": SAME,
        "selinux_relabel": NOTHING,
        "propagation": SAME,
        "uidMappings": IDS,
        "gidMappings": IDS,
        "recursive_read_only": SAME,
        "image": NAMED_IMAGE | {"image": SAME},
        "image_sub_path": SAME,
        "mount_options": SAME,
    },
    "devices": {"container_path": SAME, "host_path": SAME, "permissions": SAME},
    "labels": IDENTITY,
    "annotations": "those that decide something do so as fields of our values",
    "log_path": HOST,
    "stdin": SAME,
    "stdin_once": SAME,
    "tty": SAME,
    "linux": {
        "resources": RESOURCES,
        "security_context": {
            "capabilities": {"add_capabilities": SAME, "drop_capabilities": SAME, "add_ambient_capabilities": SAME},
            "privileged": SAME,
            "namespace_options": NAMESPACES,
            "selinux_options": SELINUX,
            "run_as_user": {"value": SAME},
            "run_as_username": SAME,
            "readonly_rootfs": SAME,
            "supplemental_groups": SAME,
            "apparmor_profile": LATER,
            "seccomp_profile_path": SAME,
            "no_new_privs": SAME,
            "run_as_group": {"value": SAME},
            "masked_paths": SAME,
            "readonly_paths": SAME,
            "seccomp": {"profile_type": SAME, "localhost_ref": SAME},
            "apparmor": {"profile_type": LATER, "localhost_ref": LATER},
            "supplemental_groups_policy": SAME,
        },
    },
    "windows": WINDOWS,
    "CDI_devices": {"name": "its edits are devices, mounts and groups of our values"},
    "stop_signal": HOST,
}
GATE = "what a container may ask for by it, that container is compared by"
POD = {
    "metadata": {"name": IDENTITY, "uid": IDENTITY, "namespace": IDENTITY, "attempt": IDENTITY},
    "hostname": ANEW,
    "log_directory": HOST,
    "dns_config": {"servers": ANEW, "searches": ANEW, "options": ANEW},
    "port_mappings": {"protocol": HOST, "container_port": HOST, "host_port": HOST, "host_ip": HOST},
    "labels": IDENTITY,
    "annotations": "those that decide something do so as fields of our values",
    "linux": {
        "cgroup_parent": HOST,
        "security_context": {
            "namespace_options": NAMESPACES | {"pid": GATE, "target_id": GATE},
            "selinux_options": dict.fromkeys(SELINUX, NOTHING),
            "run_as_user": {"value": NOTHING},
            "readonly_rootfs": NOTHING,
            "supplemental_groups": NOTHING,
            "privileged": GATE,
            "seccomp_profile_path": NOTHING,
            "run_as_group": {"value": NOTHING},
            "seccomp": {"profile_type": NOTHING, "localhost_ref": NOTHING},
            "apparmor": {"profile_type": NOTHING, "localhost_ref": NOTHING},
            "supplemental_groups_policy": NOTHING,
        },
        "sysctls": "Pod.sysctls",
        "overhead": RESOURCES | {"oom_score_adj": ANEW},
        "resources": RESOURCES | {"oom_score_adj": ANEW},
    },
    "windows": WINDOWS,
}


def _unlike(message: Any, rules: Any, path: str = "") -> Iterator[str]:
    """Fields of the message that have no rule, and rules that have no field."""
    fields = {field.name: field.message_type for field in message.fields}
    for name in fields.keys() ^ rules.keys():
        yield f"{path}{name}"
    for name in fields.keys() & rules.keys():
        inner = fields[name]
        has_fields = inner is not None and not inner.GetOptions().map_entry
        if isinstance(rules[name], str):
            if has_fields and rules[name] != WINDOWS:
                yield f"{path}{name}"
        else:
            yield from _unlike(inner, rules[name], f"{path}{name}.")


@pytest.mark.parametrize(("message", "rules"), [(pb.ContainerConfig, CONTAINER), (pb.PodSandboxConfig, POD)])
def test_each_field_of_a_request_is_compared_or_has_a_reason_why_not(message: Any, rules: Any) -> None:
    assert list(_unlike(message.DESCRIPTOR, rules)) == []


def test_each_field_of_our_values_is_compared_or_has_a_reason_why_not() -> None:
    assert set(RULES) >= {Container, Process, User, Security, Mount, EmptyDir, InMemory, model.Device, Pod}
    for kind, rules in RULES.items():
        assert tuple(rules) == kind._fields or set(rules) == set(kind._fields), kind  # type: ignore[attr-defined]
        assert all(bool(rule.name) != bool(rule.why) for rule in rules.values())
    names = [rule.name for kind in (Container, Process, User, Security, Pod) for rule in RULES[kind].values()]
    compared = [name for name in names if name]
    assert len(compared) == len(set(compared)), "two fields have one name"
    inner = [field for field in ("process", "security") if RULES[Container][field].why.startswith("its own")]
    assert inner == ["process", "security"]


ENV, IMAGE = ["PATH=/bin"], {"Entrypoint": ["/entry"], "Env": ["PATH=/bin"]}
PROFILE = {"defaultAction": "SCMP_ACT_ALLOW"}


def images() -> dict[str, Image]:
    return {name: Image(f"sha256:{name}", (), (), 0, "", {"config": IMAGE}, "") for name in ("i", "other")}


def rich(place: Path) -> list[pb.ContainerConfig]:
    """Requests, each of which has most of what there is."""
    (place / "source").mkdir(exist_ok=True)
    for name, action in (("one.json", "SCMP_ACT_ALLOW"), ("two.json", "SCMP_ACT_ERRNO")):
        (place / name).write_text(json.dumps({"defaultAction": action}))
    made = []
    for profile, options in ((f"{place}/one.json", {}), ("", {"pid": pb.TARGET, "target_id": "t"})):
        kind = pb.SecurityProfile.Localhost if profile else pb.SecurityProfile.RuntimeDefault
        context = pb.LinuxContainerSecurityContext(
            run_as_user=pb.Int64Value(value=7),
            run_as_group=pb.Int64Value(value=8),
            supplemental_groups=[5, 6],
            seccomp=pb.SecurityProfile(profile_type=kind, localhost_ref=profile),
            namespace_options=pb.NamespaceOption(**options),
        )
        mounts = [
            pb.Mount(container_path="/v", host_path=str(place / "source")),
            pb.Mount(container_path="/r", host_path=str(place / "source"), readonly=True),
            pb.Mount(container_path="/i", image=pb.ImageSpec(image="i"), readonly=True),
        ]
        made.append(
            pb.ContainerConfig(
                metadata={"name": "c"},
                image=pb.ImageSpec(image="i"),
                mounts=mounts,
                devices=[pb.Device(host_path="/dev/null", container_path="/dev/x", permissions="r")],
                linux=pb.LinuxContainerConfig(security_context=context),
            )
        )
    by_name = pb.ContainerConfig()
    by_name.CopyFrom(made[1])
    for name in ("run_as_user", "run_as_group"):
        by_name.linux.security_context.ClearField(name)
    return [*made, by_name]


def of(config: pb.ContainerConfig) -> tuple[Decided, ...]:
    privileged = pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(privileged=True))
    pod = PodRecord(Pod("p", "web"), pb.PodSandboxConfig(linux=privileged).SerializeToString(), "", 0)
    accounts = Accounts("root:x:0:0::/:\nme:x:9:9::/:\nu7:x:7:7::/:\n", "g:x:50:u7,me\n")
    record = container.record(config, pod, images=images(), findings=Findings(accounts))
    return decided.of_container(record, guest_ids={})


def _changed(message: Any, path: list[str], place: Path) -> Iterator[Any]:
    """Changes the field at `path` of the message in place, in one way after another; yields with each."""
    name, rest = path[0], path[1:]
    field = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    if rest:
        for one in list(value) if hasattr(value, "add") else [value]:
            for _ in _changed(one, rest, place):
                yield name
        return
    if hasattr(value, "append"):
        for item in {field.CPPTYPE_STRING: ["NET_ADMIN", "/other", "noexec"]}.get(field.cpp_type, [77]):
            kept = list(value)
            value.append(item)
            yield name
            del value[:]
            value.extend(kept)
        return
    tried: dict[int, list[Any]] = {
        field.CPPTYPE_BOOL: [True],
        field.CPPTYPE_STRING: ["other", "/other", "me", "w", f"{place}/two.json", "/dev/zero"],
        field.CPPTYPE_ENUM: [0, 1, 2],
    }
    for item in tried.get(field.cpp_type, [77]):
        setattr(message, name, item)
        yield name
        setattr(message, name, value)


def _paths(rules: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, rule in rules.items():
        if rule == SAME:
            yield (*above, name)
        elif isinstance(rule, dict):
            yield from _paths(rule, (*above, name))


@pytest.mark.parametrize("path", list(_paths(CONTAINER)), ids=".".join)
def test_another_value_of_a_compared_field_is_noticed(tmp_path: Path, path: tuple[str, ...]) -> None:
    """As it comes from a request: a field that the translation loses on the way is not compared."""
    noticed = 0
    for config in rich(tmp_path):
        before = of(config)
        assert decided.difference(before, of(config)) is None
        for _ in _changed(config, list(path), tmp_path):
            try:
                noticed += decided.difference(before, of(config)) is not None
            except PodError:
                continue  # refused by itself
    assert noticed


LESS: dict[str, dict[str, Any]] = {
    "run_as_user": {"process": Process((), user=User(1000))},
    "supplemental_groups": {"process": Process((), user=User(groups=(5,)))},
    "working_dir": {"process": Process((), cwd="/w")},
    "apparmor": {"security": Security(apparmor="p")},
    "a writable /sys": {"security": Security(writable_sys=True)},
    "rlimits": {"rlimits": (model.Rlimit("RLIMIT_NOFILE", 1, 2),)},
    "tmpfs": {"tmpfs": (model.Tmpfs("/t", ("noexec",)),)},
    "devices": {"devices": (model.Device("/dev/null", "/dev/cdi"),)},
    "mounts": {"mounts": (Mount("/s", "/t", empty_dir=EmptyDir("cache", uid=5)),)},
    "volumes of the image": {"volumes": ("/v",)},
    "files of the pod": {"pod_files": ("hosts",)},
}


@pytest.mark.parametrize("name", LESS)
def test_what_plugins_and_cdi_and_annotations_decide_is_compared_too(name: str) -> None:
    plain = Container("id", "c", "i", Process(()))
    was, now = (
        tuple(Decided(*one) for one in decided._fields(value)) for value in (plain, plain._replace(**LESS[name]))
    )
    other = decided.difference(was, now)
    assert other is not None and other[0] == name
    assert decided.difference(now, was) == (name, other[2], other[1])


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "other"},
        {"name": "other"},
        {"process": Process(("other",), ("A=b",))},
        {"limits": model.Limits(memory=5)},
        {"stop_signal": 9},
        {"mounts": (Mount("/other", "/t", memory=InMemory(7)), Mount("", model.BOOT_ID_SEEN_AT))},
        {"mounts": (Mount("/s", "/t", memory=InMemory(5), empty_dir=EmptyDir(size_bytes=9)),)},
    ],
)
def test_what_is_applied_anew_may_differ(changes: dict[str, Any]) -> None:
    plain = Container("id", "c", "i", Process(()), mounts=(Mount("/s", "/t", memory=InMemory(5)),))
    assert list(decided._fields(plain)) == list(decided._fields(plain._replace(**changes)))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"sysctls": (("net.ipv4.ip_forward", "1"),)}, "sysctls"),
        ({"shm_bytes": 5}, "the size of /dev/shm in bytes"),
        ({"ids": IdMap(65536, 65536)}, "userns_options"),
        ({"host": ("pid",)}, "namespaces of the host"),
        ({"disk_limits": (model.DiskLimit("a", 5),)}, "limits of volumes on its disk"),
        ({"copies_files": True}, "copies of files"),
        ({"name": "other", "hostname": "h", "cgroup_parent": "/x", "egress_bits": 7, "limit_bytes": 9}, ""),
    ],
)
def test_of_a_pod_is_compared_what_its_guest_keeps(changes: dict[str, Any], name: str) -> None:
    plain = Pod("p", "web")
    other = decided.difference(decided.of_pod(plain), decided.of_pod(plain._replace(**changes)))
    assert (other[0] if other else "") == name
    assert decided.of_pod(plain) == ()


def test_long_values_are_cut_and_still_compared() -> None:
    one, two = (Security(seccomp="{" + "x" * 5000 + end) for end in "ab")
    values = [dict(decided._fields(security))["seccomp"] for security in (one, two)]
    assert values[0] != values[1] and all(len(value) <= decided.MOST_CHARACTERS for value in values)
    many = Security(masked_paths=tuple(f"/p/{number}" for number in range(10000)))
    assert len(dict(decided._fields(many))["masked_paths"]) <= decided.MOST_CHARACTERS


def test_the_words_of_a_value_can_not_be_read_as_another_value() -> None:
    for one, other in ((("a", "b"), ("a, b",)), (("none",), ()), (("a b",), ("a", "b")), (("",), ())):
        assert decided._text(one) != decided._text(other)


def test_a_container_whose_processes_another_one_shares_is_known_by_its_name_in_the_guest(tmp_path: Path) -> None:
    config = rich(tmp_path)[1]
    pod = PodRecord(Pod("p", "web"), b"", "", 0)
    record = container.record(config, pod, images=images(), findings=Findings(Accounts()))
    was = decided.of_container(record, guest_ids={"t": "t"})
    renamed = record.container.security._replace(pid_namespace="target:new")
    copy = record._replace(container=record.container._replace(security=renamed))
    assert decided.difference(was, decided.of_container(copy, guest_ids={"new": "t"})) is None
    assert decided.difference(was, decided.of_container(copy, guest_ids={"new": "x"})) is not None


def test_a_rule_says_one_thing() -> None:
    assert Rule("name").why == "" and Rule(why="x").name == ""
