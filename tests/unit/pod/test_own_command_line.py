# SPDX-License-Identifier: Apache-2.0
"""What a kernel out of an image is told of its pod, in each form."""

import json

import pytest

from stage1.errors import BadRequest
from stage1.pod.network import Interface, PodNetwork, Route
from stage1.pod.own_command_line import MOST_BYTES, MOST_OF_OTHERS, compose, without_services
from stage1.pod.own_kernel import FORMS, OwnKernel
from stage1.pod.own_values import Address, Asked, Carried, address

AT = Address("10.88.0.5", 16, "10.88.0.1", "10.96.0.10")


def line(kernel: OwnKernel, at: Address | None, *, asked: Asked = Asked(), hostname: str = "") -> str:  # noqa: B008
    return compose(kernel, at, asked=asked, hostname=hostname).text


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
        ("includeos", "--net=10.88.0.5/255.255.0.0 --gateway=10.88.0.1 app -x y", "app -x y"),
        ("freebsd", "app -x y", "app -x y"),
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
    both = kernel._replace(initrd="/i", block="/b")
    assert line(both, None).endswith(" root=/dev/vda rw init=/bin/app -- -x"), "the initrd mounts the disk"
    assert line(both._replace(arguments=""), None).endswith(" root=/dev/vda rw")
    assert 'vfs.fstab=[ "initrd0:/:extract:::" ]' in line(kernel._replace(initrd="/i", network="unikraft"), None)
    assert line(kernel._replace(block="/b", network="freebsd"), AT) == "vfs.root.mountfrom=ufs:/dev/vtbd0 /bin/app -x"
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
def test_a_program_in_unikrafts_files_is_named_to_its_loader(arguments: str, given: str) -> None:
    kernel = OwnKernel("/k", arguments, network="unikraft")
    assert line(kernel, AT) == given.format("netdev.ip=10.88.0.5/16:10.88.0.1:10.96.0.10")


@pytest.mark.parametrize("form", FORMS)
def test_the_pods_own_arguments_replace_the_images_and_are_quoted(form: str) -> None:
    text = line(OwnKernel("/k", "of-the-image", network=form), AT, asked=Asked(("app", "two words", "x")))
    assert "of-the-image" not in text
    assert "two words" in text


@pytest.mark.parametrize("arguments", [("x" * (MOST_BYTES + 1),), ("a\nb",), ("a\0b",)])
def test_arguments_that_no_command_line_can_have_are_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(BadRequest, match=r"command line"):
        line(OwnKernel("/k", network="none"), None, asked=Asked(arguments))


SERVICES = (
    "DB_SERVICE_HOST=10.0.0.9", "DB_SERVICE_PORT=5432", "DB_SERVICE_PORT_SQL=5432", "DB_PORT=tcp://10.0.0.9:5432",
    "DB_PORT_5432_TCP=tcp://10.0.0.9:5432", "DB_PORT_5432_TCP_ADDR=10.0.0.9", "DB_PORTAL=it",
    "MY_SERVICE_HOST=mine", "MY_PORT=80",
)  # fmt: skip


@pytest.mark.parametrize(
    ("form", "given"),
    [
        ("none", ""),
        ("absent", ""),
        ("linux", 'console=ttyS0 panic=-1 A=1 "B=two words" C='),
        ("linux-init", 'console=ttyS0 panic=-1 A=1 "B=two words" C='),
        ("solo5", ""),
        ("mewz", ""),
        ("freebsd", ""),
        ("includeos", 'A=1 "B=two words" C='),
        ("osv", "--env=A=1 --env=B=two\\ words --env=C="),
        ("unikraft", 'app env.vars=[ A=1 "B=two words" C= ] --'),
        ("unikraft-old", 'app env.vars=[ A=1 "B=two words" C= ] --'),
        ("hermit", 'env=A=1 "env=B=two words" env=C='),
        ("rumprun", '{"env": "A=1", "env": "B=two words", "env": "C=", "cmdline": ""}'),
    ],
)
def test_each_form_that_has_one_has_the_environment(form: str, given: str) -> None:
    asked = Asked(environment=("A=1", "B=two words", "C="))
    kernel = OwnKernel("/k", network=form)
    assert line(kernel, None, asked=asked) == given
    assert "words" not in line(kernel._replace(environment="none"), None, asked=asked)


def test_variables_are_in_front_of_the_program_that_gets_them() -> None:
    asked = Asked(("/bin/app", "-x"), ("A=1",))
    assert line(OwnKernel("/k", network="linux-init"), None, asked=asked).endswith(" A=1 init=/bin/app -- -x")
    assert line(OwnKernel("/k", network="hermit"), None, asked=asked) == "env=A=1 -- /bin/app -x"


def test_variables_that_a_kubelet_makes_of_services_are_not_passed() -> None:
    assert without_services(("A=1", *SERVICES)) == ("A=1", "DB_PORTAL=it", "MY_SERVICE_HOST=mine", "MY_PORT=80")
    assert without_services(()) == ()


