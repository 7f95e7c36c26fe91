# SPDX-License-Identifier: Apache-2.0
"""Paths in the directory that rkt makes for a pod, and the files there by which rkt is notified.

Called by stage1/entry with the pod's directory, which rkt names and moves: `pods/run/<uuid>` and later
`pods/exited-garbage/<uuid>`. Files are replaced atomically, since rkt gives up on a pod that has half of one.
"""

import os
import time

from stage1.errors import AlreadyExists, BadRequest, KernelError, NotFound
from stage1.linux import beneath, files, flock
from stage1.linux.libc import Guard

PID, READY = "pid", "rkt/supervisor-status"
_READY_TEXT = "ready"
_STATUS, _JOURNAL = "rkt/status", "var/log/journal"
RUN = "run"
TOLD = "app-status"
_HAND_S, _POLL_S = 2.0, 0.005
STATES = ("embryo", "prepare", "prepared", RUN, "exited-garbage", "garbage")
"""Directories below pods/, in the order in which a pod moves through them."""


def uuid(pod_dir: str) -> str:
    """The pod's uuid: the directory's name."""
    return os.path.basename(os.path.realpath(pod_dir))


def stage1_root(pod_dir: str) -> str:
    """The root of the stage1 image. What rkt is to see must be written here, while it is mounted."""
    return f"{pod_dir}/stage1/rootfs"


def data(pod_dir: str) -> str:
    """rkt's data directory: a pod lies at pods/STATE/UUID below it."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(pod_dir))))


def exists(data_dir: str, pod_id: str) -> bool:
    """Whether rkt knows the pod in that data directory, in any state; also while it moves."""
    return any(os.path.isdir(f"{data_dir}/pods/{state}/{pod_id}") for state in STATES)


def is_running(data_dir: str, pod_id: str) -> bool:
    """Whether the pod runs, or is about to: whether its process holds the lock on its directory, by rkt's own
    criterion.
    """
    path = f"{data_dir}/pods/{RUN}/{pod_id}"
    try:
        with Guard("open", path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not flock.take(fd, shared=True, wait=False)
    finally:
        os.close(fd)


def roots(pod_dir: str) -> tuple[str, ...]:
    """The prefix of paths of files of the pod's stage1 image, in any state of the pod."""
    real, base = os.path.realpath(pod_dir), f"{data(pod_dir)}/pods"
    return tuple(f"{stage1_root(place)}/" for place in (real, *(f"{base}/{state}/{uuid(pod_dir)}" for state in STATES)))


def stored_root(pod_dir: str) -> str:
    """The root of the stage1 image in rkt's store. All pods share it, and it stays while rkt moves the pod."""
    return f"{data(pod_dir)}/cas/tree/{tree_id(pod_dir)}/rootfs"


def journal(pod_dir: str) -> str:
    """The directory of the journal of a guest with systemd. It is an idmapped mount, which an overlay's can't be."""
    return f"{seen_by_rkt(pod_dir)}/{_JOURNAL}"


def journal_of_stage1(pod_dir: str) -> str:
    """The same, where rkt's api-service looks for it."""
    return f"{stage1_root(pod_dir)}/{_JOURNAL}"


def app_root(pod_dir: str, app: str) -> str:
    """The app's root, which may be gone: after a reboot rkt mounts no app again."""
    return f"{stage1_root(pod_dir)}/opt/stage2/{app}/rootfs"


def uses_overlay(pod_dir: str) -> bool:
    """Whether the roots are overlays rather than copies."""
    return os.path.exists(f"{pod_dir}/overlay-prepared")


def seen_by_rkt(pod_dir: str) -> str:
    """The directory where rkt itself reads a stage1's files, mounted or not. Raises NotFound."""
    if not uses_overlay(pod_dir):
        return stage1_root(pod_dir)
    return f"{pod_dir}/overlay/{tree_id(pod_dir)}/upper"


def tree_id(pod_dir: str) -> str:
    """The name of the stage1 image's tree in rkt's store. Raises NotFound, BadRequest."""
    tree = files.read(f"{pod_dir}/stage1TreeStoreID").decode("ascii", "replace").strip()
    if not tree or "/" in tree or tree.startswith("."):
        raise BadRequest(f"{pod_dir}/stage1TreeStoreID does not name a tree but has {tree!r}; remove the pod")
    return tree


