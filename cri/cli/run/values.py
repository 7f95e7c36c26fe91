# SPDX-License-Identifier: Apache-2.0
"""The texts of `clearpod run`'s options, in podman's units, as the CRI's values. Called by `request`.

Looks at the sources of volumes and at files of variables. Every error is a BadRequest with the option and the text.
"""

import json
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack

from cri.pb import runtime_pb2 as pb
from cri.translate import mounts
from stage1.errors import AlreadyExists, BadRequest, NotFound

UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
PROPAGATIONS = {
    "private": pb.PROPAGATION_PRIVATE,
    "slave": pb.PROPAGATION_HOST_TO_CONTAINER,
    "shared": pb.PROPAGATION_BIDIRECTIONAL,
}
ACCEPTED = ("z", "Z", "rw", "rbind", "bind", "exec", "dev", "suid")
"""Of a volume: what is so anyway, or has no meaning without SELinux."""
PROTOCOLS = {"tcp": pb.TCP, "udp": pb.UDP, "sctp": pb.SCTP}
MOST_PORTS = 256
"""Of one range."""
MOST_FILE_BYTES = 1 << 20
_SIZE = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,3}))?([bkmgt]?)(?:i?b)?")


def is_utf8(text: str) -> bool:
    """Whether a word of the command line is one, which Python has decoded with surrogates for other bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def size(text: str, option: str) -> int:
    """Bytes of 64m, 1.5g or 4096. Raises BadRequest."""
    match = _SIZE.fullmatch(text.lower())
    if not match:
        raise BadRequest(f"{option} {text[:64]} is not a size such as 64m or 1g")
    return int(float(f"{match[1]}.{match[2] or 0}") * UNITS[match[3]])


def entrypoint(text: str) -> list[str]:
    """One program, or the arguments of a JSON list."""
    if not text.startswith("["):
        return [text] if text else []
    try:
        argv = json.loads(text)
    except (ValueError, RecursionError):
        argv = None
    if not isinstance(argv, list) or not argv or not all(isinstance(one, str) for one in argv):
        raise BadRequest(f"--entrypoint {text[:64]} is neither a word nor a JSON list of words")
    return argv


def variables(files: list[str], entries: list[str], *, ours: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of --env-file and then of --env; names without a value take it from `ours`."""
    result: dict[str, str] = {}
    for entry in (*(line for path in files for line in _lines(path)), *entries):
        key, is_given, value = entry.partition("=")
        if not key or any(letter.isspace() for letter in key):
            raise BadRequest(f"--env {entry[:64]!r} has no name before =")
        if is_given or key in ours:
            result[key] = value if is_given else ours[key]
    return result


def _lines(path: str) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MOST_FILE_BYTES + 1)
    except UnicodeDecodeError:
        raise BadRequest(f"--env-file {path} is not text in UTF-8") from None
    except OSError as error:
        raise NotFound(f"--env-file {path} can't be read: {error.strerror}") from None
    if len(text) > MOST_FILE_BYTES:
        raise BadRequest(f"--env-file {path} has more than {MOST_FILE_BYTES} characters")
    for line in text.splitlines():
        if (entry := line.lstrip()) and not entry.startswith("#"):
            yield entry


def volume(word: str) -> pb.Mount:
    """Parse a volume, SRC:DST[:OPTIONS]."""
    parts = word.split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise BadRequest(f"--volume {word[:128]} must be SRC:DST[:OPTIONS], with a path of the host before the colon")
    options = parts[2].split(",") if len(parts) == 3 else []
    return bind(parts[0], parts[1], options=options, option=f"--volume {word}")


def bind(source: str, target: str, *, options: list[str], option: str) -> pb.Mount:
    """`source` of the host at `target`. A name without a slash would be a volume of podman's, which are not here."""
    if not source.startswith(("/", ".", "~")):
        raise BadRequest(f"{option}: there are no named volumes; give a directory, such as ./{source}")
    path = os.path.abspath(os.path.expanduser(source))
    if not os.path.exists(path):
        raise NotFound(f"{option}: {path} does not exist on the host; make it first")
    made = pb.Mount(host_path=path, container_path=mounts.target(target))
    for word in options:
        _apply(made, word, option=option)
    return made


