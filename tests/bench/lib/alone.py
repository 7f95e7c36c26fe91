# SPDX-License-Identifier: Apache-2.0
"""An rkt pod until its first output, as a copy of a template, which is the default, and as one that boots, and QEMU
alone: the same machine, kernel and command line, and a PID 1 that writes one line (pid1.c). Called by entry.py.

The three run in turns, so that they find the same load; a ratio is the median of the rounds' ratios.
"""

import operator
import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from stage1.linux.host import which
from stage1.machine import clock_arguments
from stage1.rkt import machine
from stage1.rkt.sizing import APP_MIB, GUEST_MIB
from stage1.vm import qemu
from stage1.vm.spec import SerialLink, VmSpec
from tests.bench import boot
from tests.rkt.images import AppSpec
from tests.rkt.stage0 import Stage0

WORD, MARK = b"up\n", b"clearpod.mark pid1"


def compare(rkt: Stage0, app: AppSpec, place: Path, *, rounds: int) -> dict[str, Any]:
    """Milliseconds from the execution of each to its first output, after a round that fills the
    host's caches and makes the template.

    `app` has to write WORD and to end. `place` is an empty directory.
    """
    argv, templates = alone(place), rkt.data / machine.TEMPLATES
    kept = templates.with_name("kept")
    rows = []
    for _ in range(rounds + 1):
        copied = _pod_ms(rkt, app)
        templates.rename(kept)
        templates.symlink_to("/dev/null")
        rows.append((copied, _pod_ms(rkt, app), _alone_ms(argv)))
        templates.unlink()
        kept.rename(templates)
    copied, booted, other = zip(*rows[1:], strict=True)  # the first one has made the template
    return {
        "first_output_ms": round(statistics.median(copied)),
        "first_output_booted_ms": round(statistics.median(booted)),
        "qemu_alone_ms": round(statistics.median(other)),
        "first_output_ratio": round(statistics.median(map(operator.truediv, copied, other)), 2),
        "first_output_booted_ratio": round(statistics.median(map(operator.truediv, booted, other)), 2),
    }


def alone(place: Path) -> list[str]:
    """The command line of a VM that is as large as a pod of one app, on this host; `place` is for its files."""
    guest = boot.guest_dir()
    vm = VmSpec(
        name="alone",
        hypervisor="qemu",
        binary=which("qemu-system-x86_64"),
        run_dir=str(place),
        kernel=str(guest / "vmlinux"),
        initramfs=str(boot.with_pid1(str(place))),
        system_image=str(guest / "system.erofs"),
        memory_mib=GUEST_MIB + APP_MIB,
        vcpus=os.cpu_count() or 1,
        link=SerialLink(f"{place}/agent.sock"),
        kernel_arguments=(*clock_arguments("tcg"), "rdinit=/pid1"),
    )
    return qemu.argv(vm)


def _pod_ms(rkt: Stage0, app: AppSpec) -> float:
    pod = rkt.prepare([app])
    piped = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = pod.run(net="none", **piped)
    assert process.stdout
    word = process.stdout.readline()
    took_ms = (time.time() - pod.begun_s) * 1000  # without rkt's own mounts
    text = process.communicate()[1].decode()
    if word != WORD or process.returncode or pod.gc().code:
        raise RuntimeError(f"the pod did not run: {text}")
    return took_ms


def _alone_ms(argv: list[str]) -> float:
    begun = time.monotonic()
    piped = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(argv, start_new_session=True, **piped)  # as the VMM of a pod
    assert process.stdout
    result = any(MARK in line for line in process.stdout)
    took_ms = (time.monotonic() - begun) * 1000
    process.kill()
    process.communicate()
    if not result:
        raise RuntimeError("QEMU alone did not boot")
    return took_ms
