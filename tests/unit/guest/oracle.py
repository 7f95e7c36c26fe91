# SPDX-License-Identifier: Apache-2.0
"""google.protobuf's view of proto/agent/agent.proto: the oracle for our own codec.

The proto is compiled for the occasion, into a pool of its own: nothing generated is kept or shared.
"""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

ROOT = Path(__file__).resolve().parents[3]
PROTO = ROOT / "proto" / "agent" / "agent.proto"
VECTORS = ROOT / "proto" / "vectors"


@cache
def descriptors() -> descriptor_pb2.FileDescriptorProto:
    """Compile the proto."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as temp:
        out = f"{temp}/out"
        code = protoc.main(["protoc", f"-I{PROTO.parent}", f"--descriptor_set_out={out}", PROTO.name])
        assert code == 0, f"protoc refuses {PROTO}"
        return descriptor_pb2.FileDescriptorSet.FromString(Path(out).read_bytes()).file[0]


@cache
def message_class(name: str) -> Any:
    """Return google.protobuf's class of a message."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"clearpod.agent.{name}"))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(descriptors())
    return pool
