# SPDX-License-Identifier: Apache-2.0
"""Between protobuf and the model: the CRI's rules as tables, and refusals for what a VM can't do."""

import signal
from pathlib import Path
from typing import Any

import pytest

from cri import policy
from cri.config import Config
from cri.config_tables import Vm
from cri.pb import runtime_pb2 as pb
from cri.translate import container, mounts, network, sandbox, security, sizes
from stage1.errors import BadRequest, NotFound, PodError, Unsupported
from stage1.pod import oci
from stage1.pod.model import Mount, Pod
from tests.fakes.open_policy import OPEN

IMAGE = {"Entrypoint": ["/entry"], "Cmd": ["a", "b"], "Env": ["PATH=/bin", "A=image"]}

MERGES = [
    ([], [], ("/entry", "a", "b")),
    (["/c"], [], ("/c",)),
    ([], ["x"], ("/entry", "x")),
    (["/c"], ["x", ""], ("/c", "x", "")),
]


@pytest.mark.parametrize(("command", "args", "expected"), MERGES)
def test_command_drops_cmd_and_args_replace_it(command: list[str], args: list[str], expected: tuple[str, ...]) -> None:
    assert container.argv(pb.ContainerConfig(command=command, args=args), IMAGE) == expected


def test_no_command_at_all_is_refused() -> None:
    with pytest.raises(BadRequest, match="command"):
        container.argv(pb.ContainerConfig(), {})


def test_variables_of_the_request_override_those_of_the_image() -> None:
    envs = [
        pb.KeyValue(key="A", value=b"mine"),
        pb.KeyValue(key="B", value=b"x=y"),
        pb.KeyValue(key="C", value="\u00e9\U0001f600".encode()),
    ]
    result = container.environment(pb.ContainerConfig(envs=envs), IMAGE)
    assert result == ("PATH=/bin", "A=mine", "B=x=y", "C=\u00e9\U0001f600")


@pytest.mark.parametrize("value", [b"\xff", b"a\xc3", "\ud800".encode(errors="surrogatepass")])
def test_a_variable_that_is_no_text_is_kept_to_the_byte(value: bytes) -> None:
    config = pb.ContainerConfig(metadata={"name": "c"}, envs=[pb.KeyValue(key="A", value=value)])
    container.check(config)
    entries = container.environment(config, {})
    assert b'"A=' + value + b'"' in oci.written({"env": list(entries)})


def test_the_hosts_crun_takes_text_only() -> None:
    entry = b"A=\xff".decode(errors="surrogateescape")
    container.require_env(("B=\u00e9", entry), Pod("p", "web"))
    container.require_env(("B=\u00e9",), Pod("p", "web", host=("network",)))
    with pytest.raises(Unsupported, match=r"environment variable 'A' .*UTF-8"):
        container.require_env((entry,), Pod("p", "web", host=("network",)))


SIGNALS = [
    ("SIGTERM", 15),
    ("TERM", 15),
    ("9", 9),
    ("sigint", 2),
    ("SIGRTMIN+3", 37),
    ("SIGRTMAX-1", 63),
    ("SIGRTMINPLUS15", 49),
]


@pytest.mark.parametrize(("name", "number"), SIGNALS)
def test_signals_have_names_and_numbers(name: str, number: int) -> None:
    assert container.signal_number(name) == number


@pytest.mark.parametrize("name", ["", "SIGNOPE", "0", "65", "-1", "SIGRTMIN+x", "9" * 5000, "SIGRTMIN+" + "9" * 5000])
def test_what_is_no_signal_is_refused(name: str) -> None:
    with pytest.raises(BadRequest):
        container.signal_number(name)


def test_every_signal_of_the_interface_survives_the_conversion_in_and_out() -> None:
    aliases = {"SIGNAL_SIGCLD", "SIGNAL_SIGIOT", "SIGNAL_SIGPOLL"}
    for name, value in pb.Signal.items():
        if value == 0:
            continue
        number = container.stop_signal(pb.ContainerConfig(stop_signal=value), {})
        assert 1 <= number <= 64
        back = pb.Signal.Name(container.signal_enum(number))
        assert back == name or name in aliases


@pytest.mark.parametrize(
    ("image", "expected"), [({}, signal.SIGTERM), ({"StopSignal": "SIGQUIT"}, signal.SIGQUIT), ({"StopSignal": "3"}, 3)]
)
def test_the_images_stop_signal_counts_when_the_request_has_none(image: dict[str, Any], expected: int) -> None:
    assert container.stop_signal(pb.ContainerConfig(), image) == expected


LOGS = [
    ("/var/log", "a/0.log", "/var/log/a/0.log"),
    ("", "a.log", ""),
    ("/var/log", "", ""),
    ("/var/log/", "a", "/var/log/a"),
]