def _apply(made: pb.Mount, word: str, *, option: str) -> None:
    kind = word.removeprefix("r")
    if word in ("ro", "readonly"):
        made.readonly = True
    elif word in mounts.OPTIONS:
        made.mount_options.append(word)
    elif kind in PROPAGATIONS:
        made.propagation = PROPAGATIONS[kind]
    elif word not in ACCEPTED:
        raise BadRequest(
            f"{option}: the option {word} is not supported; known are ro, rw, {', '.join(mounts.OPTIONS)}, "
            f"{', '.join(f'r{one}' for one in PROPAGATIONS)}, z and Z"
        )


def mount(word: str) -> pb.Mount | str:
    """type=bind: a mount; type=tmpfs: the word of `extras.tmpfs_of`."""
    fields = dict(part.partition("=")[::2] for part in word.split(","))
    kind = fields.pop("type", "bind")
    target = next((fields.pop(name) for name in ("target", "dst", "destination") if name in fields), "")
    source = next((fields.pop(name) for name in ("source", "src") if name in fields), "")
    if not target:
        raise BadRequest(f"--mount {word[:128]} lacks target=PATH")
    if kind == "tmpfs":
        return _tmpfs(target, fields)
    if kind != "bind":
        raise BadRequest(f"--mount {word[:128]}: the type {kind} is not supported; known are bind and tmpfs")
    propagation = fields.pop("bind-propagation", "")
    options = [name for name, value in fields.items() if value in ("", "true")] + [propagation] * bool(propagation)
    return bind(source, target, options=options, option=f"--mount {word}")


def _tmpfs(target: str, fields: dict[str, str]) -> str:
    names = {"tmpfs-size": "size", "tmpfs-mode": "mode"}
    options = [f"{names.get(key, key)}={value}" if value else key for key, value in fields.items()]
    return f"{target}:{','.join(options)}" if options else target


def ports(word: str) -> Iterator[pb.PortMapping]:
    """[[IP:][HOST]:]PORT[/PROTOCOL], both numbers or ranges of one length. Without HOST the host's port is 0: any."""
    text, _, protocol = word.partition("/")
    before, _, rest = text.rpartition(":")
    address, _, host = before.rpartition(":")
    inner = _range(rest, word)
    outer = _range(host, word) if host else [0] * len(inner)
    if len(outer) != len(inner):
        raise BadRequest(f"--publish {word[:64]} has {len(outer)} ports of the host and {len(inner)} of the pod")
    if (protocol or "tcp") not in PROTOCOLS:
        raise BadRequest(f"--publish {word[:64]}: the protocol must be tcp, udp or sctp")
    for one, other in zip(outer, inner, strict=True):
        yield pb.PortMapping(
            protocol=PROTOCOLS[protocol or "tcp"], host_port=one, container_port=other, host_ip=address.strip("[]")
        )


def take_free(mappings: Iterable[pb.PortMapping]) -> list[pb.PortMapping]:
    """Give those without a port of the host a free one, and return them.

    Raises AlreadyExists for a port at which a program of the host listens: the plugin's rules would hide that.
    """
    chosen = []
    with ExitStack() as held:  # until all have one: none is chosen twice
        for one in sorted(mappings, key=lambda one: not one.host_port):
            if not one.host_port:
                chosen.append(one)
            _take(one, held)
    return chosen


def _take(one: pb.PortMapping, held: ExitStack) -> None:
    kinds = {pb.TCP: socket.SOCK_STREAM, pb.UDP: socket.SOCK_DGRAM}
    if one.protocol not in kinds and one.host_port:
        return
    family = socket.AF_INET6 if ":" in one.host_ip else socket.AF_INET
    probe = held.enter_context(socket.socket(family, kinds.get(one.protocol, socket.SOCK_STREAM)))
    if one.host_port:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((one.host_ip, one.host_port))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        where = f"--publish {one.host_port or one.container_port}: no port can be published at"
        raise AlreadyExists(f"{where} {one.host_ip or 'every address'}: {reason}; take another") from None
    one.host_port = probe.getsockname()[1]


def _range(text: str, word: str) -> range:
    first, _, last = text.partition("-")
    numbers = [
        int(part) if part.isascii() and part.isdigit() and len(part) < 6 else 0 for part in (first, last or first)
    ]
    if not 0 < numbers[0] <= numbers[1] < 65536 or numbers[1] - numbers[0] >= MOST_PORTS:
        raise BadRequest(f"--publish {word[:64]} has {text[:32]!r} for a port or a range of at most {MOST_PORTS} ports")
    return range(numbers[0], numbers[1] + 1)
