# SPDX-License-Identifier: Apache-2.0
"""What must be known to undo a pod's network: one versioned JSON file per pod, written before anything is made.

Called by attach. The file lies in the cache directory, which survives a reboot as the plugins' leases do; the pod's
directory has a symbolic link `cni.json` to it, so that the directory alone leads to everything. What is known before
the first plugin runs outlives a power cut, in a second file; what the plugins answered is of no use after one.

Both files of a pool slot have room: a record a line, of which the last whole one counts, and zeros behind it. One more
line takes a fraction of a new file's time, and its sync no commit of the file system's journal (docs/design/pool.md).
"""

import json
import os
from typing import NamedTuple

from stage1.errors import BadRequest, PodError
from stage1.linux import beneath, files
from stage1.linux.libc import Guard
from stage1.net.conflist import Network, is_word
from stage1.net.protocol import Call, Document
from stage1.pod.network import Interface, Neighbour, PodNetwork, Route

VERSION = 1
LINK = "cni.json"
_HALF = "~"
"""Ends the name of a file that `write_atomic` has not finished."""
_ASIDE = ".written-off"
_FIRST = f".first{_HALF}"
"""Ends that of the second file. A power cut may leave an empty file where one that was not synced replaced another."""
_RESERVED_BYTES = 32768
"""Of each file of a slot: some seven records of a pod with one network. What does not fit replaces the file."""


class Attachment(NamedTuple):
    """One network of the pod. `result` is that of the last plugin that finished ADD, None before the first; `deleted`
    are the numbers of the plugins that finished DEL while another failed.
    """

    network: Network
    call: Call
    result: Document | None = None
    deleted: tuple[int, ...] = ()


class Record(NamedTuple):
    """The whole file. `seen` is None until the taps are there. `failures` counts DELs that failed; with `is_deferred`
    they are retried without the pod. `directory` is the pod's; empty in files of former versions.
    """

    netns: str
    bin_dirs: tuple[str, ...]
    limit_s: float
    attachments: tuple[Attachment, ...]
    seen: PodNetwork | None = None
    failures: int = 0
    is_deferred: bool = False
    directory: str = ""


def reserve(path: str, record: Record) -> None:
    """`save` for a pool slot, with space reserved for the claim, which has to be fast."""
    data = b"%b\n" % _text(record)
    files.write_atomic(f"{path}{_FIRST}", data.ljust(_RESERVED_BYTES, b"\0"), durable=True)
    files.write_atomic(path, data.ljust(_RESERVED_BYTES, b"\0"))


def begin(path: str, record: Record) -> None:
    """`save` before the first plugin runs: from now on `load_first` finds the record, after a power cut too."""
    first, data = f"{path}{_FIRST}", _text(record)
    if _added(first, data, durable=True):
        save(path, record)
        return
    files.write_atomic(first, data, durable=True)
    files.unlink(path)
    with Guard("link", path):
        os.link(first, path)


def save(path: str, record: Record) -> None:
    """Put the record in the place of the one at `path`, in one step."""
    data = _text(record)
    if not _added(path, data):
        files.write_atomic(path, data)


def settle(path: str, record: Record) -> None:
    """`save` as the only record of a file without room, as it is of any pod that is ready and as former versions read
    it.
    """
    files.write_atomic(path, _text(record))


def _added(path: str, data: bytes, *, durable: bool = False) -> bool:
    """Add `data` to the file at `path` as its last line; False when it has no room."""
    return files.add_line(path, data, most=_RESERVED_BYTES, durable=durable)


def _text(record: Record) -> bytes:
    document = {
        "v": VERSION,
        "netns": record.netns,
        "bin_dirs": record.bin_dirs,
        "limit_s": record.limit_s,
        "attachments": [
            {**one._asdict(), "network": one.network._asdict(), "call": one.call._asdict()}
            for one in record.attachments
        ],
        "seen": _plain(record.seen) if record.seen else None,
        "failures": record.failures,
        "is_owed": record.is_deferred,
        "directory": record.directory,
    }
    return json.dumps(document).encode()


def try_to_save(path: str, record: Record) -> bool:
    """Like `save`, in a rollback, which a full or failing disk must not prevent. Return whether it was possible."""
    try:
        save(path, record)
    except PodError:
        return False
    return True


def load(path: str) -> Record | None:
    """The record at `path`, None when there is none. Raises PodError when it can't be understood."""
    try:
        *lines, rest = files.read(path).rstrip(b"\0").split(b"\n")
    except FileNotFoundError:
        return None
    damage: Exception | None = None
    for line in reversed([line for line in lines if line] or [rest]):
        try:
            document = json.loads(line)
            if document["v"] != VERSION:
                raise PodError(f"{path} has version {document['v']}; this clearpod reads version {VERSION}")
            return _checked(_record(document))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            damage = damage or error
    raise PodError(f"the record of a pod's network, {path}, is damaged: {damage!r:.200}")


