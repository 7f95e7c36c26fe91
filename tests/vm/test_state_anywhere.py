# SPDX-License-Identifier: Apache-2.0
"""Pods whose files lie below directories in which distributions have programs, and what their VMMs see of these."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stage1.vm import programs
from tests.fakes import places
from tests.fakes.patience import PACE
from tests.vm.test_confinement import Machine, booted, machine, pid_of

__all__ = ["machine"]
pytestmark = [pytest.mark.vm, pytest.mark.timeout(180)]

LONGEST = 18
"""The run directory's path has at most 22 bytes."""

# A root of our own that has what the host's has, and the directories where some distributions have their programs. Our
# directory on the disk is mounted at the place that is tried. All of it ends with the command.
INSIDE = """
where=$1 disk=$2; shift 2
mount -t tmpfs root /mnt
for one in /*; do
    if [ -L "$one" ]; then cp -P "$one" /mnt/
    elif [ "$one" = /mnt ]; then mkdir /mnt/mnt
    elif [ -d "$one" ]; then mkdir "/mnt$one"; mount --rbind "$one" "/mnt$one"; fi
done
mkdir -p /mnt/opt /mnt/nix /mnt/gnu
[ -d "/mnt$where" ] || mkdir "/mnt$where"
mount --bind "$disk" "/mnt$where"
cd /mnt
pivot_root . .
umount -l .
cd /
exec "$@"
"""


@pytest.mark.parametrize("where", ["/opt", "/usr/local/src", "/usr/lib/x86_64-linux-gnu/qemu", "/nix", "/gnu"])
def test_a_pod_starts_with_its_state_there(hypervisor: str, guest_dir: Path, where: str) -> None:
    with places.short_directory() as root:
        run_dir = f"{where}/run" if len(where) <= LONGEST else f"{root}/run"
        Path(root, "config.toml").write_text(f'state_dir = "{where}/state"\nrun_dir = "{run_dir}"\n')
        Path(root, "disk").mkdir()
        command = [sys.executable, "-m", "cri", "run", "--config", f"{root}/config.toml", "--hypervisor", hypervisor]
        result = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-euc", INSIDE, "sh", where, f"{root}/disk",
             *command, f"oci:{guest_dir}/sample", "--", "sh", "-c", "echo it runs >/file; cat /file; exit 7"],
            capture_output=True, text=True, timeout=120 * PACE, env={**os.environ, "PYTHONPATH": os.getcwd()},
        )  # fmt: skip
        assert (result.returncode, result.stdout) == (7, "it runs\n"), result.stderr


def _files(root: str, *tops: str) -> set[str]:
    """All that is no directory below these in a jail, as paths of the host; links at the top are not followed."""
    found = set()
    for top in tops:
        if os.path.islink(f"{root}{top}"):
            continue
        for directory, _, names in os.walk(f"{root}{top}"):
            found |= {f"{directory}/{name}".removeprefix(root) for name in names}
    return found


async def test_a_vmm_sees_its_program_and_what_that_loads_and_nothing_else_of_the_system(
    machine: Machine,
) -> None:
    async with booted(machine) as pod:
        root = f"/proc/{pid_of(pod)}/root"
        binary = machine.host.choice.binary
        tops = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/opt", "/nix", "/gnu", "/etc")
        seen = _files(root, *tops)
        known = {binary, *(one.path for one in programs.needed(binary, machine.host.choice.hypervisor))}
        known |= set(programs.LOADER_FILES)
        real: Callable[[str], str] = os.path.realpath
        assert {real(path) for path in seen if not path.startswith(machine.host.guest_dir)} <= {
            real(path) for path in known
        }
        assert real(binary) in {real(path) for path in seen}
        mapped = Path(f"/proc/{pid_of(pod)}/maps").read_text().splitlines()
        loaded = {line.split()[-1] for line in mapped if ".so" in line}
        assert {os.path.basename(path) for path in loaded} <= {os.path.basename(path) for path in known}