@pytest.mark.parametrize(("directory", "path", "expected"), LOGS)
def test_log_paths_are_joined(directory: str, path: str, expected: str) -> None:
    assert container.log_path(directory, path) == expected


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "."])
def test_a_log_path_can_not_leave_its_directory(path: str) -> None:
    with pytest.raises(BadRequest, match="log directory"):
        container.log_path("/var/log/pods", path)


def _mount(**fields: Any) -> pb.Mount:
    return pb.Mount(**{"container_path": "/m", "host_path": "/tmp", **fields})


def _image(name: str = "gone", **fields: Any) -> pb.Mount:
    given = {"container_path": "/i", "readonly": True, "image": pb.ImageSpec(image=name)}
    return pb.Mount(**given | fields)


MOUNTS_REFUSED = [
    (_mount(host_path="/proc/no/such/place"), NotFound),
    (_mount(host_path="/no/../such/place"), NotFound),
    (_mount(host_path="relative"), BadRequest),
    (_mount(container_path="relative"), BadRequest),
    (_mount(recursive_read_only=True), BadRequest),
    (_mount(recursive_read_only=True, readonly=True, propagation=pb.PROPAGATION_HOST_TO_CONTAINER), BadRequest),
    (_mount(recursive_read_only=True, readonly=True, propagation=pb.PROPAGATION_BIDIRECTIONAL), BadRequest),
    (_mount(container_path="/"), BadRequest),
    (_mount(container_path="//"), BadRequest),
    (_mount(container_path="/a/.."), BadRequest),
    (_mount(container_path="/a\0"), BadRequest),
    (_mount(mount_options=["noatime"]), BadRequest),
    (_mount(mount_options=["noexec", "upperdir=/"]), BadRequest),
    (_mount(image=pb.ImageSpec(image="here"), readonly=True), BadRequest),
    (_image(), NotFound),
    (_image("here", readonly=False), BadRequest),
    (_image("here", image_sub_path="../etc"), BadRequest),
    (_image("here", image_sub_path="/etc"), BadRequest),
    (_mount(uidMappings=[pb.IDMapping()]), BadRequest),
]
IMAGES = {"here": "sha256:" + "1" * 64}


@pytest.mark.parametrize(("mount", "error"), MOUNTS_REFUSED)
def test_mounts_that_can_not_be_are_refused(mount: pb.Mount, error: type[PodError]) -> None:
    with pytest.raises(error):
        mounts.mount(mount, IMAGES)


def test_a_vm_has_no_mounts_that_propagate_to_the_host() -> None:
    both = mounts.mount(_mount(propagation=pb.PROPAGATION_BIDIRECTIONAL), IMAGES)
    with pytest.raises(Unsupported, match=r"mounts .*host"):
        mounts.require_no_bidirectional([both], on_host=False, privileged=True)
    mounts.require_no_bidirectional([both], on_host=True, privileged=True)


TARGETS = [("/a", "/a"), ("/a/", "/a"), ("//a//b/../c", "/a/c"), ("/../a", "/a")]


@pytest.mark.parametrize(("given", "expected"), TARGETS)
def test_places_in_the_container_are_made_plain(given: str, expected: str) -> None:
    assert mounts.target(given) == expected


@pytest.mark.parametrize(("given", "expected"), [("", ""), ("etc", "etc"), ("./etc//x/", "etc/x")])
def test_an_image_volume_is_known_by_the_images_id(given: str, expected: str) -> None:
    result = mounts.mount(_image("here", image_sub_path=given), IMAGES)
    assert result == Mount(expected, "/i", read_only=True, image=IMAGES["here"])


def test_a_link_on_the_host_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert mounts.mount(_mount(host_path=f"{tmp_path}/link"), {}).source == f"{tmp_path}/real"


def _linux(**fields: Any) -> pb.ContainerConfig:
    context = pb.LinuxContainerSecurityContext(**fields)
    return pb.ContainerConfig(linux=pb.LinuxContainerConfig(security_context=context))


PASSWD, GROUP = "root:x:0:0::/:\nweb:x:33:33::/:", "root:x:0:\nweb:x:33:\nextra:x:44:web"

USERS = [
    (_linux(), "", (0, 0, ())),
    (_linux(), "web", (33, 33, (44,))),
    (_linux(run_as_user=pb.Int64Value(value=7)), "web", (7, 0, ())),
    (_linux(run_as_username="web"), "", (33, 33, (44,))),
    (_linux(run_as_user=pb.Int64Value(value=33), run_as_group=pb.Int64Value(value=44)), "", (33, 44, ())),
    (_linux(run_as_username="web", supplemental_groups=[5], supplemental_groups_policy=pb.Strict), "", (33, 33, (5,))),
]


