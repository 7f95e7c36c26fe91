# SPDX-License-Identifier: Apache-2.0
"""What any field of a request may hold: one table for all, held to the CRI's messages."""

from collections.abc import Iterator
from typing import Any

import pytest

from cri.config import Config
from cri.pb import runtime_pb2 as pb
from cri.translate import bounds, container, limits, network, sandbox
from stage1.errors import BadRequest
from stage1.pod import users
from stage1.pod.model import Pod


def fields() -> Iterator[Any]:
    """Every field that a request can have, whatever is inside of it, but for those that nobody reads."""
    seen: set[str] = set()
    waiting = [method.input_type for service in pb.DESCRIPTOR.services_by_name.values() for method in service.methods]
    while waiting:
        message = waiting.pop()
        if message.full_name in seen:
            continue
        seen.add(message.full_name)
        for field in message.fields:
            if field.name not in bounds.OTHERS:
                yield field
                waiting += [field.message_type] if field.message_type else []


def test_every_number_of_the_cri_has_a_range() -> None:
    numbers = {
        (field.containing_type.name, field.name)
        for field in fields()
        if field.type in (field.TYPE_INT32, field.TYPE_INT64, field.TYPE_UINT32, field.TYPE_UINT64)
        or (field.message_type and field.message_type.name == "Int64Value")
    }
    lacking = {
        f"{message}.{name}"
        for message, name in numbers
        if message != "Int64Value" and not {f"{message}.{name}", name} & bounds.NUMBERS.keys()
    }
    assert len(numbers) > 15 and lacking == set()


def test_every_entry_of_the_tables_is_a_field_of_the_cri() -> None:
    result = {field.name for field in fields()} | {f"{field.containing_type.name}.{field.name}" for field in fields()}
    for table in (bounds.FREE, bounds.PATHS, bounds.COUNTS, bounds.NUMBERS):
        assert set(table) - result == set()
    for message, groups in bounds.TOGETHER.items():
        assert {f"{message}.{name}" for names, _ in groups for name in names} <= result


def sandboxes(**config: Any) -> pb.RunPodSandboxRequest:
    return pb.RunPodSandboxRequest(config=pb.PodSandboxConfig(**config))


def containers(**config: Any) -> pb.CreateContainerRequest:
    return pb.CreateContainerRequest(config=pb.ContainerConfig(**config))


def limited(**resources: Any) -> pb.UpdateContainerResourcesRequest:
    return pb.UpdateContainerResourcesRequest(linux=pb.LinuxContainerResources(**resources))


def of_user(**context: Any) -> pb.CreateContainerRequest:
    return containers(linux={"security_context": context})


