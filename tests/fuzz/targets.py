# SPDX-License-Identifier: Apache-2.0
"""Each parser of foreign bytes as a function that a fuzzer calls: bytes in, nothing out, an exception is a finding.

Run by `run.py` (atheris). What a parser documents for bad input is caught here, next to the call, so that the caught
types can be read as its contract. Targets also check what must hold of every result: bounds, round trips, no growth.
"""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from stage1.errors import BadRequest, NetworkFailed, PodError
from tests.fuzz.documents import variants
from tests.fuzz.examples import CHECKPOINT, CNI, OCI, RKT, nri_container, nri_pod

MIB = 1 << 20


class Target(NamedTuple):
    """`run` takes one input of at most `most_bytes`; coverage is measured in `modules`."""

    run: Callable[[bytes], None]
    modules: tuple[str, ...]
    most_bytes: int = 4096


def link(data: bytes) -> None:
    """The host's end of the link: the first byte chooses the portions; even inputs come behind a good HELLO."""
    from stage1.guest import codec, messages
    from stage1.guest import link as host_link
    from stage1.guest.frame import HELLO, START, pack

    if not data:
        return
    host = host_link.HostLink(bytes(range(16)), 7)
    host.open_stream(1)
    host.open_stream(2)
    host.connect(1)
    with suppress(host_link.LinkFault):
        asked = host.request(messages.List())
        if data[0] % 2 == 0:
            host.receive(START + pack(HELLO, codec.encode(messages.Hello(epoch=7, first=1, boot_id=1))))
        step = 1 + data[0] * 16
        for at in range(1, len(data), step):
            for seen in host.receive(data[at : at + step]):
                assert not isinstance(seen, host_link.ReplySeen) or seen.id == asked
                if isinstance(seen, host_link.DataSeen):
                    assert seen.stream in (1, 2)
                    host.consumed(seen.stream, len(seen.data))
                    host.acknowledge(seen.seq)
            assert len(host.outgoing()) <= MIB, "what the guest makes us send has no bound"


def messages(data: bytes) -> None:
    """A message of the agent, of the kind that the first byte selects; what was parsed is written and parsed again."""
    from stage1.guest import codec, wire
    from stage1.guest import messages as m

    if not data:
        return
    readers = (codec.decode_hello, codec.decode_reply, codec.decode_event, codec.decode_request)
    with suppress(wire.WireError):
        message = readers[data[0] % len(readers)](data[1:])
        if isinstance(message, m.Hello | m.Reply):
            assert type(message)(*message) == message
            assert readers[data[0] % len(readers)](codec.encode(message)) == message


def spdy(data: bytes) -> None:
    """A client's bytes of SPDY/3.1, in portions that the first byte chooses."""
    from cri.streaming import spdy as codec

    if not data:
        return
    server, step = codec.Codec(), 1 + data[0] * 8
    with suppress(codec.SpdyFault):
        for at in range(1, len(data), step):
            for event in server.receive(data[at : at + step]):
                if isinstance(event, codec.Opened):
                    assert sum(map(len, event.headers.values())) <= codec.MAX_HEADERS


def websocket(data: bytes) -> None:
    """Frames of a WebSocket behind the handshake, and Kubernetes' channels in them."""
    from wsproto.connection import Connection, ConnectionType
    from wsproto.events import BytesMessage, TextMessage
    from wsproto.utilities import RemoteProtocolError

    from cri.streaming.formats import NAMES, ChannelFault, Channels

    if not data:
        return
    codec, channels = Connection(ConnectionType.SERVER), Channels(has_close=data[0] % 2 == 0)
    with suppress(RemoteProtocolError, ChannelFault):
        codec.receive_data(data[1:])
        for event in codec.events():
            if isinstance(event, BytesMessage | TextMessage):
                payload = event.data.encode() if isinstance(event, TextMessage) else bytes(event.data)
                for piece in channels.receive(payload, message_ends=event.message_finished):
                    assert piece.end or piece.channel in NAMES.values()


def upgrade(data: bytes) -> None:
    """The headers of a streaming client's request: pairs of lines, a name and a value."""
    from cri.streaming import upgrade as decider

    lines = data.decode("latin-1").split("\n")
    headers: dict[str, list[str]] = {}
    for name, value in zip(lines[::2], lines[1::2], strict=False):
        headers.setdefault(name.lower(), []).append(value)
    for kind in ("exec", "attach", "portforward"):
        result = decider.decide(kind, headers)
        assert isinstance(result, decider.Refusal | decider.Upgrade)