@pytest.mark.parametrize(("config", "image_user", "expected"), USERS)
def test_who_a_container_runs_as(
    config: pb.ContainerConfig, image_user: str, expected: tuple[int, int, tuple[int, ...]]
) -> None:
    assert security.user(config, image_user, passwd=PASSWD, group=GROUP) == expected


def test_a_group_needs_a_user() -> None:
    with pytest.raises(BadRequest, match="run_as_group needs"):
        security.user(_linux(run_as_group=pb.Int64Value(value=1)), "", passwd=PASSWD, group=GROUP)


def test_default_masks_apply_only_where_none_are_given() -> None:
    nothing, output = pb.ContainerConfig(), _linux(masked_paths=["/proc/x"])
    assert security.security(nothing, pb.PodSandboxConfig()).masked_paths == oci.MASKED
    assert security.security(output, pb.PodSandboxConfig()).masked_paths == ("/proc/x",)
    assert security.security(output, pb.PodSandboxConfig()).readonly_paths == ()


SECURITY_REFUSED = [
    (_linux(privileged=True), BadRequest),
    (_linux(seccomp=pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref="x")), BadRequest),
    (_linux(seccomp=pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref="/no/x")), NotFound),
    (_linux(apparmor_profile="mine"), BadRequest),
    (_linux(apparmor_profile="localhost/"), BadRequest),
    (_linux(apparmor_profile="localhost/a//&b"), BadRequest),
    (_linux(apparmor_profile="localhost/:ns:a"), BadRequest),
    (_linux(apparmor_profile="localhost/a\nb"), BadRequest),
    (_linux(apparmor_profile="localhost/" + "a" * 256), BadRequest),
    (_linux(apparmor=pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost)), BadRequest),
    (_linux(apparmor=pb.SecurityProfile(profile_type=9)), BadRequest),
    (_linux(masked_paths=["proc/x"]), BadRequest),
    (_linux(readonly_paths=[""]), BadRequest),
    (_linux(namespace_options=pb.NamespaceOption(pid=pb.TARGET)), BadRequest),
    (_linux(namespace_options=pb.NamespaceOption(pid=pb.NODE)), BadRequest),
    (_linux(namespace_options=pb.NamespaceOption(ipc=pb.NODE)), BadRequest),
    (_linux(namespace_options=pb.NamespaceOption(network=pb.NODE)), BadRequest),
    (_linux(namespace_options=pb.NamespaceOption(pid=9)), BadRequest),
]


@pytest.mark.parametrize(("config", "error"), SECURITY_REFUSED)
def test_security_that_can_not_be_kept_is_refused(config: pb.ContainerConfig, error: type[PodError]) -> None:
    with pytest.raises(error):
        security.security(config, pb.PodSandboxConfig())


USERS_REFUSED = [
    _linux(run_as_user=pb.Int64Value(value=-1)),
    _linux(run_as_user=pb.Int64Value(value=1 << 31)),
    _linux(run_as_user=pb.Int64Value(value=1), run_as_group=pb.Int64Value(value=-1)),
    _linux(run_as_user=pb.Int64Value(value=1), run_as_group=pb.Int64Value(value=1 << 40)),
    _linux(supplemental_groups=[-1]),
    _linux(run_as_username="nobody-here"),
]


@pytest.mark.parametrize("config", USERS_REFUSED)
def test_ids_that_can_not_be_are_refused(config: pb.ContainerConfig) -> None:
    with pytest.raises(BadRequest):
        security.user(config, "", passwd=PASSWD, group=GROUP)


def _sandbox(**fields: Any) -> pb.RunPodSandboxRequest:
    names = pb.PodSandboxMetadata(name="web", namespace="default", uid="u")
    return pb.RunPodSandboxRequest(config=pb.PodSandboxConfig(**{"metadata": names, **fields}))


def _namespaces(**options: Any) -> pb.RunPodSandboxRequest:
    context = pb.LinuxSandboxSecurityContext(namespace_options=pb.NamespaceOption(**options))
    return _sandbox(linux=pb.LinuxPodSandboxConfig(security_context=context))


def _sysctls(given: dict[str, str]) -> pb.RunPodSandboxRequest:
    return _sandbox(linux=pb.LinuxPodSandboxConfig(sysctls=given))


