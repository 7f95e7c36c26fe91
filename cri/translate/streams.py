# SPDX-License-Identifier: Apache-2.0
"""Which streams a client of Exec or Attach asks for. Called by these two RPCs. Pure."""

from cri.pb import runtime_pb2 as pb
from stage1.errors import BadRequest


def check(request: pb.ExecRequest | pb.AttachRequest) -> None:
    """Raise BadRequest for a request without a container or a stream, or whose streams exclude each other."""
    if not request.container_id:
        raise BadRequest("container_id is empty")
    if request.tty and request.stderr:
        raise BadRequest("with a terminal there is no stderr of its own: tty and stderr exclude each other")
    if not (request.stdin or request.stdout or request.stderr):
        raise BadRequest("one of stdin, stdout and stderr must be asked for")