def load_first(path: str) -> Record | None:
    """Like `load`, but if the record is damaged or lost, returns what was recorded before the first plugin ran:
    enough for DEL.
    """
    try:
        known, error = load(path), None
    except PodError as damage:
        known, error = None, damage
    known = known or load(f"{path}{_FIRST}")
    if known is None and error is not None:
        raise error
    return known


def place(cache_dir: str, pod_id: str) -> str:
    """The path of the pod's file. Raises BadRequest for an id that could lead to another path."""
    if not is_word(pod_id):
        raise BadRequest(f"a pod's id must be letters, digits, '_', '.', '-', but it is {pod_id!r}")
    return f"{cache_dir}/{pod_id}.json"


def pod_of(path: str) -> str:
    """The id of the pod whose file is at `path`."""
    return os.path.basename(path).removesuffix(".json")


def link(directory: str, path: str) -> None:
    """Make the pod's directory lead to the file at `path`."""
    with beneath.Root(directory) as own:
        own.link(LINK, path)


def linked(directory: str) -> str:
    """The file that the pod's directory leads to; empty when the pod never had a network.

    The file names programs that are run as root: nothing that the guest sees is believed.
    """
    try:
        with beneath.Root(directory) as own:
            path = own.read_link(LINK)
    except FileNotFoundError:
        return ""
    top = os.path.realpath(directory)
    is_shared = os.path.realpath(path).startswith((f"{top}/tree/", f"{top}/share/"))
    return path if os.path.isabs(path) and path.endswith(".json") and not is_shared else ""


def forget(path: str) -> None:
    """Remove the file, and what a `save` left that did not live to its end. Idempotent."""
    directory, name = os.path.split(path)
    for other in _names(directory):
        if other.startswith(f"{name}.") and other.endswith(_HALF):
            files.unlink(f"{directory}/{other}")
    files.unlink(path)


def put_aside(path: str) -> str:
    """Keep the file at `path` under a name that only people look for; that name. Idempotent."""
    kept = f"{path.removesuffix('.json')}{_ASIDE}"
    for name in (f"{path}{_FIRST}", path):  # the second one knows more
        try:
            with Guard("rename", name):
                os.rename(name, kept)
        except FileNotFoundError:
            continue
    forget(path)
    return kept


def every(cache_dir: str) -> dict[str, str]:
    """Pod id -> path, of all files in `cache_dir`, half-written ones included."""
    names = (name for name in _names(cache_dir) if name.endswith((".json", _HALF)))
    ids = dict.fromkeys(name.partition(".json")[0] for name in names)
    return {pod_id: place(cache_dir, pod_id) for pod_id in ids if is_word(pod_id)}


def _names(directory: str) -> list[str]:
    try:
        with Guard("list", directory):
            return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


def _plain(seen: PodNetwork) -> Document:
    lists = {key: [one._asdict() for one in getattr(seen, key)] for key in ("interfaces", "routes", "neighbours")}
    return {**seen._asdict(), **lists}


def _checked(record: Record) -> Record:
    """Raise TypeError unless the fields are of their types, as far as others count on it."""
    texts = (record.netns, record.directory, *record.bin_dirs)
    calls = [one.call for one in record.attachments]
    texts += tuple(word for call in calls for word in (call.container, call.netns, call.ifname))
    results = [one.result for one in record.attachments if one.result is not None]
    if not all(isinstance(word, str) for word in texts):
        raise TypeError("a name is not text")
    if not all(
        isinstance(one, dict) for one in (*results, *(p for one in record.attachments for p in one.network.plugins))
    ):
        raise TypeError("a result or a plugin is not an object")
    numbers: tuple[object, ...] = (record.limit_s, record.failures)
    if not all(isinstance(number, int | float) for number in numbers):
        raise TypeError("a field that must be a number is not")
    return record


def _record(document: Document) -> Record:
    attachments = tuple(
        Attachment(_network(one["network"]), _call(one["call"]), one["result"], tuple(one.get("deleted", ())))
        for one in document["attachments"]
    )
    seen = _seen(document["seen"]) if document["seen"] else None
    bin_dirs = tuple(document["bin_dirs"])
    failures, is_deferred = document.get("failures", 0), document.get("is_owed", False)
    directory = document.get("directory", "")
    return Record(document["netns"], bin_dirs, document["limit_s"], attachments, seen, failures, is_deferred, directory)


def _network(document: Document) -> Network:
    return Network(**{**document, "plugins": tuple(document["plugins"])})


def _call(document: Document) -> Call:
    return Call(**{**document, "args": tuple((key, value) for key, value in document["args"])})


def _seen(document: Document) -> PodNetwork:
    tuples = {key: tuple(value) for key, value in document.items()}
    tuples["interfaces"] = tuple(
        Interface(**{**one, "addresses": tuple(one["addresses"])}) for one in document["interfaces"]
    )
    tuples["routes"] = tuple(Route(**one) for one in document["routes"])
    tuples["neighbours"] = tuple(Neighbour(**one) for one in document["neighbours"])
    return PodNetwork(**tuples)
