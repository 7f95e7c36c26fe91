# SPDX-License-Identifier: Apache-2.0
"""The record of each call that has ended: one line in the log, at the level that its code deserves, with the pod and
the container that it was about; and its time and code for metrics. Used by the server's interceptor alone.

A line that is not written costs nothing: the pod is looked up only for one that is.
"""

import logging
import re
import time
from typing import Any, NamedTuple

from cri import recorder
from cri.log_dedup import LogDedup
from cri.node import Node
from stage1.errors import PodError

log = logging.getLogger("clearpod.rpc")

QUIET = re.compile("^(Version|Status|List.*|Stream.*|.*Status|.*Stats|ImageFsInfo|RuntimeConfig)$")
"""Polled each second by kubelet: logged at debug unless they fail."""
LEVELS = {
    "OK": logging.INFO,
    "CANCELLED": logging.INFO,
    "INVALID_ARGUMENT": logging.INFO,
    "NOT_FOUND": logging.INFO,
    "ALREADY_EXISTS": logging.INFO,
    "FAILED_PRECONDITION": logging.INFO,
    "UNIMPLEMENTED": logging.INFO,
    "UNAUTHENTICATED": logging.INFO,
    "RESOURCE_EXHAUSTED": logging.WARNING,
    "DEADLINE_EXCEEDED": logging.WARNING,
    "UNAVAILABLE": logging.WARNING,
}
"""The client's mistakes, then what may pass; all else is the node's own failure, and an error."""
REPEATED_S, MOST_REPEATED = 60.0, 256
"""The seconds for which a repeated failure is logged at debug, since the kubelet repeats some calls each second; and
how many different failures are remembered.
"""
REMOVALS = ("RemovePodSandbox", "RemoveContainer")
"""Calls whose object does not exist any more when they end."""
OTHER = "other"
"""The label of metrics for unknown methods that clients call."""


class Call(NamedTuple):
    """One call. `began_s` is monotonic; `subject` is known only where it is gone in the end."""

    name: str
    request: Any
    began_s: float
    subject: dict[str, str]


class CallLog:
    """The log and the counters of the server's calls."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._dedup = LogDedup(REPEATED_S, MOST_REPEATED)

    def began(self, name: str, request: Any) -> Call:
        """Return the record of a call that begins now."""
        return Call(name, request, time.monotonic(), self._subject(request) if name in REMOVALS else {})

    def ended(
        self, call: Call, code: str, *, sentence: str = "", fault: BaseException | None = None, response: Any = None
    ) -> None:
        """Log and count the end of a call with that code; `sentence` is the client's error, `fault` an internal one.
        Objects that the call made are named by the `response`.
        """
        took_s = time.monotonic() - call.began_s
        self._node.recorder.count(recorder.RPCS, call.name, code)
        self._node.recorder.observe(took_s, recorder.RPC_SECONDS, call.name)
        self._node.tracer.ended(code)
        level = self._level(call.name, code, sentence=sentence)
        if log.isEnabledFor(level):
            fields = {"rpc": call.name, "code": code, "ms": round(took_s * 1000, 1)}
            fields |= call.subject or self._subject(call.request) | _ids(response)
            fields |= {"error": sentence} if sentence else {}
            log.log(level, "rpc", extra=fields, exc_info=fault)

    def refused(self, name: str) -> None:
        """The client has called what we do not know."""
        self._node.recorder.count(recorder.RPCS, OTHER, "UNIMPLEMENTED")
        log.info("rpc", extra={"rpc": name, "code": "UNIMPLEMENTED"})

    def _level(self, name: str, code: str, *, sentence: str) -> int:
        if code == "OK":
            return logging.DEBUG if QUIET.match(name) else logging.INFO
        is_repeated = code != "CANCELLED" and self._dedup.seen(f"{name}: {sentence}", time.monotonic())
        return logging.DEBUG if is_repeated else LEVELS.get(code, logging.ERROR)

    def _subject(self, request: Any) -> dict[str, str]:
        """Ids and names of the pod and the container that the request is about, as far as they are known."""
        ids = _ids(request)
        fields = ids | _asked(request)
        try:
            if "container" in ids and (pair := self._node.pods.find_container(ids["container"])):
                return fields | pair[0].log_fields(pair[1])
            if "pod" in ids and (pod := self._node.pods.find(ids["pod"])):
                return fields | pod.log_fields()
        except PodError:
            pass  # the prefix is ambiguous, which is the client's error
        return fields


_IDS = {"pod": "pod_sandbox", "container": "container"}


def _ids(message: Any) -> dict[str, str]:
    """The ids that the request or response has."""
    ids = {key: str(getattr(message, f"{field}_id", "")) for key, field in _IDS.items()}
    return {key: value for key, value in ids.items() if value}


def _asked(request: Any) -> dict[str, str]:
    """The names of what shall be made, or the image."""
    if (image := getattr(request, "image", None)) is not None:
        return {"image": image.image}
    metadata = getattr(getattr(request, "config", None), "metadata", None)
    if metadata is None:
        return {}
    namespace = getattr(metadata, "namespace", None)
    return {"container_name": metadata.name} if namespace is None else {"title": f"pod {namespace}/{metadata.name}"}
