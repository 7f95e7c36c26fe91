# SPDX-License-Identifier: Apache-2.0
"""What a kernel out of an image is told of its pod, in each form."""

import json

import pytest

from stage1.errors import BadRequest
from stage1.pod.network import Interface, PodNetwork, Route
from stage1.pod.own_command_line import MOST_BYTES, Address, address, line
from stage1.pod.own_kernel import FORMS, OwnKernel

AT = Address("10.88.0.5", 16, "10.88.0.1", "10.96.0.10")
NET = "--ip=eth0,10.88.0.5,255.255.0.0 --defaultgw=10.88.0.1 --nameserver=10.96.0.10"


@pytest.mark.parametrize(
    ("form", "with_network", "without"),
    [
        ("none", "app -x y", "app -x y"),
        ("absent", "app -x y", "app -x y"),
        (
            "linux",
            "console=ttyS0 panic=-1 ip=10.88.0.5::10.88.0.1:255.255.0.0:web:eth0:off app -x y",
            "console=ttyS0 panic=-1 app -x y",
        ),
        (
            "linux-init",
            "console=ttyS0 panic=-1 ip=10.88.0.5::10.88.0.1:255.255.0.0:web:eth0:off init=app -- -x y",
            "console=ttyS0 panic=-1 init=app -- -x y",
        ),
        ("solo5", "--ipv4=10.88.0.5/16 --ipv4-gateway=10.88.0.1 app -x y", "app -x y"),
        ("osv", f"{NET} app -x y", "app -x y"),
        ("unikraft", "app netdev.ip=10.88.0.5/16:10.88.0.1:10.96.0.10 -- -x y", "app -- -x y"),
        (
            "unikraft-old",
            "app netdev.ipv4_addr=10.88.0.5 netdev.ipv4_subnet_mask=255.255.0.0 netdev.ipv4_gw_addr=10.88.0.1 -- -x y",
            "app -- -x y",
        ),
        ("hermit", "-ip 10.88.0.5 -mask 255.255.0.0 -gateway 10.88.0.1 -- app -x y", "-- app -x y"),
        ("mewz", "ip=10.88.0.5/16 gateway=10.88.0.1 app -x y", "app -x y"),
    ],
)
def test_each_form_has_the_address_and_the_arguments(form: str, with_network: str, without: str) -> None:
    kernel = OwnKernel("/k", "app -x y", network=form)
    assert line(kernel, AT, hostname="web") == with_network
    assert line(kernel, None, hostname="web") == without


def test_rumprun_reads_json() -> None:
    kernel = OwnKernel("/k", "app -x", block="/b", block_mount="/etc", network="rumprun")
    document = json.loads(line(kernel, AT))
    assert document == {
        "cmdline": "app -x",
        "net": {"if": "vioif0", "type": "inet", "method": "static", "addr": "10.88.0.5", "mask": "16",
                "gw": "10.88.0.1"},
        "blk": {"source": "dev", "path": "/dev/ld0a", "fstype": "blk", "mountpoint": "/etc"},
    }  # fmt: skip
    assert json.loads(line(kernel._replace(block=""), None)) == {"cmdline": "app -x"}


def test_what_lies_in_an_initrd_or_on_a_disk_is_named() -> None:
    kernel = OwnKernel("/k", "/bin/app -x", network="linux-init")
    assert line(kernel._replace(initrd="/i"), None).endswith(" rdinit=/bin/app -- -x")
    assert line(kernel._replace(block="/b"), None).endswith(" root=/dev/vda rw init=/bin/app -- -x")
    assert 'vfs.fstab=[ "initrd0:/:extract:::" ]' in line(kernel._replace(initrd="/i", network="unikraft"), None)
    assert "vfs.rootfs=initrd" in line(kernel._replace(initrd="/i", network="unikraft-old"), None)


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ("", "app {} --"),
        ("nginx -c /c", "nginx {} -- -c /c"),
        ("/usr/bin/nginx -c /c", "app {} -- /usr/bin/nginx -c /c"),
        ('"/a b" x', 'app {} -- "/a b" x'),
    ],
)
def test_a_program_in_unikrafts_files_is_what_its_loader_is_told(arguments: str, given: str) -> None:
    kernel = OwnKernel("/k", arguments, network="unikraft")
    assert line(kernel, AT) == given.format("netdev.ip=10.88.0.5/16:10.88.0.1:10.96.0.10")


@pytest.mark.parametrize("form", FORMS)
def test_the_pods_own_arguments_replace_the_images_and_are_quoted(form: str) -> None:
    text = line(OwnKernel("/k", "of-the-image", network=form), AT, arguments=("app", "two words", "x"))
    assert "of-the-image" not in text
    assert "two words" in text


@pytest.mark.parametrize("arguments", [("x" * (MOST_BYTES + 1),), ("a\nb",), ("a\0b",)])
def test_arguments_that_no_command_line_can_have_are_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(BadRequest, match=r"command line"):
        line(OwnKernel("/k", network="none"), None, arguments=arguments)


def test_the_first_ipv4_address_counts() -> None:
    device = Interface("eth0", "m", addresses=("fd00::5/64", "10.88.0.5/16", "10.99.0.1/8"))
    routes = (Route("10.0.0.0/8", "10.88.0.9", "eth0"), Route("0.0.0.0/0", "10.88.0.1", "eth0"))
    network = PodNetwork((device,), routes, dns_servers=("fd00::1", "10.96.0.10"))
    assert address(network) == AT
    assert address(network._replace(routes=(), dns_servers=())) == Address("10.88.0.5", 16)
    assert address(PodNetwork((device._replace(addresses=("fd00::5/64",)),))) is None
    assert address(PodNetwork()) is None
    assert address(None) is None
