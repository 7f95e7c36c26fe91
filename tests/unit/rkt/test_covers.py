# SPDX-License-Identifier: Apache-2.0
"""Volumes at and below protected paths of the kernel's, and at /etc."""

from pathlib import Path

import pytest

from stage1.errors import BadRequest
from stage1.pod.model import Container, Device, Mount, Process, Security
from stage1.rkt import covers

TUN = "/dev/net/tun"
SECURITY = Security(masked_paths=("/proc/kcore", "/sys/firmware", "/sys/fs"), readonly_paths=("/proc/bus",))

LEFT = ("/proc/kcore", "/sys/firmware")
"""Of /sys/fs there is an empty directory, for the cgroups."""


def container(*mounts: Mount) -> Container:
    return Container("one", "one", "image", Process(("sh",)), mounts, security=SECURITY)


@pytest.mark.parametrize(
    "target, masked, readonly, empty",
    [
        ("/data", LEFT, SECURITY.readonly_paths, ["/sys/fs"]),
        ("/sys/fsx", LEFT, SECURITY.readonly_paths, ["/sys/fs"]),
        ("/sys/fs", ("/proc/kcore", "/sys/firmware"), SECURITY.readonly_paths, []),
        ("/sys/fs/x/y", ("/proc/kcore", "/sys/firmware"), SECURITY.readonly_paths, ["/sys/fs"]),
        ("/sys", ("/proc/kcore",), SECURITY.readonly_paths, []),
        ("/sys/fs/cgroup", LEFT, SECURITY.readonly_paths, ["/sys/fs"]),
        ("/proc/bus", LEFT, (), ["/sys/fs"]),
        ("/proc/bus/x", LEFT, SECURITY.readonly_paths, ["/sys/fs"]),
    ],
)
def test_a_volume_at_a_protected_path_is_seen_and_nothing_more_of_the_kernels(
    target: str, masked: tuple[str, ...], readonly: tuple[str, ...], empty: list[str]
) -> None:
    result = covers.uncovered(container(Mount("/v", target)))
    assert (result.security.masked_paths, result.security.readonly_paths) == (masked, readonly)
    assert [one.target for one in result.tmpfs] == empty and all("ro" in one.options for one in result.tmpfs)


ETC = Mount("/v", "/etc", inside="v.volume")
KEPT = ("hosts", "hostname", "resolv.conf")


@pytest.mark.parametrize(
    "mounts, asked, expected",
    [
        ((), (), ()),
        ((), ("resolv.conf",), ("resolv.conf",)),
        ((ETC,), (), KEPT),
        ((ETC._replace(inside=""),), (), ()),
        ((ETC._replace(inside=""),), ("hosts", "resolv.conf"), ("hosts", "resolv.conf")),
        ((Mount("/v", "/etc/sub", inside="v.volume"),), (), ()),
    ],
)
def test_requested_files_are_over_a_hosts_volume_and_all_over_the_pods_own(
    mounts: tuple[Mount, ...], asked: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert covers.shown_over(container(*mounts), KEPT, asked=asked, where="app 'one'") == expected


def test_a_file_needs_a_place_in_a_volume_that_is_read_only(tmp_path: Path) -> None:
    volume = Mount(str(tmp_path), "/etc", read_only=True)
    with pytest.raises(BadRequest, match=f"app 'one': .*{tmp_path}/resolv.conf.*--dns"):
        covers.shown_over(container(volume), KEPT, asked=("resolv.conf",), where="app 'one'")
    other = Mount("/v", "/etc/resolv.conf")
    assert covers.shown_over(container(volume, other), KEPT, asked=("resolv.conf",), where="app 'one'")
    (tmp_path / "resolv.conf").write_text("")
    assert covers.shown_over(container(volume), KEPT, asked=("resolv.conf",), where="app 'one'") == ("resolv.conf",)


@pytest.mark.parametrize(
    "target, paths",
    [("/data", [TUN]), ("/dev", [TUN]), ("/dev/ne", [TUN]), ("/dev/net", []), (TUN, [])],
)
def test_a_device_is_not_where_a_volume_is(target: str, paths: list[str]) -> None:
    given = container(Mount("/v", target))._replace(devices=(Device(TUN, TUN),))
    assert [one.path for one in covers.uncovered(given).devices] == paths
