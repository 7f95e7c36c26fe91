# SPDX-License-Identifier: Apache-2.0
"""Pods with a user namespace of their own, in real guests. Cases are named after their row of critest's table.

One pod for all that is only looked at: who owns the files of the image, of the writable layer and of volumes, what root
may do and what it may not, and that the network is the pod's.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb

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
    as_said = {"namespace_options": pb.NamespaceOption(userns_options=POD)}
    picture = pb.Mount(image=pb.ImageSpec(image=image), container_path="/picture", readonly=True)
    return {
        "map": Run(security=as_said, execs=(("cat", "/proc/self/uid_map"), ("cat", "/proc/self/gid_map"))),
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
                          "dmesg -n 1; head -c 1 /dev/vda; chroot /proc/1/root /probe; echo 1 > /proc/sys/vm/drop_caches;"
                          "mkdir /sys/fs/cgroup/mine && echo cgroup", {"privileged": True}),
        "volume": Run("cat /v/secret /v/web; /probe owner:/v/secret owner:/v/web owner:/v/stranger; echo x > /v/made && "
                      "echo y > /v/given && chown 44:45 /v/given && mkdir /v/dir/deep && mkfifo /v/pipe && "
                      "ln -s secret /v/link && chmod 4750 /v/given; cat /v/stranger",
                      fields={"mounts": [_mapped(volume, "/v")]}),
        "volume-user": Run("echo x > /v/by-1000; cat /v/secret",
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


class Found:
    """What the module's one pod showed."""

    runs: dict[str, Seen]
    refusals: dict[str, tuple[str, str]]
    node: dict[str, Seen]
    on_host: dict[str, tuple[int, int, int]]


async def _all(place: Path, guest_dir: Path) -> Found:
    found, volume = Found(), _volume(place)
    (volume / "open").mkdir()
    (volume / "open").chmod(0o777)
    with machine(place, guest_dir) as world:
        async with world.daemon() as cri:
            await cri("PullImage", image=pb.ImageSpec(image=world.image))
            sysctls = {"kernel.shm_rmid_forced": "1", "net.ipv4.ip_forward": "1"}
            pod = await cri.pod(log_directory=log_directory(world), linux=_linux(POD, sysctls=sysctls),
                                annotations={"clearpod.io/memory-mib": "192"})  # fmt: skip
            found.runs = await run(cri, pod, _runs(volume, world.image))
            found.refusals = await _refusals(cri, pod, volume)
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
            node = _linux(pb.UserNamespace(mode=pb.NODE))
            pod = await cri.pod("node", log_directory=log_directory(world), linux=node)
            found.node = await run(cri, pod, {"map": Run(execs=(("cat", "/proc/self/uid_map"),))})
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
            assert world.left_over() == []
    seen = {path.relative_to(volume): path.lstat() for path in volume.rglob("*")}
    found.on_host = {str(name): (st.st_uid, st.st_gid, st.st_mode & 0o7777) for name, st in seen.items()}
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, guest_dir: Path) -> Found:
    return asyncio.run(_all(tmp_path_factory.mktemp("userns"), guest_dir))
