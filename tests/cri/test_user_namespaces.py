# SPDX-License-Identifier: Apache-2.0
"""Pods with a user namespace of their own, in real guests. Cases are named after critest's specs where it has one.

One pod for all that is only looked at: who owns the files of the image, of the writable layer and of volumes, what root
may do and what it may not, and that the network is the pod's.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from stage1.linux import idmap
from stage1.vm import kvmtool, qemu

from .conftest import Client, World
from .one_pod import Run, Seen, log_directory, machine, run

FIRST, LENGTH = 1000, 100000
MAP = pb.IDMapping(host_id=FIRST, container_id=0, length=LENGTH)
POD = pb.UserNamespace(mode=pb.POD, uids=[MAP], gids=[MAP])


def _linux(given: pb.UserNamespace, **more: Any) -> pb.LinuxPodSandboxConfig:
    options = pb.NamespaceOption(userns_options=given)
    context = pb.LinuxSandboxSecurityContext(namespace_options=options, privileged=True)
    return pb.LinuxPodSandboxConfig(security_context=context, **more)


def _mapped(source: Path, target: str, **more: Any) -> pb.Mount:
    return pb.Mount(host_path=str(source), container_path=target, uidMappings=[MAP], gidMappings=[MAP], **more)


def _number(value: int) -> pb.Int64Value:
    return pb.Int64Value(value=value)


def _caps(*names: str) -> dict[str, Any]:
    return {"capabilities": pb.Capability(add_capabilities=names)}


def _volume(place: Path) -> Path:
    base = place / "volume"
    (base / "dir").mkdir(parents=True)
    for name, owner in (("secret", 0), ("web", 33), ("stranger", FIRST + LENGTH + 5)):
        (base / name).write_text(name)
        (base / name).chmod(0o400)
        os.chown(base / name, owner, owner)
    return base


def _runs(volume: Path, image: str) -> dict[str, Run]:
    user = {"run_as_user": _number(1000)}
    in_pod = {"namespace_options": pb.NamespaceOption(userns_options=POD)}
    picture = pb.Mount(image=pb.ImageSpec(image=image), container_path="/picture", readonly=True)
    return {
        "map": Run(security=in_pod, execs=(("cat", "/proc/self/uid_map"), ("cat", "/proc/self/gid_map"))),
        "image": Run("/probe owner:/ owner:/probe owner:/nnp owner:/data owner:/data/web; cat /data/web"),
        "writes": Run(
            "touch /new && chown 5:6 /new && mkfifo /pipe && mv /data/top /data/moved && rm /data/inner/deep && "
            "chown 7 /data/web && mkdir /a && chmod 750 /a && ln -s a /b && ln /new /hard && "
            "/probe owner:/new owner:/pipe owner:/data/moved owner:/data/inner/deep owner:/data/web owner:/a owner:/b"),
        "set-uid": Run("/nnp uid", user),
        "file-capabilities": Run("/capable effective", user),
        "read-only": Run("touch /x; echo x > /dev/shm/x && echo shm", {"readonly_rootfs": True}),
        "places": Run("/probe owner:/dev/shm owner:/dev/mqueue owner:/dev/pts owner:/dev/null owner:/sys owner:/proc; "
                      "echo x > /dev/null; echo again > /dev/stdout"),
        "user-stdout": Run("echo mine > /dev/stdout", user),
        "pod-pid": Run("ls -d /proc/1 && /probe owner:/proc/1 owner:/proc/self"),
        "own-pid": Run("echo $$", {"namespace_options": pb.NamespaceOption(pid=pb.CONTAINER)}),
        "first": Run("ls /proc/1/root/ | wc -l; ls /proc/1/root/run", _caps("SYS_PTRACE", "SYS_ADMIN")),
        "network": Run("ping -c 1 -W 1 127.0.0.1 > /dev/null && echo pong; ls /sys/class/net | grep -x lo; "
                       "echo 80 | timeout 9 nc -l -p 80 & sleep 1; timeout 5 nc 127.0.0.1 80 < /dev/null"),
        "net-admin": Run("brctl addbr one && brctl delbr one && echo made", _caps("NET_ADMIN")),
        "sys-admin": Run("hostname other && hostname; mount -t tmpfs none /tmp && echo tmpfs", _caps("SYS_ADMIN")),
        "sysctls": Run("cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_forward"),
        "privileged": Run("mknod /tmp/disk b 254 0; echo b > /proc/sysrq-trigger; "
                          "dmesg -n 1; head -c 1 /dev/vda; chroot /proc/1/root /probe; "
                          "echo 1 > /proc/sys/vm/drop_caches; mkdir /sys/fs/cgroup/mine && echo cgroup",
                          {"privileged": True}),
        "volume": Run("cat /v/secret /v/web; /probe owner:/v/secret owner:/v/web owner:/v/stranger; "
                      "echo x > /v/made && echo y > /v/given && chown 44:45 /v/given && mkdir /v/dir/deep && "
                      "mkfifo /v/pipe && "
                      "ln -s secret /v/link && chmod 4750 /v/given; cat /v/stranger",
                      fields={"mounts": [_mapped(volume, "/v")]}),
        "volume-user": Run("echo x > /v/by-1000; /probe owner:/v/by-1000",
                           user, {"mounts": [_mapped(volume / "open", "/v")]}),
        "volume-read-only": Run("touch /v/no", fields={"mounts": [_mapped(volume, "/v", readonly=True)]}),
        "volume-file": Run("cat /f; /probe owner:/f", fields={"mounts": [_mapped(volume / "secret", "/f")]}),
        "volume-not-mapped": Run("/probe owner:/v/secret; cat /v/secret", fields={
            "mounts": [pb.Mount(host_path=str(volume), container_path="/v")]}),
        "image-volume": Run("/probe owner:/picture owner:/picture/data/web; cat /picture/data/top",
                            fields={"mounts": [picture]}),
    }  # fmt: skip


async def _refusals(cri: Client, pod: str, volume: Path) -> dict[str, tuple[str, str]]:
    other = pb.IDMapping(host_id=FIRST + 1, container_id=0, length=LENGTH)
    strange = pb.Mount(host_path=str(volume), container_path="/v", uidMappings=[other], gidMappings=[other])
    on_proc = _mapped(Path("/proc/self"), "/v")
    far = pb.LinuxContainerSecurityContext(run_as_user=_number(LENGTH))
    node = pb.NamespaceOption(userns_options=pb.UserNamespace(mode=pb.NODE))
    unlike = pb.LinuxContainerSecurityContext(namespace_options=node)
    cases: dict[str, dict[str, Any]] = {
        "mount with another mapping": {"mounts": [strange]},
        "file system that can't": {"mounts": [on_proc]},
        "user beyond": {"linux": pb.LinuxContainerConfig(security_context=far)},
        "not the pod's": {"linux": pb.LinuxContainerConfig(security_context=unlike)},
    }
    return {
        name: await cri.refused("CreateContainer", pod_sandbox_id=pod, config=cri.config("true", **fields))
        for name, fields in cases.items()
    }


class Outcome:
    """What the module's one pod showed."""

    runs: dict[str, Seen]
    refusals: dict[str, tuple[str, str]]
    node: dict[str, Seen]
    on_host: dict[str, tuple[int, int, int]]


