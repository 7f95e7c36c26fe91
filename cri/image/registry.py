# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of the client of registries: the confined process of a pull (`client`), what its failures are for
the user, and the download, which is watched while it goes on.

Called by the pull and by `clearpod login`. Neither what a registry sends nor what the process says is trusted:
documents and blobs are compared with their digests by who reads them, and errors repeat only statuses, hosts, and
sentences of ours.
"""

import asyncio
import base64
import contextlib
import json
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from cri.image import manifest, origins
from cri.threads import await_end, run_apart, run_uncancellable
from stage1.errors import NoSpace, NotFound, PodError, TimedOut, Unavailable
from stage1.linux.supervise import never
from stage1.rootfs import worker
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.layout import hex_of
from stage1.rootfs.limits import Limits, refusal
from stage1.rootfs.worker import Asker, ForkServer, Question, Worker

log = logging.getLogger("clearpod.pull")

MODULE = "cri.image.client"
MODULES = ("stage1.rootfs.layerjob", "stage1.rootfs.mergejob", "cri.image.manifest", MODULE)
"""Those of the confined processes of pulls."""
KEEP_S, MOST_KEPT = 10.0, 4
"""How long the fork server, which has 16 MB, is kept after the last pull, and how many processes that were asked for a
digest alone.
"""
ANSWER_S, DOWNLOAD_S, _CPU_S = 300.0, 3600.0, 3600.0
THREADS, MANY = 3, 8
"""How many blobs of an image come at a time; one if there are so many downloads, since all have one user's limits."""
CHECK_S, LOG_EVERY_S = 1.0, 10.0
STALLED_S = 300.0
"""The time limit without data, as containerd's. A registry that keeps sending, however slowly, never reaches it."""
SLOW_S, SLOW_BYTES = 60.0, 4 << 20
"""A registry that sends less in so long is slow; its pull ends if others wait for their turn (`pull.Turns`)."""
MORE_BYTES = 64 << 20
"""What may be in the files of a download beyond the sizes of its blobs."""
_downloads: "weakref.WeakSet[Client]" = weakref.WeakSet()


class RegistryUnavailable(Unavailable):
    """kubelet reads the prefix of the message, and reads messages of UNKNOWN only."""

    grpc_code, noted_code = "UNKNOWN", "UNAVAILABLE"

    def __init__(self, sentence: str) -> None:
        super().__init__(f"RegistryUnavailable: {sentence}")


class LoginNeeded(PodError):
    """The registry refuses the image, with and without credentials."""

    grpc_code = "UNAUTHENTICATED"


def explained(failure: Any, name: str) -> PodError:
    """The error for the image `name` that an answer of the process stands for: a kind, a host, a detail, and after
    which time another attempt makes sense.
    """
    kind, host, detail, again_s = failure if isinstance(failure, list) and len(failure) == 4 else ("", "", "", -1)
    host = host[:100] if isinstance(host, str) and host.isprintable() and host else "another host"
    is_status = isinstance(detail, int) and 0 < detail < 1000
    why = f"HTTP status {detail}" if is_status else detail if detail in origins.REASONS else "no reason"
    later = f"in {again_s:.0f} seconds" if isinstance(again_s, int | float) and 1 <= again_s < 1e6 else "later"
    match kind:
        case "absent":
            return NotFound(f"there is no image {name} (manifest unknown); check its name and tag")
        case "login":
            return LoginNeeded(f"the registry rejects the credentials for {name}, or does not have it ({why})")
        case "tls":
            return RegistryUnavailable(
                f"the registry of {name} can't be trusted ({why}); correct its certificate, or put that of its "
                "authority below /etc/containers/certs.d"
            )
        case "unreachable":
            return RegistryUnavailable(f"can't reach the registry of {name} ({why}); try again later")
        case "busy" | "failing":
            what = "limits requests" if kind == "busy" else "is failing"
            return RegistryUnavailable(f"the registry of {name} {what} ({why}); try again {later}")
        case "misled":
            return RegistryUnavailable(
                f"the registry of {name} leads to {host}, which does not give what is asked for; report it to the "
                "registry's operator"
            )
        case "proxy":
            return RegistryUnavailable(
                f"the proxy {host} does not let through to the registry of {name} ({why}); correct HTTPS_PROXY, or add "
                "the registry to NO_PROXY"
            )
        case "damaged" | "size":
            what = "a blob has another size than its manifest says" if kind == "size" else "a blob is not there"
            return Corrupt(f"the registry's copy of {name} is damaged ({what}); pull again, or push again")
        case "full":
            return NoSpace(f"the disk is full while {name} was downloaded; free some space")
    return RegistryUnavailable(
        f"the registry of {name} does not answer like a registry ({why}); correct the name, or report it to its "
        "operator"
    )


class Watch(NamedTuple):
    """What else is looked at while a download goes on."""

    check: Callable[[], None] = lambda: None
    """Called now and then in a thread; what it raises ends the download."""
    yields: Callable[[], bool] = never
    """Asked while the registry is slow; true ends the download."""
    hear: Callable[[str, int], None] = lambda blob, count: None
    """Told how many bytes of a blob there are."""