LONG = "x" * 5000
REFUSED = [
    (sandboxes(metadata={"name": "a\nb"}), "config.metadata.name must be one line"),
    (sandboxes(metadata={"namespace": "a\x00"}), "config.metadata.namespace has a zero byte: 'a\\x00'"),
    (sandboxes(metadata={"uid": LONG}), "config.metadata.uid has 5000 bytes, and at most 4096"),
    (sandboxes(hostname="a\x7f"), "config.hostname must be one line"),
    (sandboxes(dns_config={"servers": ["1.1.1.1\nnameserver 6.6.6.6"]}), "config.dns_config.servers must be one line"),
    (sandboxes(dns_config={"searches": ["a"] * 65}), "config.dns_config.searches has 65 entries, and at most 64"),
    (sandboxes(annotations={"a": "x" * 600_000}), "config.annotations['a'] has 600000 bytes"),
    (sandboxes(annotations={str(n): "x" * 60_000 for n in range(9)}), "config.labels and annotations have 540009"),
    (sandboxes(labels={"a\n": "b"}), "a key of config.labels must be one line"),
    (sandboxes(labels={"a": "b\x00"}), "config.labels['a'] has a zero byte"),
    (sandboxes(labels={str(n): "" for n in range(16_385)}), "config.labels has 16385 entries"),
    (sandboxes(log_directory="/a\x00"), "config.log_directory has a zero byte"),
    (sandboxes(port_mappings=[{"host_port": -1}]), "config.port_mappings.host_port must be between 0 and 65535"),
    (sandboxes(port_mappings=[{"host_port": 1 << 30}]), "config.port_mappings.host_port must be between 0 and 65535"),
    (sandboxes(port_mappings=[{"protocol": 77}]), "config.port_mappings.protocol is 77, which is no Protocol"),
    (sandboxes(linux={"sysctls": {"a": "1\n2"}}), "config.linux.sysctls['a'] must be one line"),
    (sandboxes(linux={"resources": {"memory_limit_in_bytes": 1 << 62}}), "config.linux.resources.memory_limit_in_"),
    (containers(metadata={"name": "a\tb"}), "config.metadata.name must be one line"),
    (containers(args=["x" * 200_000]), "config.args has 200000 bytes, and at most 131071"),
    (containers(args=["x" * 100_000] * 21), "config.command and args and envs have 2100000 bytes"),
    (containers(args=[""] * 70_000), "config.args has 70000 entries"),
    (containers(envs=[{"key": "A", "value": b"x" * 131_072}]), "config.envs.value has 131072 bytes"),
    (containers(envs=[{"key": "A\n", "value": b""}]), "config.envs.key must be one line"),
    (containers(envs=[{"key": "A", "value": b"\0"}]), "config.envs.value has a zero byte"),
    (containers(log_path="\n"), "config.log_path must be one line"),
    (containers(log_path="x" * 300), "config.log_path has a name of more than 255 bytes"),
    (containers(mounts=[{"host_path": "/a\x00b"}]), "config.mounts.host_path has a zero byte"),
    (containers(mounts=[{"host_path": "/" + "a/" * 2100}]), "config.mounts.host_path has 4201 bytes"),
    (containers(mounts=[{}] * 1025), "config.mounts has 1025 entries"),
    (containers(devices=[{}] * 1025), "config.devices has 1025 entries"),
    (containers(image={"image": "a\x1b[2J"}), "config.image.image must be one line"),
    (containers(stop_signal=999), "config.stop_signal is 999, which is no Signal"),
    (of_user(run_as_user={"value": -1}), "config.linux.security_context.run_as_user must be between 0 and 2147483647"),
    (of_user(run_as_group={"value": 1 << 33}), "config.linux.security_context.run_as_group must be between"),
    (of_user(supplemental_groups=[-5]), "config.linux.security_context.supplemental_groups must be between"),
    (limited(cpu_quota=-5), "linux.cpu_quota must be between -1 and "),
    (limited(oom_score_adj=2000), "linux.oom_score_adj must be between -1000 and 1000, but it is 2000"),
    (limited(cpuset_cpus="0\n1"), "linux.cpuset_cpus must be one line"),
    (limited(unified={"memory.high\n": "1"}), "a key of linux.unified must be one line"),
    (pb.ExecSyncRequest(cmd=["a\x00b"]), "cmd has a zero byte"),
    (pb.ExecSyncRequest(timeout=-1), "timeout must be between 0 and 2147483647"),
    (pb.ExecSyncRequest(timeout=1 << 62), "timeout must be between 0 and 2147483647"),
    (pb.PortForwardRequest(port=[0x10000]), "port must be between 0 and 65535"),
    (pb.PortForwardRequest(port=[80] * 2000), "port has 2000 entries"),
    (pb.ListContainersRequest(filter={"state": {"state": 9}}), "filter.state.state is 9, which is no ContainerState"),
    (pb.ListContainersRequest(filter={"id": LONG}), "filter.id has 5000 bytes"),
    (pb.PullImageRequest(auth={"password": "x" * 70_000}), "auth.password has 70000 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "sentence"), REFUSED, ids=[case[1] for case in REFUSED])
def test_what_is_out_of_bounds_is_refused_with_the_fields_name(request_: Any, sentence: str) -> None:
    with pytest.raises(BadRequest) as caught:
        bounds.check(request_)
    assert str(caught.value).startswith(sentence)
    assert len(str(caught.value)) < 300 and str(caught.value).isprintable()


ALLOWED = [
    sandboxes(),
    sandboxes(metadata={"name": "p" * 300, "attempt": 0xFFFFFFFF}, labels={"l" * 300: "two\nlines"}),
    sandboxes(annotations={"a": "x" * 500_000}, windows={"security_context": {"run_as_username": "\n"}}),
    containers(command=["sh", "-c", "echo a\n\tb\x1b"], envs=[{"key": "A", "value": b"\xff\n"}], working_dir="/ä"),
    of_user(run_as_user={"value": 0}, run_as_group={"value": 2**31 - 1}),
    limited(memory_limit_in_bytes=-1, cpu_quota=-1, unified={"memory.high": "max"}),
    pb.StopContainerRequest(container_id="a\nb", timeout=-(1 << 63)),
    pb.StopContainerRequest(timeout=(1 << 63) - 1),
    pb.ListPodSandboxRequest(filter={"label_selector": {"a": "b\nc"}}),
]


@pytest.mark.parametrize("request_", ALLOWED)
def test_what_clients_really_send_passes(request_: Any) -> None:
    bounds.check(request_)


@pytest.mark.parametrize("text", ["a b", "a\tb", "x" * 65, "ä", "a/b", "a;b"])
def test_a_host_name_is_one_field_of_a_hosts_file(text: str) -> None:
    with pytest.raises(BadRequest, match=r"hostname .*64 letters"):
        network.hostname(text, pod_name="p")


@pytest.mark.parametrize(("name", "expected"), [("web-0", "web-0"), ("a b/c\u00e4", "a-b-c-"), ("p" * 300, "p" * 63)])
def test_a_host_name_that_is_made_of_the_pods_name_is_such_a_field(name: str, expected: str) -> None:
    assert network.hostname("", pod_name=name) == expected


@pytest.mark.parametrize(
    "dns",
    [{"servers": ["a.example"]}, {"servers": [""]}, {"searches": ["a b"]}, {"options": [""]}, {"options": [LONG]}],
)
def test_an_invalid_field_of_resolv_conf_is_refused(dns: dict[str, list[str]]) -> None:
    expected = pb.PodSandboxConfig(metadata={"name": "a", "namespace": "b"}, dns_config=dns)
    with pytest.raises(BadRequest, match=f"dns_config.{next(iter(dns))} must be "):
        sandbox.record(pb.RunPodSandboxRequest(config=expected), Config(), handlers=("",))


@pytest.mark.parametrize("names", [{"name": "a;IP=1.2.3.4"}, {"namespace": "a=b"}, {"uid": ";"}])
def test_a_name_can_not_end_its_part_of_cni_args(names: dict[str, str]) -> None:
    expected = pb.PodSandboxConfig(metadata={"name": "a", "namespace": "b"} | names)
    with pytest.raises(BadRequest, match=f"metadata.{next(iter(names))} "):
        sandbox.record(pb.RunPodSandboxRequest(config=expected), Config(), handlers=("",))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"cpuset_cpus": "3-1"}, "cpuset_cpus has the range 3-1"),
        ({"cpuset_cpus": "0-99998"}, "last processor"),
        ({"cpuset_cpus": "٣"}, "list such as"),
        ({"cpuset_mems": "9" * 4000}, "list such as"),
        ({"memory_limit_in_bytes": 1 << 30, "memory_swap_limit_in_bytes": 1 << 29}, "memory and swap"),
        ({"unified": {"../memory.high": "1"}}, "a cgroup"),
    ],
)
def test_limits_that_no_kernel_takes_are_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        limits.check(pb.LinuxContainerResources(**given))


