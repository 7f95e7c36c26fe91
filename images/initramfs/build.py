# SPDX-License-Identifier: Apache-2.0
"""The initramfs: the agent as /init and a console for it. Not compressed: unpacking costs more than reading."""

import os
from pathlib import Path

from lib import cache, tools
from lib.cpio import S_CHAR, S_DIR, S_FILE, Entry, archive

LIB = Path(__file__).parent.parent / "lib"
AGENT_SOURCE = Path(__file__).parent.parent / "agent"
PROTO = Path(__file__).parent.parent.parent / "proto" / "agent"


def build_agent(cache_dir: Path) -> Path:
    """The directory with `agent`: PID 1, static, stripped; and `agent-systemd`, the same for that profile."""
    tools.need({"make": "make", "musl-gcc": "musl-tools", "nanopb_generator": "nanopb"})
    versions = [tools.package_version(name) for name in ("musl-tools", "nanopb", "libnanopb-dev")]
    key = cache.hash_of([*versions, tools.run(["musl-gcc", "--version"]), AGENT_SOURCE, PROTO])

    def build(out: Path) -> None:
        tools.make(AGENT_SOURCE, out / "work")
        for name in ("agent", "agent-systemd"):
            os.rename(out / "work" / name, out / name)

    return cache.built(cache_dir, "agent", key, build)


def build(cache_dir: Path, program: str = "agent") -> Path:
    """The directory with `initramfs`, around that one of the agent's programs."""
    agent = build_agent(cache_dir) / program
    key = cache.hash_of([agent, Path(__file__), LIB / "cpio.py"])
    return cache.built(cache_dir, "initramfs", key, lambda out: pack(agent, out / "initramfs"))


def pack(agent: Path, out: Path) -> None:
    """Write the archive to `out`. The console is there before devtmpfs is, so that an early failure can be seen."""
    entries = [
        Entry("dev", S_DIR | 0o755),
        Entry("dev/console", S_CHAR | 0o600, device=(5, 1)),
        Entry("root", S_DIR | 0o755),
        Entry("init", S_FILE | 0o755, agent.read_bytes()),
    ]
    out.write_bytes(archive(entries))
