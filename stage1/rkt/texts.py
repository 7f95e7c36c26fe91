# SPDX-License-Identifier: Apache-2.0
"""The text of hosts, hostname and resolv.conf for apps, by --dns-conf-mode. Called by plan, after the network.

Reads rkt's two files in the stage1 image and the host's own; writes nothing. What is not in the result is left as the
image has it.
"""

import os

from stage1.linux import files
from stage1.pod import files as pod_files
from stage1.pod.model import Pod
from stage1.pod.network import PodNetwork
from stage1.rkt import directory
from stage1.rkt.arguments import RunOptions

HOSTS, HOSTNAME, RESOLV = "hosts", "hostname", "resolv.conf"
ASKED = ("host", "stage0")
"""Modes of --dns-conf-mode that were given."""
_FALLBACK = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def resolv_conf(pod_dir: str, options: RunOptions, *, network: PodNetwork | None) -> str | None:
    """None: the image's own file stays."""
    if options.resolv_mode == "host":
        return _read("/etc/resolv.conf") or ""
    if options.resolv_mode == "stage0":
        return _read(f"{directory.stage1_root(pod_dir)}/etc/rkt-resolv.conf")
    if options.resolv_mode == "default" and network and network.dns_servers:
        return pod_files.resolv_conf(Pod(id="", name=""), "", network=network)
    return None


def hosts(pod_dir: str, options: RunOptions, *, hostname: str) -> tuple[str, bool]:
    """The text, and whether it also replaces a file that the image has."""
    if options.hosts_mode == "host":
        return _read("/etc/hosts") or _FALLBACK, True
    given = _read(f"{directory.stage1_root(pod_dir)}/etc/rkt-hosts") if options.hosts_mode == "stage0" else None
    return _with_name(given if given is not None else _FALLBACK, hostname), given is not None


def _with_name(text: str, hostname: str) -> str:
    """The name on the first line of 127.0.0.1, which is made if there is none."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        fields = line.partition("#")[0].split()
        if fields and fields[0] == "127.0.0.1":
            if hostname not in fields:
                lines[number] = f"{line.partition('#')[0].rstrip()} {hostname}"
            break
    else:
        lines.insert(0, f"127.0.0.1\tlocalhost {hostname}")
    return "\n".join(lines) + "\n"


def _read(path: str) -> str | None:
    return files.read(path).decode("utf-8", "replace") if os.path.exists(path) else None