def cni(data: bytes) -> None:
    """What a CNI plugin answers to ADD, and everything that is read out of it."""
    from stage1.net import protocol

    data = variants(data, good=CNI)
    with suppress(NetworkFailed):
        document = protocol.result(data, "a plugin")
        protocol.ips(document)
        protocol.addresses(document)
        protocol.dns(document)
    protocol.error_text(data, data, code=1)


def manifest(data: bytes) -> None:
    """The documents of an image, as a registry sends them: index, manifest and config, and a container made by it."""
    from cri.image import manifest as images

    name, half = "registry.test/image:1", len(data) // 2
    part, config = variants(data[:half], good=OCI), variants(data[half:], good=OCI)
    with suppress(PodError):
        images.choose(part, "amd64", name=name)
    with suppress(PodError):
        result = images.read_manifest(part, name=name)
        images.sizes(part)
        _create(images.read_config(config, result, name=name, architecture="amd64"))


def _create(config: dict[str, Any]) -> None:
    """A container of an image with that config, and without settings of its own."""
    from cri.live.images import Accounts
    from cri.pb import runtime_pb2 as pb
    from cri.store.images import Image
    from cri.store.pods import PodRecord
    from cri.translate import container, own_kernel
    from stage1.pod.model import Pod

    image = Image("sha256:", ("i",), (), 1, (config.get("config") or {}).get("User") or "", config, "")
    asked = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="c"), image=pb.ImageSpec(image="i"))
    accounts = Accounts("root:x:0:0::/root:/bin/sh\n", "root:x:0:\n")
    findings = container.Findings(accounts, own_kernel.of(image))
    container.record(asked, PodRecord(Pod("p", "web"), b"", "", 0), images={"i": image}, findings=findings)


def checkpoint(data: bytes) -> None:
    """The manifest of a checkpoint, which may have been anywhere; what is believed is written and read again."""
    from cri.snapshots import manifest as snapshots

    with suppress(BadRequest):
        made = snapshots.parse(variants(data, good=CHECKPOINT))
        assert snapshots.parse(snapshots.dump(made)) == made


def activation(data: bytes) -> None:
    """A frame for a pod whose guest is saved: from anybody on its network."""
    from stage1.net.activation import endpoints

    pod = endpoints("0a:58:0a:4d:00:02", ("10.77.0.2", "fd77::2"), ports={("tcp", 80), ("udp", 53)})
    answer = pod.answer(data)
    assert len(answer) in (0, 42, 86) and not (answer and pod.is_connection(data))


def kernel(data: bytes) -> None:
    """A kernel that an image brings: any bytes, and of a file with a declared size beyond its own."""
    from stage1.pod import kernel_image

    def read(at: int, count: int) -> bytes:
        return data[at : at + count]

    for size in (len(data), kernel_image.MOST_BYTES):
        with suppress(BadRequest):
            made = kernel_image.read_kernel(read, size, title="the kernel")
            assert made.kind in (kernel_image.PVH, kernel_image.MULTIBOOT, kernel_image.BZIMAGE) and made.end >= 0


def monitor(data: bytes) -> None:
    """What a QEMU that has fallen to its guest answers, line by line, when images are put into its disk."""
    import socket

    from stage1.vm import medium
    from stage1.vm.monitor import Monitor

    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        with Monitor(ours.detach(), limit_s=5) as asked, suppress(PodError):
            medium.add(asked, [], disk_bytes=MIB)


def erofs(data: bytes) -> None:
    """An erofs file: the superblock, and each entry below the root that a walk of bounded length reaches."""
    from stage1.rootfs import erofs as format_

    with tempfile.NamedTemporaryFile(dir=_memory()) as file, suppress(PodError):
        file.write(data)
        file.flush()
        with format_.Image(file.name) as image:
            image.devices()
            image.find("etc/passwd")
            waiting, steps = [image.root], 0
            while waiting and steps < 64:
                steps += 1
                for _, number, is_directory in image.children(waiting.pop()):
                    inode = image.inode(number)
                    image.xattr(inode, "security.capability")
                    waiting += [number] if is_directory and len(waiting) < 64 else []


def tar(data: bytes) -> None:
    """A layer's tar, before mkfs.erofs sees it."""
    from stage1.rootfs import facts
    from stage1.rootfs.limits import Limits
    from stage1.rootfs.passing import Passing

    with tempfile.NamedTemporaryFile(dir=_memory()) as file, suppress(PodError):
        file.write(data)
        file.seek(0)
        passed = bytearray()
        passing = Passing(file.fileno(), passed.extend)
        result, _ = facts.complete(passing, passed.extend, limits=Limits(), what="the layer")
        assert not len(passed) % 512
        assert all(".." not in path.split("/") for path in (*result.implicit, *result.capable))