async def _all(place: Path, guest_dir: Path) -> Outcome:
    result, volume = Outcome(), _volume(place)
    (volume / "open").mkdir()
    (volume / "open").chmod(0o777)
    with machine(place, guest_dir) as world:
        async with world.daemon() as cri:
            await cri("PullImage", image=pb.ImageSpec(image=world.image))
            sysctls = {"kernel.shm_rmid_forced": "1", "net.ipv4.ip_forward": "1"}
            pod = await cri.pod(log_directory=log_directory(world), linux=_linux(POD, sysctls=sysctls),
                                annotations={"clearpod.io/memory-mib": "192"})  # fmt: skip
            result.runs = await run(cri, pod, _runs(volume, world.image))
            result.refusals = await _refusals(cri, pod, volume)
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
            node = _linux(pb.UserNamespace(mode=pb.NODE))
            pod = await cri.pod("node", log_directory=log_directory(world), linux=node)
            result.node = await run(cri, pod, {"map": Run(execs=(("cat", "/proc/self/uid_map"),))})
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
            assert world.left_over() == []
    seen = {path.relative_to(volume): path.lstat() for path in volume.rglob("*")}
    result.on_host = {str(name): (st.st_uid, st.st_gid, st.st_mode & 0o7777) for name, st in seen.items()}
    return result


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, guest_dir: Path) -> Outcome:
    return asyncio.run(_all(tmp_path_factory.mktemp("userns"), guest_dir))


