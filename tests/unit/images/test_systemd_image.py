# SPDX-License-Identifier: Apache-2.0
"""The image of the profile with systemd, really built: what is in it, what is not, and the same bytes twice."""

import os
import subprocess

import pytest

DAEMON = "/usr/lib/systemd/systemd"
pytestmark = pytest.mark.skipif(not os.path.exists(DAEMON), reason="needs Debian's systemd: apt install systemd")


@pytest.fixture(scope="module")
def made(builder, tmp_path_factory):
    """The builder and the image, with a stand-in for the agent."""
    place = tmp_path_factory.mktemp("cache")
    (place / "agent").write_bytes(b"\x7fELF agent")
    (place / "agent").chmod(0o755)
    return place, builder("systemd").build(place, builder("guest").CONTENT, place / "agent") / "system-systemd.erofs"


@pytest.fixture(scope="module")
def root(made, tmp_path_factory):
    place = tmp_path_factory.mktemp("extracted") / "root"
    subprocess.run(["fsck.erofs", f"--extract={place}", made[1]], check=True, capture_output=True)
    return place


def test_it_is_the_same_when_built_again(builder, made, tmp_path):
    second = builder("systemd").build(tmp_path, builder("guest").CONTENT, made[0] / "agent")
    assert (second / "system-systemd.erofs").read_bytes() == made[1].read_bytes()
    assert made[1].stat().st_size % (2 << 20) == 0


def test_it_holds_what_systemd_and_its_tools_load(builder, root):
    for program in (*builder("systemd").PROGRAMS, "/usr/bin/crun"):
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.split()
        assert all((root / word.lstrip("/")).exists() for word in [program, *listed] if word.startswith("/"))


def test_our_units_are_all_that_there_are(root):
    units = {path.name for path in (root / "usr/lib/systemd/system").iterdir() if not path.is_symlink()}
    assert units == {
        "app@.service", "clearpod-agent.service", "clearpod.slice", "default.target", "system.slice",
        "systemd-journald.service", "systemd-journald.socket",
    }  # fmt: skip


def test_what_would_end_the_pod_from_inside_is_masked(root):
    for name in ("halt", "poweroff", "reboot", "kexec", "rescue", "emergency"):
        assert os.readlink(root / f"usr/lib/systemd/system/{name}.target") == "/dev/null"


def test_nothing_is_generated_at_boot_and_there_is_no_shell(root):
    names = {path.name for path in root.rglob("*")}
    assert not names & {"system-generators", "sh", "bash", "dash", "busybox", "udevd", "dbus-daemon"}


def test_systemd_finds_nothing_wrong_with_the_units(root):
    units = [path for path in (root / "usr/lib/systemd/system").iterdir() if not path.is_symlink()]
    names = [f"/{path.relative_to(root)}" for path in units]
    argv = ["systemd-analyze", f"--root={root}", "verify", "--man=no", *names]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
