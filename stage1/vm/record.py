# SPDX-License-Identifier: Apache-2.0
"""vm.json in a pod's directory: who its VMM is, for whoever adopts it, mounts into it or removes it, in any process.
Called by the engine, and by stage1/rkt, whose launcher stands for the VMM. Nothing is started or looked for here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from stage1.errors import Exhausted, KernelError, VmFailed
from stage1.linux import beneath
from stage1.linux.idmap import Extent
from stage1.vm.vmm import VmProcess

FILE = "vm.json"
_VERSION = 1
_MOST_BYTES = 65536


class Record:
    """`ids` are those of the VMM's user namespace, `memory_bytes` is the limit of its cgroup or 0, `cid` the guest's
    vsock context id or 0. `volume_server` is the program that serves its volumes, empty when they are on a share, and
    `port` that at which this waits for the guest, or 0.
    """

    def __init__(self, vmm: VmProcess, ids: Sequence[Extent] = (), *, memory_bytes: int = 0, cid: int = 0) -> None:
        self.vmm, self.ids, self.memory_bytes, self.cid = vmm, tuple(ids), memory_bytes, cid
        self.volume_server, self.port = "", 0

    def with_server(self, program: str, server: tuple[int, int] | tuple[()] = (), *, port: int = 0) -> Record:
        """The record with the server of volumes: its program, and its pid and start time if it runs."""
        result = Record(self.vmm._replace(server=server), self.ids, memory_bytes=self.memory_bytes, cid=self.cid)
        result.volume_server, result.port = program, port
        return result

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(self.vmm)


def write(directory: str, record: Record) -> None:
    """Write it for the pod in `directory`. Raises NoSpace, KernelError."""
    document = {"v": _VERSION, **record.vmm.to_json(), "ids": record.ids, "memory_bytes": record.memory_bytes}
    if record.cid:
        document["cid"] = record.cid
    if record.volume_server:
        document |= {"volume_server": record.volume_server, "port": record.port}
    with beneath.Root(directory) as own:
        own.write(FILE, json.dumps(document).encode())


def read(directory: str) -> Record | None:
    """The record that `write` wrote; None if there is none. Raises VmFailed if it is damaged."""
    try:
        with beneath.Root(directory) as own:
            document = json.loads(own.read(FILE, most=_MOST_BYTES, ours=True))
    except FileNotFoundError:
        return None
    except Exhausted:
        raise
    except (ValueError, RecursionError, KernelError) as error:
        raise VmFailed(f"{directory}/{FILE} is damaged: {str(error)[:200]}") from None
    try:
        return _record(document)
    except (TypeError, ValueError) as error:
        raise VmFailed(f"{directory}/{FILE} is damaged: {str(error)[:200]}") from None


def _record(document: Any) -> Record:
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    cid, memory_bytes, port = (document.get(name, 0) for name in ("cid", "memory_bytes", "port"))
    volume_server = document.get("volume_server", "")
    if "cid" in document and not (isinstance(cid, int) and 2 < cid < 2**32):
        raise ValueError(f"{str(cid)[:100]} is not a context id of a guest")
    if not isinstance(memory_bytes, int) or memory_bytes < 0:
        raise ValueError(f"{str(memory_bytes)[:100]} is not a number of bytes")
    if not isinstance(port, int) or not 0 <= port < 2**32:
        raise ValueError(f"{str(port)[:100]} is not a port")
    if not isinstance(volume_server, str) or not (volume_server.startswith("/") or not volume_server):
        raise ValueError(f"{str(volume_server)[:100]} is not the path of a program")
    ids = tuple(map(_extent, document.get("ids") or ()))
    vmm = VmProcess.from_json(document)
    return Record(vmm, ids, memory_bytes=memory_bytes, cid=cid).with_server(volume_server, vmm.server, port=port)


def _extent(triple: Any) -> Extent:
    inside, outside, length = triple
    if not all(isinstance(number, int) and 0 <= number < 2**32 for number in (inside, outside, length)):
        raise ValueError(f"{str(triple)[:100]} is not a range of ids")
    return Extent(inside, outside, length)