@pytest.mark.parametrize(
    ("form", "environment", "problem"),
    [
        ("linux", tuple(f"V{number}=" for number in range(31)), "31 .*Linux .*30"),
        ("linux", ('A="',), "'A' .* mark"),
        ("rumprun", ('A="',), "'A' .* mark"),
        ("rumprun", ("A=\\",), "'A' .* backslash"),
        ("osv", ("A=1\n2",), "variable"),
        ("hermit", ("A=\udc80",), "variable"),
        ("linux", ("A=" + "x" * MOST_BYTES,), "variables"),
        ("unikraft", ("A=" + "x" * MOST_OF_OTHERS,), "variables"),
    ],
)
def test_an_environment_that_no_command_line_can_have_is_refused(
    form: str, environment: tuple[str, ...], problem: str
) -> None:
    kernel, asked = OwnKernel("/k", network=form), Asked(environment=environment)
    with pytest.raises(BadRequest, match=problem) as error:
        line(kernel, None, asked=asked)
    assert "\n" not in str(error.value)
    line(kernel._replace(environment="none"), None, asked=asked)


def test_what_linux_has_anyway_is_not_counted() -> None:
    environment = ("HOME=/x", "TERM=vt100", *(f"V{number}=" for number in range(30)))
    assert "HOME=/x TERM=vt100" in line(OwnKernel("/k", network="linux"), None, asked=Asked(environment=environment))


MANY = tuple(f"V{number}=v" for number in range(60))
INITRD = OwnKernel("/k", network="linux", initrd="/i")


@pytest.mark.parametrize(
    ("kernel", "arguments", "text", "carried"),
    [
        (INITRD, (), "", ("/init", ())),
        (INITRD, ("debug", "a b"), ' debug "a b"', ("/init", ())),
        (INITRD._replace(arguments="x rdinit=/sbin/i y -- z"), (), " x y -- z", ("/sbin/i", ())),
        (INITRD._replace(network="linux-init"), (), "", ("/init", ())),
        (INITRD._replace(network="linux-init"), ("/bin/app", "-x", 'say "it"'), "", ("/bin/app", ("-x", 'say "it"'))),
        (INITRD._replace(network="linux-init", arguments="/bin/app -x y"), (), " -- -x y", ("/bin/app", ())),
        (INITRD._replace(network="linux-init", block="/b"), ("/bin/app", "-x"),
         " root=/dev/vda rw init=/bin/app -- -x", ("/init", ())),
    ],
)  # fmt: skip
@pytest.mark.parametrize("environment", [MANY, ('A="',), ("A=1\n2",), ("A=\udc80",), ("a.b=1",), ("quiet=1",)])
def test_what_does_not_fit_linux_comes_by_its_initrd(
    kernel: OwnKernel, arguments: tuple[str, ...], text: str, carried: tuple[str, tuple[str, ...]],
    environment: tuple[str, ...],
) -> None:  # fmt: skip
    made = compose(kernel, None, asked=Asked(arguments, environment))
    assert made.text == f"console=ttyS0 panic=-1 rdinit=/.clearpod/init{text}"
    assert made.carried == Carried(*carried, environment)


def test_arguments_that_linux_does_not_take_come_so_too() -> None:
    kernel = INITRD._replace(network="linux-init")
    for arguments in (("/bin/app", 'a" b'), ("/bin/app", *(40 * "x"))):
        assert compose(kernel, None, asked=Asked(arguments)).carried == Carried("/bin/app", arguments[1:], ())
        with pytest.raises(BadRequest, match=r"argument"):
            compose(kernel._replace(initrd=""), None, asked=Asked(arguments))


def test_an_environment_that_fits_is_on_the_line() -> None:
    assert compose(INITRD, None, asked=Asked(environment=('A={"x": 1}', "B=1"))).carried is None
    assert compose(INITRD._replace(environment="none"), None, asked=Asked(environment=MANY)).carried is None
    assert Carried("/p", ("a",), ("E=1", "F=\udc80")).data == b"P/p\0Aa\0EE=1\0EF=\x80\0"


def test_the_first_ipv4_address_counts() -> None:
    device = Interface("eth0", "m", addresses=("fd00::5/64", "10.88.0.5/16", "10.99.0.1/8"))
    routes = (Route("10.0.0.0/8", "10.88.0.9", "eth0"), Route("0.0.0.0/0", "10.88.0.1", "eth0"))
    network = PodNetwork((device,), routes, dns_servers=("fd00::1", "10.96.0.10"))
    assert address(network) == AT
    assert address(network._replace(routes=(), dns_servers=())) == Address("10.88.0.5", 16)
    assert address(PodNetwork((device._replace(addresses=("fd00::5/64",)),))) is None
    assert address(PodNetwork()) is None
    assert address(None) is None
