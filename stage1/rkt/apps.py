# SPDX-License-Identifier: Apache-2.0
"""Requests of the entry points to the agent of a running pod: make, start, end and forget apps. Called by stage1/entry.

rkt calls several of them at once; those that change the same pod take turns (`changing`). An app
counts as ended when rkt sees its code, which the guest writes and the launcher hands on.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress

from stage1 import engine
from stage1.errors import AlreadyExists, NotFound, PodError, TimedOut, WrongState
from stage1.guest import messages
from stage1.guest.client import Client
from stage1.guest.messages import Delete, Exec, Halt, Launch, Signal
from stage1.linux import process
from stage1.linux.flock import Lock
from stage1.rkt import directory, loader, logs, machine, make, network, plan, runtime
from stage1.rkt.loader import RktPod

GRACE_S = 10.0
"""The grace period from SIGTERM to SIGKILL, as in container runtimes."""
START_S = 60.0
"""The time limit for crun and, before it, pre-start."""
BOOT_S = 20.0
_POLL_S = 0.05
_EXTRA_S = 16.0
"""The time in addition to the grace period and REACT_S, for post-stop."""
REACT_S, PING_S = 3.5, 0.5
"""The time for a guest beyond a grace period; and to answer at all. After that the pod is killed."""
UNDO_S = 1.5


def changing(place: str, *, limit_s: float = START_S) -> Lock:
    """`with changing(place):` no other program changes the apps of that pod. Raises TimedOut when others take that
    long.
    """
    return Lock(f"{place}/apps.lock", limit_s=limit_s)


def read(pod_dir: str, app: str, *, runs: bool = False) -> RktPod:
    """The pod with that one app, as it was told by `run` and is now; `runs` as of `loader.read_pod`, which raises."""
    options = runtime.load(pod_dir)
    pod = loader.read_pod(pod_dir, options, only=app, runs=runs)
    host_ip = network.host_ip(pod_dir)
    return loader.with_network(pod, pod_dir, options=options, network=engine.network(pod_dir), host_ip=host_ip)


def add(client: Client, pod: RktPod) -> None:
    """Show the app to the guest, and let it be made there. Rolled back when that fails."""
    place, app = machine.place(pod.pod.id), pod.apps[0]
    make.make(pod)
    try:
        app = logs.begin(place, app)
        machine.add(place, pod, app=app)
        client.limit(START_S)
        for volume in pod.empty_volumes:
            _make_volume(client, volume.name)
        if root := plan.root(app):
            client.call(root, START_S)
        for request in plan.creation(app):
            client.call(request, START_S)
    except BaseException:
        client.limit(UNDO_S)
        remove(client, place, app=app.name)
        raise


def _make_volume(client: Client, name: str) -> None:
    try:
        client.call(plan.volume(name), START_S)
    except AlreadyExists:
        pass  # another app has it, or had


def start(client: Client, pod: RktPod) -> None:
    """Start it, or start it again; returns when it runs. Raises WrongState when it does already."""
    app = pod.apps[0]
    client.limit(START_S)
    reply = client.call(messages.List(), START_S)
    states = {one.id: one.state for one in reply.containers}
    if states.get(app.name) != messages.RUNNING:
        _forget_former(app.name)
        app = logs.begin(machine.place(pod.pod.id), app)
    for request in plan.creation(app):
        state = states.get(request.id)
        if state == messages.EXITED:
            client.call(Delete(request.id), START_S)
        if state in (messages.EXITED, None):
            client.call(request, START_S)
    _ask_or_end(client, plan.launch(app), end=Halt(app.name, 0))


def _ask_or_end(client: Client, request: Launch | Exec, *, end: Halt | Signal) -> None:
    """Have something started. Raises TimedOut when the guest does not answer, which is then told to `end` it: nobody
    knows of what begins later.
    """
    try:
        client.call(request, START_S)
    except TimedOut:
        client.limit(UNDO_S)
        with suppress(PodError):
            client.call(end, UNDO_S)
        raise


def _forget_former(app: str) -> None:
    """A code that was on its way when rkt forgot the one before is not that of the app that starts."""
    pod_dir = os.getcwd()
    directory.await_told(pod_dir, app)
    directory.forget_status(pod_dir, app)


def stop(client: Client, app: str) -> None:
    """End it; returns when rkt sees its status. Idempotent, also for an app that was never there.

    Raises TimedOut when the guest has not ended it `REACT_S` after the grace; only its post-stop may take longer.
    """
    halt = Halt(app, int(GRACE_S * 1000))
    try:
        client.call(halt, GRACE_S + REACT_S)
    except TimedOut:
        if runs(client, app, limit_s=PING_S):
            raise
        client.call(halt, _EXTRA_S)
    directory.await_told(os.getcwd(), app)


def remove(client: Client, place: str, *, app: str) -> None:
    """Forget it, in the guest and here; idempotent."""
    for name in (app, f"{app}.pre-start", f"{app}.post-stop", loader.root_on_disk(app)):
        try:
            client.call(Delete(name), START_S)
        except NotFound:
            continue
    machine.remove(place, app)


def end_pod(uuid: str, error: PodError) -> str:
    """The guest did not stop or remove an app in time: end the pod. Idempotent. Returns a sentence about it."""
    machine.kill(machine.place(uuid))
    return f"the pod {uuid} was killed, since its guest did not respond: {error}"


def require_running(client: Client, app: str) -> None:
    """Return when it runs, also if the pod boots as yet. Raises WrongState when it does not run any more."""
    for _ in _tries(app):
        if runs(client, app):
            return
    raise WrongState(f"the app {app} is not running, so no command can be run in it; start it first")


def runs(client: Client, app: str, *, limit_s: float = START_S) -> bool:
    """Whether the app's own container runs."""
    reply = client.call(messages.List(), limit_s)
    return any(one.id == app and one.state == messages.RUNNING for one in reply.containers)


def when_running(client: Client, app: str, *, request: Exec) -> None:
    """Send an Exec; one that comes while the pod boots waits for the app. Raises WrongState, NotFound when it ended."""
    refusal: PodError
    end = Signal(request.container, request.exec, process.SIGKILL, True)
    for _ in _tries(app):
        try:
            _ask_or_end(client, request, end=end)
            return
        except (WrongState, NotFound) as error:
            refusal = error
    raise _explained(refusal, app)


def _tries(app: str) -> Iterator[None]:
    """Yield once, and again every _POLL_S seconds while the pod boots and the app has not run yet."""
    until = time.monotonic() + BOOT_S
    yield
    while time.monotonic() <= until and _is_awaited(os.getcwd(), app):
        time.sleep(_POLL_S)
        yield


def _is_awaited(pod_dir: str, app: str) -> bool:
    """Whether it has not run yet, and will."""
    if directory.has_status(pod_dir, app):
        return False
    return directory.has_status(pod_dir, f"{app}-started") or not directory.has_status(pod_dir, f"{app}-created")


def _explained(error: PodError, app: str) -> PodError:
    return WrongState(f"the app {app} is not running, so no command can be run in it ({error})")