@pytest.mark.parametrize(("host", "expected"), [((), ""), (("network",), "0")])
def test_processors_of_the_host_are_nothing_for_a_guest(host: tuple[str, ...], expected: str) -> None:
    given = pb.LinuxContainerResources(cpuset_cpus="0", cpuset_mems="0")
    limits.check(given)
    result = limits.of_container(given, Pod("0" * 64, "web", host=host))
    assert (result.cpuset_cpus, result.cpuset_mems) == (expected, expected)


def test_a_log_path_fits_together_with_its_directory() -> None:
    with pytest.raises(BadRequest, match="too long together"):
        container.log_path("/" + "a/" * 1500, "b/" * 1000)


@pytest.mark.parametrize("text", ["9" * 5000, "2147483648", f"0:{'9' * 5000}", "99999999999"])
def test_an_id_of_any_length_in_an_image_is_out_of_range_and_no_fault(text: str) -> None:
    with pytest.raises(BadRequest, match="out of range"):
        users.resolve(text, passwd="", group="")


def test_leading_zeros_of_an_id_count_for_nothing() -> None:
    assert users.resolve("0" * 5000 + "7", passwd="", group="").uid == 7


@pytest.mark.parametrize("text", ["9" * 5000, "0." + "1" * 5000, "1" * 33])
def test_a_bandwidth_of_thousands_of_digits_is_refused(text: str) -> None:
    expected = pb.PodSandboxConfig(annotations={network.INGRESS: text})
    with pytest.raises(BadRequest, match="a quantity"):
        network.bandwidth(expected, network.INGRESS)