def users(data: bytes) -> None:
    """passwd and group of an image, and a user that the image's config or the CRI names."""
    from stage1.pod import users as accounts

    user, passwd, group = [*data.decode("utf-8", "replace").split("\0", 2), "", ""][:3]
    with suppress(BadRequest):
        result = accounts.resolve(user, passwd=passwd, group=group)
        assert all(0 <= number <= accounts.MAX_ID for number in (result.uid, result.gid, *result.groups))


def reference(data: bytes) -> None:
    """The name of an image."""
    from cri.store import reference as names

    with suppress(PodError):
        names.parse(data.decode("utf-8", "surrogateescape"))


def rkt(data: bytes) -> None:
    """The manifests that rkt hands over, the pod's and the image's."""
    from stage1.rkt import manifest as rkt_manifest

    half = len(data) // 2
    pod, image = variants(data[:half], good=RKT), variants(data[half:], good=RKT)
    with tempfile.TemporaryDirectory(dir=_memory()) as place, suppress(PodError):
        for name, text in (("pod", pod), ("image", image)):
            with open(f"{place}/{name}", "wb") as file:
                file.write(text)
        rkt_manifest.read(f"{place}/pod", lambda _: f"{place}/image")


def console(data: bytes) -> None:
    """A guest's console: its last lines, as errors and the log show them."""
    from stage1.vm.vmm import VmProcess

    with tempfile.NamedTemporaryFile(dir=_memory()) as file:
        file.write(data)
        file.flush()
        text = VmProcess(1, 1, file.name).console_tail()
        assert all(c.isprintable() or c in "\n\t" for c in text)


def nri(data: bytes) -> None:
    """A plugin's bytes on NRI's socket, in portions that the first byte chooses, and what its messages ask for."""
    from cri.nri import calls, frames

    if not data:
        return
    reader, step = frames.Reader(), 1 + data[0] * 8
    with suppress(frames.FrameFault):
        for at in range(1, len(data), step):
            for message in reader.receive(data[at : at + step]):
                assert len(message.data) <= frames.MESSAGE_BYTES
                _nri_message(message.connection == frames.RUNTIME, message.data)
                assert frames.Reader().receive(frames.pack(message)) == [message]
    assert sum(map(len, reader._begun.values())) <= 2 * frames.MOST_CHUNK
    calls.shortened(data.decode("utf-8", "replace"))


def _nri_message(is_call: bool, data: bytes) -> None:
    """A call, or an answer to CreateContainer, whose wishes go into a container."""
    from cri.nri import adjust, amounts, calls, frames

    try:
        result = calls.asked(data).message if is_call else calls.answer("CreateContainer", data)
    except (frames.FrameFault, calls.Refused):
        return
    for update in getattr(result, "update", ()):
        with suppress(PodError):
            amounts.to_cri(update.linux.resources, who="the NRI plugin 00-x sets")
    if is_call:
        return
    with suppress(PodError):
        for mount in result.adjust.mounts:
            adjust._as_request(mount)
    del result.adjust.mounts[:]  # where nothing is, one would make a directory here
    with suppress(PodError):
        made = adjust.adjusted(nri_container(), result.adjust, title="00-x", claims={}, pod=nri_pod())
        assert all("\0" not in one for one in (*made.container.process.env, *made.container.process.argv))


def _memory() -> str | None:
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


TARGETS = {
    "link": Target(link, ("stage1.guest",)),
    "messages": Target(messages, ("stage1.guest",)),
    "spdy": Target(spdy, ("cri.streaming",)),
    "websocket": Target(websocket, ("cri.streaming", "wsproto")),
    "upgrade": Target(upgrade, ("cri.streaming",)),
    "cni": Target(cni, ("stage1.net",)),
    "manifest": Target(manifest, ("cri.image", "cri.translate")),
    "checkpoint": Target(checkpoint, ("cri.snapshots", "cri.store")),
    "erofs": Target(erofs, ("stage1.rootfs",), most_bytes=1 << 16),
    "tar": Target(tar, ("stage1.rootfs",), most_bytes=1 << 14),
    "users": Target(users, ("stage1.pod",), most_bytes=1 << 13),
    "reference": Target(reference, ("cri.store",)),
    "rkt": Target(rkt, ("stage1.rkt",)),
    "nri": Target(nri, ("cri.nri",)),
    "kernel": Target(kernel, ("stage1.pod",), most_bytes=1 << 14),
    "activation": Target(activation, ("stage1.net",)),
    "monitor": Target(monitor, ("stage1.vm",)),
    "console": Target(console, ("stage1.vm", "stage1.linux")),
}
