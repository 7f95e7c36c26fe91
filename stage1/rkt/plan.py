# SPDX-License-Identifier: Apache-2.0
"""From a pod directory that rkt has prepared to values that the engine knows. Called by stage1/entry.

Reads the manifests and looks into the apps' roots; changes nothing and asks no network. What has to be made on the
host (`empty_volumes`) and what depends on the network (`with_network`) is said here and done elsewhere.
"""

from typing import NamedTuple

from stage1.pod.model import Container, Pod
from stage1.rkt.arguments import RunOptions as RunOptions

NULL, LOG, STREAM, TTY, INTERACTIVE = "null", "log", "stream", "tty", "interactive"
"""Where an app's stdin, stdout or stderr goes."""


class EmptyVolume(NamedTuple):
    """A directory for apps of one pod: `path` on the host, made by `volumes.make`.

    With `root` and `inside` a new one gets what the image has at `inside`, with owner and mode.
    """

    path: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    root: str = ""
    inside: str = ""


class App(NamedTuple):
    """One app. `root` is its root on the host, writable, an overlay of rkt's or a plain directory.

    `pre_start` and `post_stop` are containers of their own in the same root: as root, with every capability, no filter;
    None when there is no such handler. `log_path` is the file on the host for the k8s-plain log, or empty.
    """

    name: str
    container: Container
    root: str
    pre_start: Container | None = None
    post_stop: Container | None = None
    stdin: str = NULL
    stdout: str = LOG
    stderr: str = LOG
    read_only_root: bool = False
    log_path: str = ""


class RktPod(NamedTuple):
    """A whole pod. `files` are the texts of hosts, hostname and resolv.conf that `with_network` has settled.

    `warnings` are sentences for stderr.
    """

    pod: Pod
    apps: tuple[App, ...]
    mutable: bool = False
    empty_volumes: tuple[EmptyVolume, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()


def read_pod(pod_dir: str, options: RunOptions, *, only: str = "", terminal: str | None = None) -> RktPod:
    """The pod in `pod_dir` as values; with `only` just the app of that name, as for app add.

    Args:
        terminal: TERM of the caller's terminal when `--interactive` is on one, else None.

    Raises:
        BadRequest: the manifest makes no sense, or an executable, user, volume is not there: one sentence.
        NotFound: a file that rkt should have written, or a host volume, is missing.
        Unsupported: private users, the host's IPC, a socket-activated port.
    """
    raise NotImplementedError
