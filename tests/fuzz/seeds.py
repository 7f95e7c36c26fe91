# SPDX-License-Identifier: Apache-2.0
"""Makes the first inputs of the corpus, one good one of each kind: `python -m tests.fuzz.seeds`. The rest is found.

The corpus is in the repository, so that a run of seconds begins where earlier ones came to; this is how it began.
"""

import io
import struct
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path

from cri.streaming import spdy
from cri.streaming.spdy import dictionary
from stage1.guest import codec, frame, messages
from stage1.guest.numbers import ContainerStats, CpuStats, InterfaceStats, PodStats
from tests.fuzz.examples import DIGEST

CORPUS = Path(__file__).parent / "corpus"


def link() -> list[bytes]:
    """Frames behind the HELLO that the target itself sends."""
    data = frame.pack(frame.DATA, b"output\n", stream=1, seq=1) + frame.pack(frame.CREDIT, b"\0\1\0\0", stream=2, seq=2)
    event = frame.pack(frame.EVENT, codec.encode_event(messages.Exited("a" * 64, 0, 1, False, 5)), seq=3)
    end = frame.pack(frame.DATA, b"", stream=1, seq=4, flags=frame.END) + frame.pack(frame.ACK, seq=1)
    hello = frame.pack(frame.HELLO, codec.encode(messages.Hello(epoch=7, first=1, boot_id=1)))
    return [b"\x04" + data + event + end, b"\x01" + frame.START + hello + data, b"\x02" + bytes(range(16)) + hello]


def messages_() -> list[bytes]:
    """Each kind once."""
    stats = (ContainerStats("a" * 64, 5, CpuStats(1, 2, 3)),)
    pod = PodStats(5, CpuStats(1), interfaces=(InterfaceStats("eth0", 1, 2),), next=3)
    reply = messages.Reply(0, "why", 7, (messages.Container("b" * 64, 1, messages.Stdio(1, 2, 3)),), stats, pod)
    return [
        b"\0" + codec.encode(messages.Hello(key=bytes(16), epoch=1, first=1, kernel="6.12")),
        b"\1" + codec.encode(reply),
        b"\2" + codec.encode_event(messages.Exited("a" * 64, 2, 137, True, 1 << 60)),
        b"\3" + codec.encode_request(messages.Create("a" * 64, "lower", False, messages.Stdio(1))),
    ]


def spdy_() -> list[bytes]:
    """A stream that is opened, data in it, a reset, a ping and the end."""
    pack = zlib.compressobj(zdict=dictionary())
    header = (1).to_bytes(4, "big") + b"".join(len(x).to_bytes(4, "big") + x for x in (b"streamtype", b"stdin"))
    block = pack.compress(header) + pack.flush(zlib.Z_SYNC_FLUSH)
    opened = spdy.control(spdy.SYN_STREAM, (1).to_bytes(4, "big") + bytes(6) + block)
    rest = spdy.data(1, b"input", fin=True) + spdy.reset(1, spdy.CANCEL) + spdy.goaway(1)
    return [b"\x08" + opened + spdy.control(spdy.PING, (1).to_bytes(4, "big")) + rest]


def nri() -> list[bytes]:
    """A registration, and an answer with a wish of each kind, in one portion and in several."""
    from cri.nri import frames
    from cri.pb import nri_pb2 as api
    from cri.pb import ttrpc_pb2 as ttrpc

    name = api.RegisterPluginRequest(plugin_name="a", plugin_idx="00").SerializeToString()
    service = "nri.pkg.api.v1alpha1.Runtime"
    call = ttrpc.Request(service=service, method="RegisterPlugin", payload=name).SerializeToString()
    wish = api.ContainerAdjustment(annotations={"x": "y", "-a": ""}, args=["", "sh"])
    wish.env.add(key="-A")
    wish.mounts.add(destination="/x", source="/tmp", type="bind", options=["rbind", "ro", "rslave"])
    wish.linux.resources.memory.limit.value = 1 << 26
    wish.linux.resources.unified["memory.high"] = "max"
    wish.linux.oom_score_adj.value = 5
    answer = api.CreateContainerResponse(adjust=wish)
    answer.update.add(container_id="b").linux.resources.cpu.shares.value = 2
    reply = ttrpc.Response(payload=answer.SerializeToString()).SerializeToString()
    data = frames.pack(frames.Message(2, 1, 1, call)) + frames.pack(frames.Message(1, 1, 2, reply))
    return [b"\xff" + data, b"\1" + data]


def websocket() -> list[bytes]:
    """A masked binary message on channel 0, a ping and a close frame."""
    return [b"\0\x82\x82" + bytes(4) + b"\0x" + b"\x89\x80" + bytes(4) + b"\x88\x82" + bytes(4) + b"\x03\xe8"]


