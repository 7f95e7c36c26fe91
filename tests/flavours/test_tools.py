# SPDX-License-Identifier: Apache-2.0
"""WireGuard between two pods, a FUSE file system, bpftool, and the features that the kernel lists."""

import pytest

from cri.pb import runtime_pb2 as pb
from tests.flavours.conftest import UNCONFINED, Pods, privileged_sandbox

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]
IMAGE = "net"
FUSE = pb.Device(host_path="/dev/fuse", container_path="/dev/fuse", permissions="rwm")
KEYS = "umask 077; wg genkey > /tmp/key; wg pubkey < /tmp/key"
LINK = """
    ip link add wg0 type wireguard
    ip addr add {own}/24 dev wg0
    wg set wg0 listen-port 51820 private-key /tmp/key peer {key} allowed-ips {other}/32 endpoint {ip}:51820
    ip link set wg0 up
"""
BIND = """
    mkdir /src /seen; echo content > /src/file
    bindfs --multithreaded -r /src /seen
    grep /seen /proc/mounts; cat /seen/file
    ! touch /seen/more
    fusermount3 -u /seen || umount /seen
"""
BPF = """
    mount -t bpf bpf /sys/fs/bpf
    bpftool version
    bpftool feature probe kernel | grep -E 'JIT compiler|program_type (kprobe|xdp|cgroup_device|sched_cls) '
    bpftool map create /sys/fs/bpf/m type hash key 4 value 8 entries 16 name ours
    bpftool map update pinned /sys/fs/bpf/m key 1 0 0 0 value 7 0 0 0 0 0 0 0
    bpftool map dump pinned /sys/fs/bpf/m
    bpftool prog show | grep -A2 cgroup_device | head -3
"""
LIST = """
    zcat /proc/config.gz | grep -E '^CONFIG_(PSI|SECURITY_LANDLOCK|BPF_JIT|NF_TABLES|WIREGUARD)='
    cat /sys/kernel/security/lsm && echo
    head -2 /proc/pressure/cpu
    for kind in xfs btrfs squashfs nfs; do mount -t $kind /dev/null /mnt 2>/dev/null || true; done
    grep -E '^nodev.(overlay|fuse)$|(xfs|btrfs|ext4|squashfs|nfs)$' /proc/filesystems
"""
ASKED = """
    grep -cE '^(xfs|wireguard|sctp|nf_tables) ' /proc/modules || true
    ip link add wg0 type wireguard
    nft add table ip t; nft add chain ip t c '{ type nat hook postrouting priority 0; }'; nft add rule ip t c masquerade
    iptables-legacy -t nat -A OUTPUT -p tcp -m multiport --dports 1,2 -m comment --comment x -j REDIRECT --to-ports 99
    iptables-legacy -t nat -S OUTPUT
    ip link add b0 type bond; ip link add v0 type vxlan id 7 dstport 4789 dev eth0; ip link add d0 type dummy
    ip -br link
    cut -d ' ' -f 1 /proc/modules
"""


async def test_two_pods_speak_by_wireguard(pods: Pods) -> None:
    async with pods.running("one", "two") as both:
        held = [await pod.start("exec sleep 1000", name="link", caps=("NET_ADMIN",)) for pod in both]
        keys = [(await pod.exec(at, KEYS)).strip() for pod, at in zip(both, held, strict=True)]
        for number, (pod, at) in enumerate(zip(both, held, strict=True)):
            other = 1 - number
            own = {"own": f"10.9.0.{number + 1}", "other": f"10.9.0.{other + 1}"}
            await pod.exec(at, LINK.format(**own, key=keys[other], ip=await both[other].ip()))
        assert " 0% packet loss" in await both[0].exec(held[0], "ping -c 3 -W 10 10.9.0.2")
        assert "latest handshake" in await both[1].exec(held[1], "wg show wg0")


async def test_a_fuse_file_system_is_mounted_without_privileges(pods: Pods) -> None:
    async with pods.running("fuse") as (pod,):
        output = await pod.run(BIND, name="bindfs", caps=("SYS_ADMIN",), devices=[FUSE], apparmor=UNCONFINED)
        assert "fuse" in output and "content" in output and "Read-only" in output


async def test_bpftool_sees_programs_that_are_compiled_and_makes_maps(pods: Pods) -> None:
    async with pods.running("bpf", linux=privileged_sandbox()) as (pod,):
        output = await pod.run(BPF, name="bpftool", privileged=True)
        assert "JIT compiler is enabled" in output and "jited" in output and "value: 07" in output


async def test_the_kernel_lists_its_features(pods: Pods) -> None:
    async with pods.running("list", linux=privileged_sandbox()) as (pod,):
        output = await pod.run(f"mount -t securityfs none /sys/kernel/security; {LIST}", name="list", privileged=True)
        assert "landlock" in output and "apparmor" in output and "btrfs" in output
        assert all(name in output.split() for name in ("xfs", "btrfs", "squashfs", "nfs"))


async def test_modules_are_loaded_for_who_may_use_what_they_are(pods: Pods) -> None:
    async with pods.running("asked") as (pod,):
        output = await pod.run(ASKED, name="asked", caps=("NET_ADMIN",), apparmor=UNCONFINED)
        first, *rest = output.split()
        assert first == "0", "nothing of it is there before somebody asks"
        assert all(name in rest for name in ("wireguard", "nf_tables", "nft_masq", "iptable_nat", "xt_multiport"))
        assert all(name in rest for name in ("bonding", "vxlan", "dummy")) and "bond0" not in rest
        code = await pod.run("ip link add wg1 type wireguard 2>&1 || true", name="denied")
        assert "not permitted" in code
