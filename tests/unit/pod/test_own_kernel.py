# SPDX-License-Identifier: Apache-2.0
"""Labels that name a kernel: what they become, and what is refused with a sentence."""

import base64
import json

import pytest

from stage1.errors import BadRequest, PodError, Unsupported
from stage1.pod import own_kernel
from stage1.pod.own_kernel import OURS, URUNC, OwnKernel, read


def _urunc(**fields: str) -> dict[str, str]:
    return {f"{URUNC}{key}": text for key, text in fields.items()}


def _encoded(**fields: str) -> dict[str, str]:
    return {key: base64.b64encode(text.encode()).decode() for key, text in _urunc(**fields).items()}


@pytest.mark.parametrize(
    ("labels", "kernel"),
    [
        ({"maintainer": "x"}, None),
        (
            {f"{OURS}path": "/k", f"{OURS}network": "none"},
            OwnKernel("/k"),
        ),
        (
            {f"{OURS}path": "/k", f"{OURS}network": "linux", f"{OURS}machine": "q35", f"{OURS}initrd": "/i"},
            OwnKernel("/k", initrd="/i", network="linux", machine="q35"),
        ),
        (
            {f"{OURS}path": "/k", f"{OURS}network": "osv", f"{OURS}block-mount": "/d", f"{OURS}exit": "debug-exit"},
            OwnKernel("/k", block_mount="/d", network="osv", exit="debug-exit"),
        ),
        (
            _urunc(binary="/k.virtio", unikernelType="mirage", hypervisor="qemu", cmdline="-l *:debug"),
            OwnKernel("/k.virtio", "-l *:debug", network="solo5", machine="pc", exit="solo5"),
        ),
        (
            _urunc(binary="/k", unikernelType="unikraft", unikernelVersion="0.15.0", initrd="/i", cmdline="nginx"),
            OwnKernel("/k", "nginx", "/i", network="unikraft-old", machine="pc", exit="solo5"),
        ),
        (
            _urunc(binary="/k", unikernelType="unikraft"),
            OwnKernel("/k", network="unikraft", machine="pc", exit="solo5"),
        ),
        (
            _urunc(binary="/k.hvt", unikernelType="mirage", hypervisor="hvt", cmdline="x")
            | {f"{OURS}path": "/k.virtio", f"{OURS}network": "solo5", f"{OURS}machine": "pc"},
            OwnKernel("/k.virtio", network="solo5", machine="pc"),
        ),
        (
            _urunc(binary="/k", unikernelType="unikraft", cmdline="x") | {f"{OURS}machine": "q35"},
            OwnKernel("/k", "x", network="unikraft", machine="q35", exit="solo5"),
        ),
        (
            _urunc(binary="/k", unikernelType="unikraft", unikernelVersion="v0.16.1"),
            OwnKernel("/k", network="unikraft", machine="pc", exit="solo5"),
        ),
        (
            _urunc(binary="/k", unikernelType="unikraft", unikernelVersion="0.15.0-1a2b"),
            OwnKernel("/k", network="unikraft-old", machine="pc", exit="solo5"),
        ),
        (
            _urunc(binary="/k", unikernelType="unikraft", unikernelVersion="latest", hypervisor="firecracker"),
            OwnKernel("/k", network="unikraft", machine="microvm", virtio="modern"),
        ),
        (
            _urunc(binary="/k", unikernelType="rumprun", block="/b", blkMntPoint="/data", useDMBlock="false"),
            OwnKernel("/k", block="/b", block_mount="/data", network="rumprun", machine="pc"),
        ),
        (
            _urunc(binary="unikernel/k", unikernelType="hermit", initrd="./app"),
            OwnKernel("/unikernel/k", initrd="/app", network="hermit", machine="pc", exit="hermit", virtio="modern"),
        ),
        (
            _urunc(binary="/k", unikernelType="unikraft", mountRootfs="false", useDMBlock="true"),
            OwnKernel("/k", network="unikraft", machine="pc", exit="solo5"),
        ),
        (
            _urunc(binary="/k", unikernelType="linux", block="/b", mountRootfs="true"),
            OwnKernel("/k", block="/b", network="linux-init", machine="q35"),
        ),
        (
            {**_urunc(binary="/k", unikernelType="Linux"), f"{OURS}machine": "microvm-pci"},
            OwnKernel("/k", network="linux-init", machine="microvm-pci"),
        ),
        (
            _encoded(binary="/k", unikernelType="mewz", cmdline="a b", hypervisor="qemu", block=""),
            OwnKernel("/k", "a b", network="mewz", machine="pc", exit="debug-exit", virtio="modern"),
        ),
        (
            _encoded(binary="unikernel/kernel", unikernelType="Unikraft", unikernelVersion="0.15.0"),
            OwnKernel("/unikernel/kernel", network="unikraft-old", machine="pc", exit="solo5"),
        ),
        (
            _urunc(binary="/k", unikernelType="linux", hypervisor="cloud-hypervisor", cmdline="/init"),
            OwnKernel("/k", "/init", network="linux-init", machine="q35", virtio="modern"),
        ),
        (
            {key: f"b64:{text}" for key, text in _encoded(binary="/k", unikernelType="osv").items()},
            OwnKernel("/k", network="osv", machine="pc"),
        ),
        (
            {**_urunc(binary="/k", unikernelType="osv", hypervisor="qemu"), f"{URUNC}cmdline": "b64:L2hlbGxv"},
            OwnKernel("/k", "/hello", network="osv", machine="pc"),
        ),
        (
            _urunc(binary="/k", unikernelType="osv", cmdline="b64:no base64"),
            OwnKernel("/k", "b64:no base64", network="osv", machine="pc"),
        ),
        (
            _urunc(binary="/k", unikernelType="freebsd", hypervisor="firecracker", block="/b"),
            OwnKernel("/k", block="/b", network="freebsd", machine="microvm", virtio="modern"),
        ),
        (_urunc(binary="/k", unikernelType="includeos"), OwnKernel("/k", network="includeos", machine="pc")),
        (
            {f"{OURS}path": "/k", f"{OURS}network": "none", f"{OURS}exit": "reset", f"{OURS}virtio": "modern"},
            OwnKernel("/k", exit="reset", virtio="modern"),
        ),
    ],
)  # fmt: skip
def test_labels_describe_a_kernel(labels: dict[str, str], kernel: OwnKernel | None) -> None:
    assert read(labels, image="i") == kernel


