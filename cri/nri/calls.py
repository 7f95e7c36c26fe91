# SPDX-License-Identifier: Apache-2.0
"""The content of messages: a call or its answer, and the known calls. Pure. Used by `link` and `plugin`. A payload is
a protobuf message of `proto/cri/pb/nri.proto`; the method's name determines which.
"""

from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from cri.nri.frames import FrameFault
from cri.pb import nri_pb2 as nri
from cri.pb import ttrpc_pb2 as ttrpc
from cri.translate import bounds

PACKAGE = "nri.pkg.api.v1alpha1"
UNIMPLEMENTED, UNKNOWN = 12, 2
"""Codes of gRPC's."""
ALL_EVENTS = (1 << (nri.LAST - 1)) - 1

_MOST_LETTERS = 300

_PLUGIN = nri.DESCRIPTOR.services_by_name["Plugin"].methods_by_name
_RUNTIME = nri.DESCRIPTOR.services_by_name["Runtime"].methods_by_name


def shortened(text: str) -> str:
    """A plugin's sentence, as errors and the log show it."""
    return bounds.short(text, _MOST_LETTERS)


class Refused(Exception):
    """The plugin's answer is an error: `code` of gRPC, and its words."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def event_of(method: str) -> int:
    """The number of the event that the method brings; 0 for those that every plugin gets."""
    event_name = "".join(f"_{letter}" if letter.isupper() else letter.upper() for letter in method).lstrip("_")
    event = nri.DESCRIPTOR.enum_types_by_name["Event"].values_by_name.get(event_name)
    return event.number if event else 0


def is_plain(method: str) -> bool:
    """Whether its answer is empty. A plugin from before NRI 0.12 gets these as StateChange."""
    return event_of(method) > 0 and _PLUGIN[method].output_type.name == "Empty" and method != "UpdatePodSandbox"


def request(method: str, message: Any, *, timeout_s: float) -> bytes:
    """Return the message of a call to a plugin."""
    request = ttrpc.Request(
        service=f"{PACKAGE}.Plugin",
        method=method,
        payload=message.SerializeToString(),
        timeout_nano=int(timeout_s * 1e9),
    )
    return request.SerializeToString()


def answer(method: str, data: bytes) -> Any:
    """A plugin's answer to the call. Raises Refused, and FrameFault for what is none."""
    try:
        response = ttrpc.Response.FromString(data)
        if response.status.code:
            raise Refused(response.status.code, response.status.message)
        return getattr(nri, _PLUGIN[method].output_type.name).FromString(response.payload)
    except DecodeError:
        raise FrameFault(f"its answer to {method} can't be decoded") from None


class Asked(NamedTuple):
    """A call of a plugin's. `message` is None for a method that a runtime does not have."""

    method: str
    message: Any


def asked(data: bytes) -> Asked:
    """Return which method a plugin calls, with its request. Raises FrameFault."""
    try:
        request = ttrpc.Request.FromString(data)
        method = _RUNTIME.get(request.method)
        if method is None or request.service != f"{PACKAGE}.Runtime":
            return Asked(f"{request.service}/{request.method}"[:200], None)
        return Asked(request.method, getattr(nri, method.input_type.name).FromString(request.payload))
    except DecodeError:
        raise FrameFault("its call can't be decoded") from None


def reply(message: Any, *, code: int = 0, error: str = "") -> bytes:
    """Return the message of our answer to a plugin."""
    payload = b"" if code else message.SerializeToString()
    status = ttrpc.Status(code=code, message=error) if code else None
    return ttrpc.Response(status=status, payload=payload).SerializeToString()
