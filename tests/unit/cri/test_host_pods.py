# SPDX-License-Identifier: Apache-2.0
"""What a pod that asks for the host becomes, and what of it is refused."""

import os
import re
from typing import Any

import pytest

from cri.config import Config, parse
from cri.config_tables import HostPods
from cri.pb import runtime_pb2 as pb
from cri.translate import sandbox, security
from stage1.errors import BadRequest
from stage1.guest.settings import configure
from stage1.pod.model import Pod, Port
from stage1.pod.network import Interface, PodNetwork
from tests.fakes.open_policy import OPEN

ALL = HostPods(allow=("network", "pid", "ipc"))


def asked(
    allowed: HostPods = ALL,
    *,
    privileged: bool = False,
    sysctls: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    **options: Any,
) -> Pod:
    """The pod of a sandbox with these namespace options."""
    context = pb.LinuxSandboxSecurityContext(namespace_options=pb.NamespaceOption(**options), privileged=privileged)
    linux = pb.LinuxPodSandboxConfig(security_context=context, sysctls=sysctls or {}, cgroup_parent="/kubepods/x")
    config = pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name="web", namespace="default", uid="u"),
        hostname="web-0",
        linux=linux,
        port_mappings=[pb.PortMapping(container_port=80, host_port=8080)],
        annotations={"kubernetes.io/ingress-bandwidth": "1M", **(annotations or {})},
    )
    request = pb.RunPodSandboxRequest(config=config)
    return sandbox.record(request, Config(host_pods=allowed, policy=OPEN), handlers=("",)).pod


def test_a_pod_that_asks_for_nothing_has_its_vm() -> None:
    pod = asked()
    assert pod.host == () and pod.cgroup_parent == "/kubepods/x" and pod.window_mib > 0
    assert (pod.kernel, pod.profile) == ("", "")


def test_the_hosts_network_brings_its_name_and_takes_the_ports() -> None:
    pod = asked(network=pb.NODE)
    assert pod.host == ("network",) and pod.cgroup_parent == "/kubepods/x"
    assert pod.hostname == os.uname().nodename
    assert (pod.ports, pod.ingress_bits, pod.networks, pod.kernel, pod.profile) == ((), 0, (), "", "")


@pytest.mark.parametrize(
    ("word", "text", "harmless"),
    [
        ("clearpod.io/kernel", "mine", "default"),
        ("clearpod.io/kernel", "image", "default"),
        ("clearpod.io/guest-profile", "systemd", "default"),
        ("clearpod.io/snapshot", "warm", None),
        ("clearpod.io/forkable", "true", "false"),
        ("clearpod.io/suspend", "manual", ""),
        ("clearpod.io/fork-of", "web", None),
    ],
)
def test_what_only_a_guest_could_have_is_refused(word: str, text: str, harmless: str | None) -> None:
    with pytest.raises(BadRequest, match=rf"{word} .*'{text}'.* guest"):
        asked(network=pb.NODE, annotations={word: text})
    others = {} if harmless is None else {word: harmless}
    assert asked(network=pb.NODE, annotations=others).host == ("network",)


def test_without_it_the_pods_network_is_its_own() -> None:
    pod = asked(pid=pb.NODE, ipc=pb.NODE)
    assert pod.host == ("pid", "ipc") and pod.hostname == "web-0"
    assert pod.ports == (Port(80, 8080),) and pod.ingress_bits > 0


@pytest.mark.parametrize("name", ["network", "pid", "ipc"])
def test_each_namespace_is_allowed_for_itself(name: str) -> None:
    others = tuple(one for one in ALL.allow if one != name)
    assert asked(HostPods(allow=(name,)), **{name: pb.NODE}).host == (name,)  # type: ignore[arg-type]
    for allowed in (HostPods(), HostPods(allow=others)):
        with pytest.raises(BadRequest, match=f"the host's {name} namespace"):
            asked(allowed, **{name: pb.NODE})


def test_privileged_is_allowed_for_itself() -> None:
    with pytest.raises(BadRequest, match="root"):
        asked(privileged=True, pid=pb.NODE)
    assert asked(privileged=True).host == ()
    assert asked(ALL.but(privileged=True), privileged=True, pid=pb.NODE).host == ("pid",)


@pytest.mark.parametrize(
    ("key", "options", "is_own"),
    [
        ("net.ipv4.ip_forward", {"pid": pb.NODE}, True),
        ("net.ipv4.ip_forward", {"network": pb.NODE}, False),
        ("kernel.shmmax", {"network": pb.NODE}, True),
        ("kernel.shm_rmid_forced", {"ipc": pb.NODE}, False),
        ("fs.mqueue.msg_max", {"pid": pb.NODE}, True),
        ("kernel.sem", {"ipc": pb.NODE}, False),
        ("kernel.semx", {"pid": pb.NODE}, False),
        ("vm.swappiness", {"pid": pb.NODE}, False),
        ("kernel.core_pattern", {"network": pb.NODE}, False),
        ("internet.x", {"pid": pb.NODE}, False),
    ],
)
def test_only_sysctls_of_its_own_namespaces_are_set(key: str, options: dict[str, Any], is_own: bool) -> None:
    if is_own:
        assert asked(sysctls={key: "1"}, **options).sysctls == ((key, "1"),)
        return
    with pytest.raises(BadRequest, match=f"sysctl {re.escape(key)} .*host"):
        asked(sysctls={key: "1"}, **options)


def test_a_user_namespace_of_its_own_is_refused() -> None:
    ids = [pb.IDMapping(host_id=100_000, container_id=0, length=65_536)]
    own = pb.UserNamespace(mode=pb.POD, uids=ids, gids=ids)
    assert asked(userns_options=own).ids.length == 65_536
    with pytest.raises(BadRequest, match="leave hostUsers unset"):
        asked(pid=pb.NODE, userns_options=own)


def test_a_container_is_held_to_its_sandbox() -> None:
    def container(sandbox_pid: Any, pid: Any) -> str:
        mine, theirs = pb.NamespaceOption(pid=pid), pb.NamespaceOption(pid=sandbox_pid)
        config = pb.ContainerConfig(
            linux=pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(namespace_options=mine))
        )
        context = pb.LinuxSandboxSecurityContext(namespace_options=theirs)
        whole = pb.PodSandboxConfig(linux=pb.LinuxPodSandboxConfig(security_context=context))
        return security.security(config, whole).pid_namespace

    assert container(pb.NODE, pb.NODE) == "node" and container(pb.NODE, pb.POD) == "pod"
    with pytest.raises(BadRequest, match="sandbox"):
        container(pb.POD, pb.NODE)


def test_the_agent_on_the_host_configures_no_device() -> None:
    network = PodNetwork((Interface("eth0", "02:00:00:00:00:01", 1500, ("10.0.0.2/24",)),), ips=("10.0.0.2",))
    assert len(configure(asked(), network).interfaces) == 1
    assert configure(asked(pid=pb.NODE), network).interfaces == ()


def test_each_guest_gets_random_bytes_of_its_own_and_the_agent_on_the_host_none() -> None:
    given = [configure(asked(), None).entropy for _ in range(8)]
    assert len(set(given)) == 8 and {len(one) for one in given} == {32}
    assert configure(asked(pid=pb.NODE), None).entropy == b""


def test_nothing_is_allowed_unless_it_is_written() -> None:
    assert Config().host_pods == HostPods(allow=(), privileged=False)
    with pytest.raises(BadRequest, match=r"<toml>:2"):
        parse('[host_pods]\nallow = ["uts"]', "<toml>")