ROWS = [
    ("NamespaceMode_POD", "map", f"{0:10} {FIRST:10} {LENGTH:10}\n" * 2),
    ("files of the image", "image",
     "/ 0:0 755\n/probe 0:0 755\n/nnp 0:0 4755\n/data 0:0 755\n/data/web 33:34 640\nweb"),
    ("the writable layer", "writes",
     "/new 5:6 644\n/pipe 0:0 644\n/data/moved 0:0 644\n/data/inner/deep No such file or directory\n"
     "/data/web 7:34 640\n/a 0:0 750\n/b 0:0 777\n"),
    ("set-uid programs", "set-uid", "Effective uid: 0\n"),
    ("file capabilities", "file-capabilities", f"CapEff:\t{1 << 10:016x}\n"),
    ("a read-only root", "read-only", "shm\n"),
    ("what the runtime mounts", "places",
     "/dev/shm 0:0 1777\n/dev/mqueue 65534:65534 1777\n/dev/pts 0:0 755\n/dev/null 65534:65534 666\n"
     "/sys 65534:65534 555\n/proc 65534:65534 555\nagain\n"),
    ("standard output of a user", "user-stdout", "mine\n"),
    ("the pod's pid namespace", "pod-pid", "/proc/1\n/proc/1 0:0 555\n/proc/self 65534:65534 777\n"),
    ("a pid namespace of its own", "own-pid", "1\n"),
    ("nothing to see through the first process", "first", "0\n"),
    ("raw sockets and low ports", "network", "pong\nlo\n80\n"),
    ("NET_ADMIN", "net-admin", "made\n"),
    ("SYS_ADMIN", "sys-admin", "other\ntmpfs\n"),
    ("sysctls", "sysctls", "1\n1\n"),
    ("privileged is not root of the guest", "privileged", ""),
    ("a volume", "volume",
     "secretweb/v/secret 0:0 400\n/v/web 33:33 400\n/v/stranger 64534:64534 400\n"),
    ("a volume, as a user", "volume-user", "/v/by-1000 1000:1000 644\n"),
    ("a volume of one file", "volume-file", "secret/f 0:0 400\n"),
    ("a volume without mappings", "volume-not-mapped", "/v/secret 65534:65534 400\n"),
    ("an image volume", "image-volume", "/picture 0:0 755\n/picture/data/web 33:34 640\ntop"),
]  # fmt: skip


@pytest.mark.vm
@pytest.mark.parametrize(("name", "expected"), [pytest.param(*row[1:], id=row[0]) for row in ROWS])
def test_a_container_sees(outcome: Outcome, name: str, expected: str) -> None:
    assert outcome.runs[name].out == expected, outcome.runs[name]


ERRORS = [
    ("read-only", ["touch: /x: Read-only file system"]),
    ("first", ["/proc/1/root/run: No such file"]),
    ("privileged", ["mknod: /tmp/disk: Operation not permitted", "klogctl: Operation not permitted",
                    "can't execute '/probe'", "drop_caches: Permission denied"]),
    ("volume", ["can't open '/v/stranger': Permission denied"]),
    ("volume-read-only", ["touch: /v/no: Read-only file system"]),
    ("volume-not-mapped", ["can't open '/v/secret': Permission denied"]),
]  # fmt: skip


@pytest.mark.vm
@pytest.mark.parametrize(("name", "expected"), ERRORS, ids=[row[0] for row in ERRORS])
def test_a_container_may_not(outcome: Outcome, name: str, expected: list[str]) -> None:
    assert [text for text in expected if text not in outcome.runs[name].err] == [], outcome.runs[name]