@pytest.mark.parametrize(
    ("labels", "error", "noun"),
    [
        ({f"{OURS}network": "none"}, BadRequest, "path"),
        ({f"{OURS}path": "/k"}, BadRequest, "network"),
        ({f"{OURS}path": "/k", f"{OURS}network": "dhcp"}, BadRequest, "dhcp"),
        ({f"{OURS}path": "/k", f"{OURS}network": "none", f"{OURS}machine": "isapc"}, BadRequest, "isapc"),
        ({f"{OURS}path": "/k", f"{OURS}network": "none", f"{OURS}exit": "no"}, BadRequest, "exit"),
        ({f"{OURS}path": "/k", f"{OURS}network": "none", f"{OURS}virtio": "2"}, BadRequest, "virtio"),
        ({f"{OURS}path": "/k,if=x", f"{OURS}network": "none"}, BadRequest, "comma"),
        ({f"{OURS}path": "/k\n", f"{OURS}network": "none"}, BadRequest, "path"),
        ({f"{OURS}path": "/k", f"{OURS}network": "none", f"{OURS}initrd": "i,j"}, BadRequest, "initrd"),
        (_urunc(binary="/k", unikernelType="unikraf"), BadRequest, "unikraf'"),
        ({f"{OURS}kernel": "/k"}, BadRequest, "kernel"),
        ({f"{OURS}path": "/" + "k" * 5000, f"{OURS}network": "none"}, BadRequest, "label"),
        (_urunc(binary="/k", unikernelType="linux", mountRootfs="true"), Unsupported, "mountRootfs"),
        (_encoded(binary="/k", unikernelType="rumprun", useDMBlock="True"), Unsupported, "useDMBlock"),
        (_urunc(unikernelType="mirage"), BadRequest, "path"),
        (_urunc(binary="/k"), BadRequest, "type"),
        (_urunc(binary="/k", unikernelType="nanos"), BadRequest, "nanos"),
        (_urunc(binary="/k.hvt", unikernelType="mirage", hypervisor="hvt"), Unsupported, "hvt"),
        (_encoded(binary="/k.hvt", unikernelType="mirage", hypervisor="hvt"), Unsupported, "hvt"),
        (_urunc(binary="/k", unikernelType="unikraft", hypervisor="xen"), Unsupported, "monitor xen"),
        ({f"{OURS}path": "/k", f"{OURS}network": "none", f"{OURS}environment": "1"}, BadRequest, "passed, none"),
        (_urunc(binary="/k", unikernelType="unikraft", hypervisor="hyperlight-unikraft"), Unsupported, "hyperlight"),
    ],
)
def test_labels_that_can_not_be_are_refused(labels: dict[str, str], error: type[PodError], noun: str) -> None:
    with pytest.raises(error, match=noun):
        read(labels, image="i")


