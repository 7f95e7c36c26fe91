# SPDX-License-Identifier: Apache-2.0
"""The real rkt with the real stage1 image: volumes at odd places of the host and of an app."""

import os
from pathlib import Path

import pytest

from tests.rkt.real import RealRkt, removed, sh

pytestmark = [
    pytest.mark.rkt,
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so it needs root"),
]


def host(name: str, source: object, *targets: str, more: str = "") -> list[str]:
    """The flags for a volume of the host, before images: for all apps."""
    mounts = [f"--mount=volume={name},target={target}" for target in targets]
    return [f"--volume={name},kind=host,source={source}{more}", *mounts]


def test_the_hosts_root_is_a_volume_without_what_is_mounted_below(rkt: RealRkt, app: Path) -> None:
    refused = rkt.run(*host("root", "/", "/host"), app, "--exec=/bin/true")
    done = refused.finish()
    assert done.code == 254 and "recursive=false" in done.err, done.err
    removed(rkt, refused)
    pod = rkt.run(*host("root", "/", "/host", more=",readOnly=true,recursive=false"), app, *sh("ls /host/usr/bin/env"))
    done = pod.finish()
    assert (done.code, done.out) == (0, "/host/usr/bin/env\n"), done.err
    removed(rkt, pod)


def test_what_can_not_be_a_volume_at_all_has_no_such_advice(rkt: RealRkt, app: Path) -> None:
    refused = rkt.run(*host("proc", "/proc", "/host", more=",recursive=false"), app, "--exec=/bin/true")
    done = refused.finish()
    assert done.code == 254 and "/proc" in done.err and "recursive=false" not in done.err, done.err
    removed(rkt, refused)


def test_volumes_at_and_below_protected_paths_are_seen(rkt: RealRkt, app: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here\n")
    places = ("/sys/fs/a/b", "/sys/fs/cgroup", "/sys/firmware", "/proc/bus", "/dev/net")
    line = f"cd /; for p in {' '.join(places)}; do cat $p/file; touch $p/made && rm $p/made; done"
    line += "; ls /sys/fs /sys/fs/a; touch /sys/fs/new || echo kept; ls /sys/module | wc -l"
    pod = rkt.run(*host("v", tmp_path, *places), app, *sh(line))
    done = pod.finish()
    assert done.code == 0, done.err
    assert done.out.split() == ["here"] * 5 + ["/sys/fs:", "a", "cgroup", "/sys/fs/a:", "b", "kept", "0"], done.err
    removed(rkt, pod)


def test_requested_names_are_mounted_over_a_volume_at_etc(rkt: RealRkt, app: Path, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("own\n")
    options = ["--dns=192.0.2.53", "--hosts-entry=192.0.2.7=seven"]
    line = "cat /etc/own; grep -v '^#' /etc/resolv.conf; grep -c seven /etc/hosts; ls /etc"
    pod = rkt.run(*options, *host("etc", tmp_path, "/etc"), app, *sh(line))
    done = pod.finish()
    assert done.out.split() == ["own", "nameserver", "192.0.2.53", "1", "hosts", "own", "resolv.conf"], done.err
    removed(rkt, pod)
    assert (tmp_path / "resolv.conf").read_text() == "", "a place for it, as other runtimes make one"
    plain = rkt.run(*host("etc", tmp_path, "/etc", more=",readOnly=true"), app, *sh("cat /etc/resolv.conf; ls /etc"))
    done = plain.finish()
    assert (done.code, done.out.split()) == (0, ["hosts", "own", "resolv.conf"]), done.err
    removed(rkt, plain)
    pod = rkt.run(*options, *host("etc", tmp_path, "/etc", more=",readOnly=true"), app, *sh("cat /etc/resolv.conf"))
    assert pod.finish().out.endswith("nameserver 192.0.2.53\n")
    removed(rkt, pod)
    (tmp_path / "resolv.conf").unlink()
    refused = rkt.run(*options, *host("etc", tmp_path, "/etc", more=",readOnly=true"), app, "--exec=/bin/true")
    done = refused.finish()
    assert done.code == 254 and f"{tmp_path}/resolv.conf" in done.err, done.err
    removed(rkt, refused)


@pytest.mark.parametrize("more", ["", ",readOnly=true"])
def test_an_empty_volume_at_etc_hides_no_file_of_the_pods_own(rkt: RealRkt, app: Path, more: str) -> None:
    volume = [f"--volume=etc,kind=empty{more}", "--mount=volume=etc,target=/etc"]
    pod = rkt.run(
        "--dns=192.0.2.53",
        "--hostname=me",
        *volume,
        app,
        *sh("grep -v '^#' /etc/resolv.conf; cat /etc/hostname; ls /etc"),
    )
    done = pod.finish()
    assert done.out.split() == ["nameserver", "192.0.2.53", "me", "hostname", "hosts", "resolv.conf"], done.err
    removed(rkt, pod)