def write_pid(pod_dir: str, pid: int) -> None:
    """Say which process the pod is. Only once: the file's time is when the pod started. Raises AlreadyExists."""
    temporary = f"{pod_dir}/{PID}.{os.getpid()}~"
    files.write_atomic(temporary, f"{pid}\n".encode(), 0o644)
    try:
        with Guard("link", f"{pod_dir}/{PID}"):
            os.link(temporary, f"{pod_dir}/{PID}")
    except Exception as error:
        if os.path.exists(f"{pod_dir}/{PID}"):
            raise AlreadyExists(f"{pod_dir}/{PID} exists already: this pod was started before") from error
        raise
    finally:
        os.unlink(temporary)


def status_dir(pod_dir: str) -> str:
    """The directory of status files, below the overlay, which may not notice changes there. Raises NotFound."""
    return f"{seen_by_rkt(pod_dir)}/{_STATUS}"


def writable_status_dir(pod_dir: str) -> str:
    """The same, to be written: the overlay is made to have the directory of its own. Raises NotFound, KernelError."""
    with Guard("touch", f"{stage1_root(pod_dir)}/{_STATUS}"):
        os.utime(f"{stage1_root(pod_dir)}/{_STATUS}")
    return status_dir(pod_dir)


def make_told(pod_dir: str) -> str:
    """Make the directory in which the guest writes the codes of its apps. The launcher hands them on to `status_dir`,
    which the guest must never have: rkt follows links in it. Idempotent. Raises KernelError.
    """
    with beneath.Root(pod_dir) as pod:
        pod.make_directories(TOLD, 0o755)
    return f"{pod_dir}/{TOLD}"


def await_told(pod_dir: str, app: str) -> None:
    """Wait until the launcher has handed on the app's code, if the guest has written one; not longer than `_HAND_S`."""
    until = time.monotonic() + _HAND_S
    while _is_told(pod_dir, app) and time.monotonic() < until:
        time.sleep(_POLL_S)


def _is_told(pod_dir: str, app: str) -> bool:
    try:
        with beneath.Root(f"{pod_dir}/{TOLD}") as told:
            return told.exists(app)
    except FileNotFoundError:
        return False  # the pod is of an older stage1


def forget_status(pod_dir: str, app: str, *, marks: bool = False) -> None:
    """Remove the app's status; with `marks` also those of rkt's that app rm leaves behind. Idempotent."""
    _forget(pod_dir, app, *((f"{app}-created", f"{app}-started") if marks else ()))


def forget_start(pod_dir: str, app: str) -> None:
    """Remove rkt's mark by which an app without a status runs. Idempotent."""
    _forget(pod_dir, f"{app}-started")


def _forget(pod_dir: str, *names: str) -> None:
    for name in names:
        # First where rkt has it mounted, so that the overlay knows that it is gone.
        for place in (f"{stage1_root(pod_dir)}/{_STATUS}", status_dir(pod_dir)):
            try:
                with beneath.Root(place) as status:
                    status.unlink(name)
            except FileNotFoundError:
                continue
        _forget_told(pod_dir, name)


def _forget_told(pod_dir: str, name: str) -> None:
    try:
        with beneath.Root(f"{pod_dir}/{TOLD}") as told:
            told.remove_tree(name)
    except (FileNotFoundError, KernelError):
        pass  # the guest fills it endlessly: then it is not read as a code


def has_status(pod_dir: str, name: str) -> bool:
    """Whether there is a status file of that name, which the guest may have made."""
    try:
        with beneath.Root(status_dir(pod_dir)) as status:
            return status.exists(name)
    except FileNotFoundError:
        return False


def set_ready(pod_dir: str) -> None:
    """Let rkt change the apps from now on. Idempotent."""
    try:
        with Guard("symlink", f"{stage1_root(pod_dir)}/{READY}"):
            os.symlink(_READY_TEXT, f"{stage1_root(pod_dir)}/{READY}")
    except Exception:
        if not is_ready(pod_dir):
            raise


def is_ready(pod_dir: str) -> bool:
    """Whether `set_ready` was called last, by rkt's own criterion."""
    try:
        return os.readlink(f"{stage1_root(pod_dir)}/{READY}") == _READY_TEXT
    except OSError:
        return False


def require(pod_dir: str) -> None:
    """Check that `pod_dir` is a pod's directory. Raises NotFound, as for a program that was started by hand."""
    if not os.path.isfile(f"{pod_dir}/pod"):
        raise NotFound(f"{pod_dir} has no pod manifest; this program is started by rkt, in a pod's directory")