def test_each_form_and_each_kind_is_one_of_those_that_are_listed() -> None:
    kinds = own_kernel._KINDS.values()
    assert {one.network for one in kinds} <= set(own_kernel.FORMS)
    assert {one.machine for one in kinds} <= set(own_kernel.MACHINES)
    assert {one.exit for one in kinds} <= set(own_kernel.EXITS)
    assert {one.virtio for one in kinds} <= set(own_kernel.VIRTIOS)


@pytest.mark.parametrize(
    ("document", "labels"),
    [
        (
            _encoded(binary="/k", unikernelType="linux", cmdline=""),
            _urunc(binary="/k", unikernelType="linux", cmdline=""),
        ),
        (_urunc(binary="/k", unikernelType="linux"), _urunc(binary="/k", unikernelType="linux")),
        ({**_encoded(binary="/k"), f"{OURS}path": "/other", "x": 7, f"{URUNC}block": None}, _urunc(binary="/k")),
        (_encoded(binary="/k") | _urunc(cmdline="no base64"), _encoded(binary="/k") | _urunc(cmdline="no base64")),
        ([], {own_kernel.FAULT: "json"}),
        ("text", {own_kernel.FAULT: "json"}),
        ({}, {own_kernel.FAULT: "empty"}),
        ({f"{URUNC}binary": 7}, {own_kernel.FAULT: "empty"}),
        ({**_urunc(binary="/k"), "pad": "x" * 9000}, {own_kernel.FAULT: "size"}),
    ],
)
def test_uruncs_own_file_becomes_labels(document: object, labels: dict[str, str]) -> None:
    assert own_kernel.of_file(json.dumps(document).encode()) == labels


def test_of_several_places_the_later_one_counts_and_each_is_decoded_by_itself() -> None:
    image = _encoded(unikernelType="mirage", binary="/k", cmdline="abcd") | {f"{OURS}exit": "reset", "maintainer": "x"}
    pod = _urunc(hypervisor="qemu", cmdline="abcd") | {f"{OURS}machine": "q35"}
    assert own_kernel.merged(image, pod) == {
        **_urunc(unikernelType="mirage", binary="/k", cmdline="abcd", hypervisor="qemu"),
        f"{OURS}exit": "reset", f"{OURS}machine": "q35",
    }  # fmt: skip
    assert (own_kernel.is_named(image), own_kernel.is_named(pod), own_kernel.is_named({})) == (True, False, False)


@pytest.mark.parametrize("data", [b"", b"\xff", b"{", b"[" * 8000, b'{"a":'])
def test_invalid_json_has_no_values_but_a_fault(data: bytes) -> None:
    assert own_kernel.of_file(data) == {own_kernel.FAULT: "json"}


@pytest.mark.parametrize("word", [*own_kernel.FAULTS, "", "no such fault"])
def test_an_image_with_an_invalid_file_of_uruncs_is_refused_unless_its_labels_name_a_kernel(word: str) -> None:
    fault = {own_kernel.FAULT: word}
    for labels in (fault, fault | {f"{OURS}machine": "q35"}):
        with pytest.raises(BadRequest, match=own_kernel.FILE):
            read(labels, image="i")
    named = _urunc(binary="/k", unikernelType="linux")
    assert read(fault | named, image="i") == read(named, image="i") is not None