SANDBOXES_REFUSED = [
    (_sandbox(metadata=pb.PodSandboxMetadata(name="web")), BadRequest, "metadata.namespace"),
    (_sandbox(log_directory="logs"), BadRequest, "absolute"),
    (_sandbox(log_directory="/var/../etc"), BadRequest, r"without '\.\.'"),
    (_sandbox(annotations={policy.MEMORY: "lots"}), BadRequest, "whole number"),
    (_sandbox(annotations={policy.NETWORKS: "a,,b"}), BadRequest, "names, .*'a,,b'"),
    (_sandbox(annotations={policy.NETWORKS: "../etc"}), BadRequest, "must be names"),
    (_sandbox(annotations={policy.KERNEL: "../etc"}), BadRequest, "name .*'../etc'"),
    (_sandbox(annotations={policy.KERNEL: " "}), BadRequest, "a name"),
    *(
        (_sandbox(annotations={policy.WINDOW: text}), BadRequest, f"{policy.WINDOW} must be a whole number")
        for text in ("", "-1", "lots", "16385", "9" * 5000, "1.5", "\u0663", " 1")
    ),
    (_namespaces(network=pb.NODE), BadRequest, "host's network namespace"),
    (_namespaces(pid=pb.NODE), BadRequest, "host's pid namespace"),
    (_namespaces(ipc=pb.NODE), BadRequest, "host's ipc namespace"),
    (_namespaces(userns_options=pb.UserNamespace(mode=pb.POD)), BadRequest, "mapping of users"),
    (_namespaces(network=pb.CONTAINER), BadRequest, "mode POD"),
    (_sysctls({f"a.{number}": "1" for number in range(65)}), BadRequest, "at most 64 sysctls"),
    (_sysctls({"": "1"}), BadRequest, "too long"),
    (_sysctls({"a": "1" * 256}), BadRequest, "too long"),
    (_sandbox(annotations={policy.SHM: "1g"}), BadRequest, "whole number"),
]


@pytest.mark.parametrize(("request_", "error", "sentence"), SANDBOXES_REFUSED)
def test_sandboxes_that_can_not_be_are_refused(
    request_: pb.RunPodSandboxRequest, error: type[PodError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        sandbox.record(request_, Config(), handlers=("",))


def test_an_unknown_handler_is_named() -> None:
    request = _sandbox()
    request.runtime_handler = "gvisor"
    with pytest.raises(NotFound, match=r'runtime .*"gvisor"'):
        sandbox.record(request, Config(), handlers=("", "clearpod"))


def _limits(memory: int = 0, quota: int = 0, overhead: int = 0) -> pb.PodSandboxConfig:
    resources = pb.LinuxContainerResources(memory_limit_in_bytes=memory, cpu_quota=quota, cpu_period=100_000)
    return pb.PodSandboxConfig(
        linux=pb.LinuxPodSandboxConfig(
            resources=resources, overhead=pb.LinuxContainerResources(memory_limit_in_bytes=overhead)
        )
    )


SIZES = [
    (pb.PodSandboxConfig(), (128, 1)),
    (_limits(memory=64 << 20), (192, 1)),
    (_limits(memory=1), (129, 1)),
    (_limits(memory=64 << 20, overhead=16 << 20), (208, 1)),
    (_limits(quota=150_000), (128, 2)),
    (_limits(quota=-1), (128, 1)),
    (pb.PodSandboxConfig(annotations={policy.MEMORY: "64", policy.VCPUS: "1"}), (64, 1)),
]


@pytest.mark.parametrize(("config", "expected"), SIZES)
def test_the_size_of_a_vm_follows_limits_and_annotations(
    config: pb.PodSandboxConfig, expected: tuple[int, int]
) -> None:
    node = Config(vm=Vm(memory_mib=128, ceiling=1))
    result = sizes.of_pod(config, node, usual=sizes.ceiling(config, node))
    assert (result.memory_mib, result.vcpus) == expected


@pytest.mark.parametrize(
    ("annotations", "configured", "expected"),
    [
        ({}, 256, 256),
        ({}, 0, 0),
        ({}, 16384, 256),
        ({policy.MEMORY: "48"}, 256, 96),
        ({policy.MEMORY: "4096"}, 256, 256),
        ({policy.WINDOW: "0"}, 256, 0),
        ({policy.WINDOW: "16384"}, 0, 16384),
        ({policy.WINDOW: "007"}, 256, 7),
    ],
)
def test_the_window_of_a_vm_follows_its_memory_and_annotations(
    annotations: dict[str, str], configured: int, expected: int
) -> None:
    config = Config(vm=Vm(memory_mib=128, window_mib=configured), policy=OPEN)
    assert sandbox.record(_sandbox(annotations=annotations), config, handlers=("",)).pod.window_mib == expected


@pytest.mark.parametrize(
    ("text", "names"),
    [("", ()), ("  ", ()), ("storage", ("storage",)), (" b-1 ,a.2,b-1", ("b-1", "a.2", "b-1"))],
)
def test_more_networks_are_named_by_an_annotation_in_order(text: str, names: tuple[str, ...]) -> None:
    assert network.more_networks(pb.PodSandboxConfig(annotations={"clearpod.io/networks": text})) == names