def tar() -> list[bytes]:
    """A file without a directory of its own, with a PAX header, and a hard link to it."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("usr/bin/" + "n" * 120)
        entry.pax_headers = {"SCHILY.xattr.security.capability": "x"}
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"abc"))
        other = tarfile.TarInfo("etc/link")
        other.type, other.linkname = tarfile.LNKTYPE, "usr/bin/" + "n" * 120
        archive.addfile(other)
    return [made.getvalue()]


def erofs() -> list[bytes]:
    """What mkfs.erofs makes of that tar, as clearpod calls it and with small inodes."""
    result = []
    for options in (["-Enosbcrc,force-inode-extended"], ["-Eforce-inode-compact"]):
        with tempfile.TemporaryDirectory() as place:
            Path(place, "tar").write_bytes(tar()[0])
            argv = ["mkfs.erofs", "--quiet", "--tar=f", *options, f"{place}/image", f"{place}/tar"]
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
            result.append(Path(place, "image").read_bytes())
    return result


def kernel() -> list[bytes]:
    """An ELF with a PVH note, a header of multiboot with addresses, and the beginning of a bzImage."""
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", 0x100000)
    head = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    segments = struct.pack("<IIQQQQQQ", 1, 5, 0, 0x100000, 0x100000, 64, 4096, 4096)
    segments += struct.pack("<IIQQQQQQ", 4, 4, 64 + 112, 0, 0, len(note), len(note), 4)
    multiboot = struct.pack("<III", 0x1BADB002, 1 << 16, -(0x1BADB002 + (1 << 16)) & 0xFFFFFFFF)
    bzimage = bytes(0x1F1) + b"\1" + bytes(12) + b"\x55\xaa" + bytes(2) + b"HdrS\x0f\2" + bytes(9) + b"\1" + bytes(1024)
    return [head + segments + note, multiboot + struct.pack("<IIIII", 0, 0, 4096, 8192, 0), bzimage, bzimage[:0x208]]


def monitor() -> list[bytes]:
    """Answers in good order, with a descriptor that is there, and the beginning of others."""
    sets = b'{"return": [{"fdset-id": 3, "fds": [{"fd": 9, "opaque": "0 4096"}]}]}\r\n'
    rest = b'{"return": "window-a"}\n{"error": {"desc": "none"}}\n' + sets + b'{"return": {"fdset-id": 4}}\n' * 2
    return [sets + rest + b'{"return": {}}\n' * 5, b'{"event": "STOP"}\n{"return": [[[[', b"[" * 3000 + b"\n"]


def activation() -> list[bytes]:
    """A question by ARP, one by a neighbour's solicitation, and the first segment of a connection."""
    mac, peer, four, six = b"\n\x58\nM\0\2", b"\n\x58\nM\0\1", bytes((10, 77, 0, 2)), b"\xfdw" + bytes(13) + b"\2"
    arp = b"\xff" * 6 + peer + b"\x08\x06\0\1\x08\0\6\4\0\1" + peer + bytes((10, 77, 0, 1)) + bytes(6) + four
    asked = b"\x87" + bytes(7) + six + b"\1\1" + peer
    solicitation = mac + peer + b"\x86\xdd\x60\0\0\0\0\x20\x3a\xff" + six[:15] + b"\1" + six + asked
    tcp = mac + peer + b"\x08\0\x45" + bytes(8) + b"\6\0\0" + bytes(4) + four + b"\x9c\x40\0\x50" + bytes(8) + b"\x50\2"
    return [arp, solicitation, tcp]


def texts() -> dict[str, list[bytes]]:
    """Those that are lines."""
    return {
        "upgrade": [b"Connection\nUpgrade\nUpgrade\nSPDY/3.1\nX-Stream-Protocol-Version\nv4.channel.k8s.io"],
        "users": [b"web:www\0root:x:0:0::/:\nweb:x:33:33::/:\n\0www:x:34:web\n"],
        "reference": [b"registry.test:5000/a/b:1.0", b"alpine@" + DIGEST.encode(), b"oci:/dir"],
        "console": [b"[    0.000000] Linux\r\n\x1b[31mred\x1b[0m\n" + b"x" * 300],
        **{name: [b"\0\5\7", b"\1\2\11\3\12" * 2] for name in ("checkpoint", "cni", "manifest", "rkt")},
    }


def main() -> None:
    """Write them as seed-N."""
    made = {"link": link(), "messages": messages_(), "spdy": spdy_(), "websocket": websocket(), "nri": nri()}
    for name, inputs in {
        **made,
        "tar": tar(),
        "erofs": erofs(),
        "kernel": kernel(),
        "activation": activation(),
        "monitor": monitor(),
        **texts(),
    }.items():
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(inputs):
            (CORPUS / name / f"seed-{number}").write_bytes(data)


if __name__ == "__main__":
    main()