class Client:
    """One confined process that talks to the registry of the image `name` as one user. Close it."""

    def __init__(self, asked: dict[str, Any], name: str, *, asker: Asker, box: str = "") -> None:
        """`asked` is by `origins.question`; `box` is a directory that is made for blobs, without it there are none."""
        self.asked, self._name, self._limits, self._box = asked, name, asker.limits, box
        kind = Question(MODULE, (), f"the answers of the registry of {name}", _CPU_S, box, network=True)
        self._worker = Worker(kind, asker)
        self._kind = kind._replace(directory="", answer_bytes=65536)

    def start(self) -> None:
        """Start the process, if it was not. Blocks. Raises KernelError, Stopped."""
        self._worker.start()

    def close(self) -> None:
        """End it. Idempotent. Blocks: one that a registry keeps busy is given time before it is killed."""
        self._worker.close()

    @property
    def is_closed(self) -> bool:
        """Whether it can't be asked any more."""
        return self._worker.is_closed

    async def digest(self, reference: str) -> str:
        """The digest that the registry has for a tag or digest; empty if it names none, or its answer to that question
        is odd, since a document can still be asked for. Raises what `document` raises.
        """
        answer = await self._ask("digest", reference, passes=("absent", "odd", "misled", "failing"))
        return answer if manifest.is_digest(answer) else ""

    async def document(self, kind: str, reference: str, *, most_kib: int) -> bytes:
        """A `manifest`, or a config, which is a `blob`. Raises NotFound, LoginNeeded, RegistryUnavailable, Corrupt,
        OverLimit.
        """
        most = most_kib << 10
        answer = await self._ask(kind, reference, str(most), answer_bytes=65536 + 2 * most)
        with contextlib.suppress(TypeError, ValueError):
            return base64.b64decode(answer, validate=True)[:most]
        raise self._odd()

    async def log_in(self) -> None:
        """Have the registry check the credentials. Raises LoginNeeded, RegistryUnavailable."""
        await self._ask("login")

    async def _ask(self, kind: str, *more: str, answer_bytes: int = 65536, passes: tuple[str, ...] = ()) -> Any:
        question = self._kind._replace(arguments=(kind, *more), timeout_s=ANSWER_S, answer_bytes=answer_bytes)
        try:
            answer = await asyncio.to_thread(self._worker.ask, question, json.dumps(self.asked).encode())
        except TimedOut:
            await run_uncancellable(self.close)
            raise RegistryUnavailable(
                f"can't reach the registry of {self._name} (no answer in {ANSWER_S:.0f} seconds); try again later"
            ) from None
        except PodError:
            await run_uncancellable(self.close)
            raise
        if not isinstance(answer, dict):
            return answer
        failure = answer.get("failed")
        log.info("pull.failed", extra={"image": self._name, "error": repr(failure)[:300]})
        if isinstance(failure, list) and failure and failure[0] in passes:
            return ""
        if isinstance(failure, list) and failure and failure[0] == "large":
            key = "config_kib" if kind == "blob" else "manifest_kib"
            what, cap = "config" if kind == "blob" else "manifest", getattr(self._limits, key)
            raise refusal(f"the {what} of {self._name} has more than {cap << 10} bytes", key=key, cap=cap)
        raise explained(failure, self._name)

    def _odd(self) -> Corrupt:
        return Corrupt(f"the process that asked the registry of {self._name} gave no answer; pull again")

    async def bring(
        self, sizes: dict[str, int], directory: str, *, arrived: Callable[[str, str], None], watch: Watch
    ) -> None:
        """Download the blobs with these digests and sizes (0: unknown) to `directory`. `arrived` is called with the
        digest and path of each as soon as it is whole; it is not compared with its digest.

        Raises what `document` raises, NoSpace, and RegistryUnavailable for one that sends nothing, or too little while
        others wait.
        """
        threads = THREADS if len(_downloads) < MANY else 1
        question = self._kind._replace(arguments=("blobs", json.dumps(sizes), str(threads)), timeout_s=DOWNLOAD_S)
        loop, counts, left = asyncio.get_running_loop(), dict.fromkeys(sizes, 0), set(sizes)

        def hear(event: Any) -> None:
            match event:
                case ["bytes", str(digest), int(count)] if digest in left and 0 <= count < 1 << 60:
                    counts[digest] = count
                    loop.call_soon_threadsafe(watch.hear, digest, count)
                case ["whole", str(digest)] if digest in left:
                    left.remove(digest)
                    most, path = sizes[digest] or self._limits.image_mib << 20, f"{directory}/{hex_of(digest)}"
                    worker.adopt(self._box, hex_of(digest), target=path, most_bytes=most)
                    loop.call_soon_threadsafe(arrived, digest, path)
                case _:
                    raise self._odd()

        def ask() -> Any:
            return self._worker.ask(question, json.dumps(self.asked).encode(), hear=hear)

        _downloads.add(self)
        asking = asyncio.ensure_future(run_apart(ask))
        try:
            await self._watched(asking, sizes, counts=counts, watch=watch)
            if isinstance(answer := asking.result(), dict):
                log.info("pull.failed", extra={"image": self._name, "error": repr(answer)[:300]})
                raise explained(answer.get("failed"), self._name)
            if left:
                raise self._odd()
        finally:
            _downloads.discard(self)
            if not asking.done() or asking.exception():
                try:
                    await run_uncancellable(self.close)  # and the thread gets an error
                finally:
                    await await_end(asking)

    async def _watched(
        self, asking: "asyncio.Future[Any]", sizes: dict[str, int], *, counts: dict[str, int], watch: Watch
    ) -> None:
        """Wait for the end of a download, or raise what ends it before."""
        total, most = sum(sizes.values()), self._limits.image_mib << 20
        if total > most:
            raise self._too_much()
        known = total if all(sizes.values()) else most
        files = self._kind._replace(directory=self._box, disk_bytes=min(known, most) + MORE_BYTES)
        log.info("pull.download", extra={"image": self._name, "bytes": total})
        logged_at = moved_at = marked_at = begun_at = time.monotonic()
        had = marked = 0
        while not (await asyncio.wait({asking}, timeout=CHECK_S))[0]:
            now, has = time.monotonic(), sum(counts.values())
            await run_uncancellable(_checked, files, watch.check)
            if has != had:
                had, moved_at = has, now
            if had > most:
                raise self._too_much()
            if now - moved_at >= STALLED_S:
                raise RegistryUnavailable(
                    f"the registry of {self._name} has sent nothing for {STALLED_S:.0f} seconds, after {had}"
                    f" of {total} bytes; try again later"
                )
            if now - begun_at >= DOWNLOAD_S:
                raise RegistryUnavailable(
                    f"the registry of {self._name} took more than {DOWNLOAD_S:.0f} seconds; try again later"
                )
            if now - marked_at >= SLOW_S:
                if had - marked < SLOW_BYTES and watch.yields():
                    raise RegistryUnavailable(
                        f"the registry of {self._name} has sent {max(had - marked, 0)} bytes in {SLOW_S:.0f} seconds,"
                        " while other pulls waited for their turn (images.pulls); try again later"
                    )
                marked_at, marked = now, had
            if now - logged_at >= LOG_EVERY_S:
                logged_at = now
                log.info("pull.progress", extra={"image": self._name, "bytes": had, "of": total})

    def _too_much(self) -> PodError:
        cap = self._limits.image_mib
        return refusal(f"the layers of {self._name} have more than {cap << 20} bytes", key="image_mib", cap=cap)


