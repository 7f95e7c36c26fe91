# SPDX-License-Identifier: Apache-2.0
"""The guest's profile `systemd`: a system image with Debian's systemd, journald and our units, and an initramfs for it.

Nothing of Debian's units is taken, so there is nothing to mask: what is in `units` is all that runs. The agent in it is
linked for this profile (images/agent/systemd), and is the initramfs's /init too.
"""

from pathlib import Path

from lib import cache, system, tools

HERE = Path(__file__).parent
UNITS = HERE / "units"
NAME = "systemd"
DAEMON = "/usr/lib/systemd/systemd"
PROGRAMS = (
    DAEMON,
    "/usr/lib/systemd/systemd-executor",
    "/usr/lib/systemd/systemd-journald",
    "/usr/bin/systemctl",
    "/usr/bin/journalctl",
)
MASKED = ("halt", "kexec", "poweroff", "reboot", "emergency", "rescue")
"""What ends a pod, or asks for a shell: not from inside, where nobody knows what is still to be done."""
DIRECTORIES = ("etc/systemd", "var/log/journal", "usr/lib/clearpod", "usr/lib/systemd/system")
UUID = "c1ea7b0d-0000-4000-8000-000000000002"


def content(guest: system.Content, agent: Path) -> system.Content:
    """The image's, beside what the ordinary one has."""
    places = [name for name in guest.directories if name != "usr/sbin"]
    units = {f"usr/lib/systemd/system/{path.name}": path for path in sorted(UNITS.iterdir())}
    return system.Content(
        programs=(*guest.programs, *PROGRAMS),
        directories=(*places, *DIRECTORIES),
        files={
            **guest.files,
            "etc/group": "root:x:0:\nsystemd-journal:x:999:\n",
            "etc/machine-id": "",
            "etc/os-release": "ID=clearpod\nNAME=clearpod\nPRETTY_NAME=clearpod\n",
        },
        copies={
            **guest.copies,
            **units,
            "etc/systemd/system.conf": HERE / "system.conf",
            "etc/systemd/journald.conf": HERE / "journald.conf",
            "usr/lib/clearpod/agent": agent,
        },
        links={
            "usr/sbin": "bin",
            "var/run": "../run",
            **{f"usr/lib/systemd/system/{name}.target": "/dev/null" for name in MASKED},
        },
    )


def build(cache_dir: Path, guest: system.Content, agent: Path) -> Path:
    """The directory with system-systemd.erofs. Raises BuildFailed where Debian's systemd is not installed."""
    tools.need({"crun": "crun", **system.PROGRAMS}, dict.fromkeys(PROGRAMS, "systemd"))
    made = content(guest, agent)
    key = cache.hash_of([tools.package_version("systemd"), *system.inputs(made), Path(__file__)])
    name = f"system-{NAME}.erofs"
    return cache.built(cache_dir, f"guest-{NAME}", key, lambda out: system.make(made, out / name, uuid=UUID))
