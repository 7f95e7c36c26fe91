# SPDX-License-Identifier: Apache-2.0
"""Holds proto/cri/pb/runtime.proto to a description of the CRI that we did not write.

The peer is the PyPI package container-runtime-interface-api, generated from the interface of 2025-07. All it
has must be in ours, the same; what is in ours beyond it must be in the golden file. The peer is never
imported: two descriptors of one package cannot share a process, so its descriptor is read as bytes.
"""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto

from cri.pb import runtime_pb2

GOLDEN = Path(__file__).with_name("cri_newer_than_peer.txt")

# Where we differ from the peer on purpose: name -> (the peer's word, ours). Same bytes on the wire.
DIFFERENT = {
    "KeyValue.value": ("2 string", "2 bytes"),  # since 0.37: environment variables need not be UTF-8
}
# The values of Signal got a prefix in 0.37; their numbers stayed.
SIGNAL_PREFIX = "SIGNAL_"

Facts = dict[str, str]


def _enum(prefix: str, enum: EnumDescriptorProto) -> Iterator[tuple[str, str]]:
    for value in enum.value:
        yield f"{prefix}{enum.name}.{value.name}", str(value.number)


def _message(prefix: str, message: DescriptorProto) -> Iterator[tuple[str, str]]:
    name = f"{prefix}{message.name}"
    yield name, "map entry" if message.options.map_entry else "message"
    for field in message.field:
        scalar = field.Type.Name(field.type).removeprefix("TYPE_").lower()
        kind = field.type_name.removeprefix(".runtime.v1.") or scalar
        label = "repeated " if field.label == field.LABEL_REPEATED else ""
        optional = "optional " if field.proto3_optional else ""
        oneof = f" in oneof {field.oneof_index}" if field.HasField("oneof_index") else ""
        old = " deprecated" if field.options.deprecated else ""
        yield f"{name}.{field.name}", f"{field.number} {optional}{label}{kind}{oneof}{old}"
    for nested in message.nested_type:
        yield from _message(f"{name}.", nested)
    for enum in message.enum_type:
        yield from _enum(f"{name}.", enum)


def facts(file: FileDescriptorProto) -> Facts:
    """Return {full name: number, type, label, streaming flags} for everything the file declares."""
    result: Facts = {}
    for message in file.message_type:
        result.update(_message("", message))
    for enum in file.enum_type:
        result.update(_enum("", enum))
    for service in file.service:
        for rpc in service.method:
            takes = "stream " * rpc.client_streaming + rpc.input_type.removeprefix(".runtime.v1.")
            gives = "stream " * rpc.server_streaming + rpc.output_type.removeprefix(".runtime.v1.")
            result[f"{service.name}/{rpc.name}"] = f"({takes}) -> ({gives})"
    return result


def _peer_file() -> FileDescriptorProto:
    spec = importlib.util.find_spec("cri_api")
    if spec is None or not spec.submodule_search_locations:
        pytest.fail("the peer is missing: pip install --no-deps -r tests/contract/peers.txt")
    source = Path(spec.submodule_search_locations[0], "v1", "api_pb2.py").read_text(encoding="utf-8")
    constants = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    return FileDescriptorProto.FromString(max((c for c in constants if isinstance(c, bytes)), key=len))


@pytest.fixture(scope="module")
def peer() -> Facts:
    return facts(_peer_file())


@pytest.fixture(scope="module")
def ours() -> Facts:
    file = FileDescriptorProto()
    runtime_pb2.DESCRIPTOR.CopyToProto(file)
    return facts(file)


def _our_name(name: str) -> str:
    is_signal = name.startswith("Signal.") and not name.startswith(f"Signal.{SIGNAL_PREFIX}")
    return name.replace(".", f".{SIGNAL_PREFIX}") if is_signal else name


def test_the_peer_is_the_interface_and_not_something_else(peer: Facts) -> None:
    assert _peer_file().package == "runtime.v1"
    assert len(peer) > 500
    assert peer["RuntimeService/RunPodSandbox"] == "(RunPodSandboxRequest) -> (RunPodSandboxResponse)"


def test_everything_the_peer_has_is_in_ours_the_same(peer: Facts, ours: Facts) -> None:
    wrong = [
        f"{name}: peer says {output!r}, ours {ours.get(_our_name(name))!r}"
        for name, output in peer.items()
        if ours.get(_our_name(name)) != output and name not in DIFFERENT
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", DIFFERENT)
def test_each_documented_difference_is_still_one(name: str, peer: Facts, ours: Facts) -> None:
    assert (peer[name], ours[name]) == DIFFERENT[name]


def test_what_is_newer_than_the_peer_is_exactly_the_golden_list(peer: Facts, ours: Facts) -> None:
    known = {_our_name(name) for name in peer}
    newer = [f"{name} = {output}" for name, output in sorted(ours.items()) if name not in known]
    assert newer == GOLDEN.read_text(encoding="utf-8").splitlines()


def test_all_43_rpcs_are_there(ours: Facts) -> None:
    rpcs = [name for name in ours if "/" in name]
    assert len(rpcs) == 43
    assert sum(name.startswith("ImageService/") for name in rpcs) == 6


def test_the_package_and_syntax_are_those_of_the_interface() -> None:
    file = FileDescriptorProto()
    runtime_pb2.DESCRIPTOR.CopyToProto(file)
    assert (file.package, file.syntax, list(file.dependency)) == ("runtime.v1", "proto3", [])


@pytest.mark.parametrize("field", ["password", "auth", "identity_token", "registry_token"])
def test_secrets_are_marked_so_that_printing_a_request_hides_them(field: str) -> None:
    assert runtime_pb2.AuthConfig.DESCRIPTOR.fields_by_name[field].GetOptions().debug_redact