def _checked(files: Question, check: Callable[[], None]) -> None:
    """Limits of what is on the disk: a process that was taken over writes what it likes, and counts as it likes."""
    if os.path.isdir(f"{files.directory}/out"):
        worker.check_output(files)
    check()


class Processes:
    """The processes of one store that outlive a pull: the fork server, and some that were asked for a digest, each for
    one registry and user, so that one that a registry has taken over can't answer for another. Close it.
    """

    def __init__(self) -> None:
        self._server = ForkServer(MODULES)
        self._kept: dict[str, list[Client]] = {}
        self._users = 0
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def used(self) -> Iterator[ForkServer]:
        """The server, which runs from its first request on, and stays a while after the last use."""
        self._users += 1
        if self._timer:
            self._timer.cancel()
        try:
            yield self._server
        finally:
            self._users -= 1
            if not self._users:
                self._timer = asyncio.get_running_loop().call_later(KEEP_S, self._retire)

    async def digest(self, reference: str, asked: dict[str, Any], *, name: str, limits: Limits) -> str:
        """Like `Client.digest`, by a process that stays for the next question."""
        key = json.dumps([{**asked, "places": [{**one, "path": ""} for one in asked["places"]]}])
        kept = self._kept.setdefault(key, [])
        client = kept.pop() if kept else Client(asked, name, asker=Asker(limits, server=self._server))
        client.asked, answered = asked, False
        try:
            digest = await client.digest(reference)
            answered = True
            return digest
        finally:
            if answered and sum(map(len, self._kept.values())) < MOST_KEPT:
                kept.append(client)
            else:
                threading.Thread(target=client.close, name="registry").start()

    def _retire(self) -> None:
        old, self._server, kept, self._kept = self._server, ForkServer(MODULES), self._kept, {}
        threading.Thread(target=_ended, args=(old, kept), name="registry").start()

    def close(self) -> None:
        """End the server with all that it has forked. Idempotent; a later pull starts another."""
        if self._timer:
            self._timer.cancel()
        kept, self._kept = self._kept, {}
        _ended(self._server, kept)


def _ended(server: ForkServer, kept: dict[str, list[Client]]) -> None:
    for client in (one for clients in kept.values() for one in clients):
        client.close()
    server.close()