@pytest.mark.vm
def test_the_host_sees_the_owners_that_the_container_sees(outcome: Outcome) -> None:
    assert outcome.on_host == {
        "secret": (0, 0, 0o400),
        "web": (33, 33, 0o400),
        "stranger": (FIRST + LENGTH + 5,) * 2 + (0o400,),
        "made": (0, 0, 0o644),
        "given": (44, 45, 0o4750),
        "dir": (0, 0, 0o755),
        "dir/deep": (0, 0, 0o755),
        "pipe": (0, 0, 0o644),
        "link": (0, 0, 0o777),
        "open": (0, 0, 0o777),
        "open/by-1000": (1000, 1000, 0o644),
    }


@pytest.mark.vm
def test_mode_node_is_the_guests_own(outcome: Outcome) -> None:
    assert outcome.node["map"].out.split() == ["0", "0", "4294967295"]


@pytest.mark.vm
@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("mount with another mapping", "INVALID_ARGUMENT", "must be those of its sandbox"),
        ("file system that can't", "UNIMPLEMENTED", "proc, has no idmapped mounts"),
        ("user beyond", "INVALID_ARGUMENT", f"{LENGTH} is not one of the {LENGTH}"),
        ("not the pod's", "INVALID_ARGUMENT", "must be those of its sandbox"),
    ],
)
def test_a_container_unlike_its_pod_is_refused(outcome: Outcome, name: str, code: str, text: str) -> None:
    assert outcome.refusals[name][0] == code
    assert text in outcome.refusals[name][1]


def _map(host: int, container: int = 0, length: int = LENGTH) -> pb.IDMapping:
    return pb.IDMapping(host_id=host, container_id=container, length=length)


BAD = [
    ("more than one mapping", pb.POD, [MAP, _map(200000, LENGTH)], None, "one mapping"),
    ("no mapping", pb.POD, [], None, "one mapping"),
    ("container id 0 is not mapped", pb.POD, [_map(FIRST, 1)], None, "the container's id 0"),
    ("NamespaceMode_CONTAINER", pb.CONTAINER, [MAP], None, "it is CONTAINER"),
    ("NamespaceMode_TARGET", pb.TARGET, [MAP], None, "it is TARGET"),
    ("no mode", 7, [MAP], None, "is 7"),
    ("NODE with a mapping", pb.NODE, [MAP], None, "must have no mappings"),
    ("groups unlike users", pb.POD, [MAP], [_map(FIRST + 1)], "must be the same"),
    ("root of the guest", pb.POD, [_map(0)], None, "from 1 to"),
    ("no ids", pb.POD, [_map(FIRST, 0, 0)], None, "from 1 to"),
    ("too many", pb.POD, [_map(1 << 31, 0, 1 << 31)], None, "from 1 to"),
]


@pytest.mark.parametrize(("mode", "uids", "gids", "text"), [pytest.param(*row[1:], id=row[0]) for row in BAD])
async def test_a_pod_is_refused(world: World, mode: Any, uids: Any, gids: Any, text: str) -> None:
    given = pb.UserNamespace(mode=mode, uids=uids, gids=uids if gids is None else gids)
    async with world.daemon() as cri:
        code, output = await cri.refused("RunPodSandbox", config=cri.sandbox(linux=_linux(given)))
    assert code == "INVALID_ARGUMENT"
    assert text in output
    assert world.left_over() == []


@pytest.mark.parametrize(("driver", "most", "text"), [(kvmtool, "1", "set vm.hypervisor to qemu"), (qemu, "0", "max")])
async def test_a_node_without_user_namespaces_reports_it(
    world: World, monkeypatch: pytest.MonkeyPatch, driver: Any, most: str, text: str
) -> None:
    (world.root / "max").write_text(most)
    monkeypatch.setattr(idmap, "_MOST", str(world.root / "max"))
    async with world.daemon() as cri:
        cri.node.host = world.host._replace(choice=world.host.choice._replace(hypervisor=driver.HYPERVISOR))
        assert not (await cri("Status")).runtime_handlers[0].features.user_namespaces
        code, output = await cri.refused("RunPodSandbox", config=cri.sandbox(linux=_linux(POD)))
        assert code == "UNIMPLEMENTED"
        assert text in output
