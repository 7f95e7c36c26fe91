# SPDX-License-Identifier: Apache-2.0
"""What confines a container, seen from inside of real guests. A case that critest has too is named after its spec.

One pod for all of them; its sandbox is privileged, which changes nothing for a container that is not.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from stage1.pod import capabilities

from .one_pod import Run, Seen, log_directory, machine, run

pytestmark = pytest.mark.vm

SYSCTLS = {"kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "100"}
NO_CHMOD = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["chmod", "fchmod", "fchmodat"], "action": "SCMP_ACT_ERRNO"}],
}
NO_HOSTNAME = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
}
ADMIN = {"capabilities": pb.Capability(add_capabilities=["SYS_ADMIN"])}
DEFAULT = {"seccomp": pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault)}
UNCONFINED = {"seccomp": pb.SecurityProfile(profile_type=pb.SecurityProfile.Unconfined)}
MODE = ("sh", "-c", "grep -o 'Seccomp:.*' /proc/self/status | tr -d '[:space:]'")
BRIDGE = "brctl addbr {0} && echo made; brctl delbr {0}"
PROBE = "/probe vsock unix clone3 future keyctl io_uring clone clone-user unshare"


def _number(value: int) -> pb.Int64Value:
    return pb.Int64Value(value=value)


def _caps(**sets: list[str]) -> dict[str, Any]:
    return {"capabilities": pb.Capability(**sets)}


def _pid(mode: "pb.NamespaceMode.ValueType") -> dict[str, Any]:
    return {"namespace_options": pb.NamespaceOption(pid=mode)}


def _local(path: Path) -> dict[str, Any]:
    return {"seccomp": pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref=str(path))}


def _runs(place: Path) -> dict[str, Run]:
    groups = {"run_as_user": _number(1000), "supplemental_groups": [1234]}
    (place / "chmod.json").write_text(json.dumps(NO_CHMOD))
    (place / "hostname.json").write_text(json.dumps(NO_HOSTNAME))
    return {
        "sysctls": Run("cat /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max"),
        "pod-pid": Run("tr '\\0' ' ' < /proc/1/cmdline; echo; ls -d /proc/[0-9]* | wc -l"),
        "own-pid": Run("tr '\\0' ' ' < /proc/1/cmdline; echo; echo $$", _pid(pb.CONTAINER)),
        "user": Run(security={"run_as_user": _number(1001)}, execs=(("id", "-u"),)),
        "user-name": Run(security={"run_as_username": "nobody"}, execs=(("id", "-nu"),)),
        "group": Run("echo $(id -u):$(id -g)", {"run_as_user": _number(1001), "run_as_group": _number(1002)}),
        "groups": Run(security={"supplemental_groups": [1234, 5678]}, execs=(("id", "-G"),)),
        "merge": Run("id -G", groups),
        "merge-exec": Run(security=groups, execs=(("id", "-G"),)),
        "strict": Run("id -G", {**groups, "supplemental_groups_policy": pb.Strict}),
        "far": Run("cd /far; stat -c %u:%g own; cat own; chmod 640 own; echo new >new; stat -c %u new; id -u",
                   {"run_as_user": _number(70000)}),
        "far-given": Run("cd /far; cat own; chown 2147483647:70001 own; stat -c %u:%g own; touch x; chown 70000 x; "
                         "stat -c %u x"),
        "writable-root": Run("echo hello > /test.go && echo Found"),
        "read-only-root": Run("touch test.go; echo x > /dev/shm/x && echo shm", {"readonly_rootfs": True}),
        "privileged": Run(BRIDGE.format("one") + "; ls /dev/fuse /dev/net/tun; grep Seccomp: /proc/self/status; "
                          "mkdir /sys/fs/cgroup/mine && echo cgroup", {"privileged": True, **_local(place / "no")}),
        "not-privileged": Run(BRIDGE.format("two")),
        "net-admin": Run(BRIDGE.format("three"), _caps(add_capabilities=["NET_ADMIN"])),
        "no-net-raw": Run("ping -c 1 -W 1 127.0.0.1", _caps(drop_capabilities=["NET_RAW"])),
        "net-raw": Run("ping -c 1 -W 1 127.0.0.1 > /dev/null && echo pong"),
        "all": Run("grep CapBnd /proc/self/status", _caps(add_capabilities=["ALL"])),
        "none": Run("grep CapBnd /proc/self/status", _caps(drop_capabilities=["ALL"])),
        "none-exec": Run(security=_caps(drop_capabilities=["ALL"]), execs=(("grep", "CapBnd", "/proc/self/status"),)),
        "ambient": Run("grep -E 'CapAmb|CapEff' /proc/self/status",
                       {"run_as_user": _number(1001), **_caps(add_ambient_capabilities=["NET_BIND_SERVICE"])}),
        "masked": Run("/bin/ls; ls /proc/acpi /sys/firmware; cat /proc/keys", {
            "masked_paths": ["/bin/ls", "/proc/keys", "/sys/firmware", "/no/such/path"]}),
        "unmasked": Run("cat /proc/keys > /dev/null && echo seen", {"masked_paths": []}),
        "read-only-path": Run("touch /tmp/test", {"readonly_paths": ["/tmp"]}),
        "unconfined": Run(security=UNCONFINED, execs=(MODE,)),
        "no-profile": Run(execs=(MODE,)),
        "default": Run(PROBE + "; grep Seccomp: /proc/self/status", DEFAULT),
        "default-exec": Run(security=DEFAULT, execs=(MODE, ("/probe", "vsock", "unshare"))),
        "default-admin": Run(PROBE, {**DEFAULT, **ADMIN}),
        "no-chmod": Run(security=_local(place / "chmod.json"), execs=(("chmod", "400", "/"),)),
        "no-hostname": Run("hostname other", {**ADMIN, **_local(place / "hostname.json")}),
        "hostname": Run("hostname ANewHostName && hostname", {**ADMIN, **UNCONFINED}),
        "privileged-hostname": Run(
            "hostname ANewHostName && hostname", {"privileged": True, **_local(place / "hostname.json")}),
        "no-new-privs": Run("/nnp uid", {"run_as_user": _number(1000), "no_new_privs": True}),
        "new-privs": Run("/nnp uid", {"run_as_user": _number(1000), "no_new_privs": False}),
        "devices": Run("echo > /dev/given && ls -l /dev/fuse", fields={"devices": [
            pb.Device(host_path="/dev/fuse", container_path="/dev/fuse", permissions="rw"),
            pb.Device(host_path="/dev/null", container_path="/dev/given", permissions="w")]}),
        "no-device": Run("mknod /tmp/vda b 254 0; cat /tmp/vda"),
        "oom": Run("cat /proc/self/oom_score_adj", fields={
            "linux": pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(oom_score_adj=321))}),
        "limits": Run("ulimit -n; df -k /dev/shm | tail -n 1"),
        "apparmor": Run("echo runs", {"apparmor": pb.SecurityProfile(), "selinux_options": pb.SELinuxOption(type="t")}),
    }  # fmt: skip


async def _all(place: Path, guest_dir: Path) -> dict[str, Seen]:
    with machine(place, guest_dir) as world:
        async with world.daemon() as cri:
            await cri("PullImage", image=pb.ImageSpec(image=world.image))
            unknown = pb.LinuxPodSandboxConfig(sysctls={"kernel.no_such": "1"})
            result = await cri.refused("RunPodSandbox", config=cri.sandbox("bad", linux=unknown))
            assert "set the sysctl kernel.no_such to '1': No such file" in result[1], result
            assert world.left_over() == []
            context = pb.LinuxSandboxSecurityContext(privileged=True)
            linux = pb.LinuxPodSandboxConfig(security_context=context, sysctls=SYSCTLS)
            annotations = {"clearpod.io/shm-mib": "3", "clearpod.io/memory-mib": "192"}
            pod = await cri.pod(log_directory=log_directory(world), linux=linux, annotations=annotations)
            seen = await run(cri, pod, _runs(place))
            target = await cri.container(pod, "sh", "-c", "sleep 1000", name="target")
            await cri("StartContainer", container_id=target)
            options = pb.NamespaceOption(pid=pb.TARGET, target_id=target)
            join = {"join": Run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '", {"namespace_options": options})}
            seen |= await run(cri, pod, join)
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
            assert world.left_over() == []
    return seen


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, guest_dir: Path) -> dict[str, Seen]:
    return asyncio.run(_all(tmp_path_factory.mktemp("security"), guest_dir))


CONFINED = "vsock EAFNOSUPPORT\nunix ok\nclone3 ENOSYS\nfuture ENOSYS\nkeyctl EPERM\nio_uring EPERM\n"
DROPPED_ALL = f"CapBnd:\t{0:016x}\n"
HELD_ALL = f"CapBnd:\t{(1 << len(capabilities.ALL)) - 1:016x}\n"
BIND = f"{1 << 10:016x}"

ROWS = [
    ("sysctls", "sysctls", "1\n100\n"),
    ("ContainerPID", "own-pid", "sh -c tr '\\0' ' ' < /proc/1/cmdline; echo; echo $$ \n1\n"),
    ("SupplementalGroups", "groups", "0 1234 5678\n"),
    ("RunAsUser", "user", "1001\n"),
    ("RunAsUserName", "user-name", "nobody\n"),
    ("a user above 65535 and its files", "far", "70000:2147483647\nown\n70000\n70000\n"),
    ("files given to users above 65535", "far-given", "own\n2147483647:70001\n70000\n"),
    ("RunAsGroup", "group", "1001:1002\n"),
    ("ReadOnlyRootfs is false", "writable-root", "Found\n"),
    ("ReadOnlyRootfs is true", "read-only-root", "shm\n"),
    ("Privileged is true", "privileged", "made\n/dev/fuse\n/dev/net/tun\nSeccomp:\t0\ncgroup\n"),
    ("Privileged is false", "not-privileged", ""),
    ("adding capability", "net-admin", "made\n"),
    ("dropping capability", "no-net-raw", "PING 127.0.0.1 (127.0.0.1): 56 data bytes\n"),
    ("not dropping it", "net-raw", "pong\n"),
    ("adding ALL capabilities", "all", HELD_ALL),
    ("dropping ALL capabilities", "none", DROPPED_ALL),
    ("in an exec", "none-exec", DROPPED_ALL),
    ("ambient capabilities", "ambient", f"CapEff:\t{BIND}\nCapAmb:\t{BIND}\n"),
    ("MaskedPaths given empty", "unmasked", "seen\n"),
    ("Merge", "merge", "1000 1234 50000\n"),
    ("Merge in an exec", "merge-exec", "1000 1234 50000\n"),
    ("Strict", "strict", "1000 1234\n"),
    ("seccomp unconfined", "unconfined", "Seccomp:0"),
    ("seccomp default", "default", CONFINED + "clone ok\nclone-user EPERM\nunshare EPERM\nSeccomp:\t2\n"),
    ("in an exec", "default-exec", "Seccomp:2vsock EAFNOSUPPORT\nunshare EPERM\n"),
    ("nil profile", "no-profile", "Seccomp:0"),
    ("hostname unconfined", "hostname", "ANewHostName\n"),
    ("hostname blocked", "no-hostname", ""),
    ("hostname privileged", "privileged-hostname", "ANewHostName\n"),
    ("NoNewPrivs", "no-new-privs", "Effective uid: 1000\n"),
    ("NoNewPrivs false", "new-privs", "Effective uid: 0\n"),
    ("oom_score_adj", "oom", "321\n"),
    ("apparmor and selinux where the host has none", "apparmor", "runs\n"),
    ("no device but those given", "no-device", ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), [pytest.param(*row[1:], id=row[0]) for row in ROWS])
def test_a_container_may_do(seen: dict[str, Seen], name: str, expected: str) -> None:
    assert seen[name].out == expected, seen[name]


ERRORS = [
    ("ReadOnlyRootfs is true", "read-only-root", "touch: test.go: Read-only file system"),
    ("dropping capability", "no-net-raw", "permission denied"),
    ("MaskedPaths", "masked", "/bin/ls: Permission denied"),
    ("ReadonlyPaths", "read-only-path", "touch: /tmp/test: Read-only file system"),
    ("seccomp localhost profile", "no-chmod", "Operation not permitted"),
    ("hostname blocked", "no-hostname", "Operation not permitted"),
    ("no device but those given", "no-device", "Operation not permitted"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), [pytest.param(*row[1:], id=row[0]) for row in ERRORS])
def test_a_container_may_not(seen: dict[str, Seen], name: str, expected: str) -> None:
    assert expected in seen[name].err, seen[name]


def test_the_first_process_of_a_pod_is_not_the_workload(seen: dict[str, Seen]) -> None:
    first, count = seen["pod-pid"].out.splitlines()
    assert first.strip() == "pause"
    assert int(count) > 2


def test_the_status_names_user_and_groups(seen: dict[str, Seen]) -> None:
    for name, groups in (("merge", [1000, 1234, 50000]), ("strict", [1000, 1234])):
        user = seen[name].status.user.linux
        assert (user.uid, user.gid, list(user.supplemental_groups)) == (1000, 1000, groups)


def test_the_processes_of_a_target_are_seen(seen: dict[str, Seen]) -> None:
    assert "sleep 1000" in seen["join"].out, seen["join"]


def test_with_sys_admin_the_default_profile_allows_namespaces_but_not_the_link_to_the_host(
    seen: dict[str, Seen],
) -> None:
    output = dict(line.split() for line in seen["default-admin"].out.splitlines())
    assert (output["vsock"], output["unshare"], output["clone"], output["clone-user"]) == (
        "EAFNOSUPPORT",
        "ok",
        "ok",
        "ok",
    )
    assert output["clone3"] != "ENOSYS"


def test_devices_of_the_guest_are_there_on_request(seen: dict[str, Seen]) -> None:
    assert seen["devices"].status.exit_code == 0, seen["devices"]
    assert "10, 229" in seen["devices"].out


def test_limits_that_a_pod_gets_by_itself_or_by_annotation(seen: dict[str, Seen]) -> None:
    files, shm = seen["limits"].out.splitlines()
    assert files == str(1 << 20)
    assert shm.split()[1] == str(3 << 10)
