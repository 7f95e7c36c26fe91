# SPDX-License-Identifier: Apache-2.0
"""Names that can be taken once: of pods (name, namespace, uid, attempt) and of a pod's containers (name,
attempt).

Used by the table and the pods. Kubelet repeats a call with the same name after its deadline, while the first one still
works: the first owns the name until it has finished or rolled back, and the repetition of a call whose answer was not
delivered gets that answer.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from stage1.errors import AlreadyExists


class Held(NamedTuple):
    """The holder of a name. `request` is the request's bytes, `made` becomes the id or the error."""

    task: "asyncio.Task[Any] | None"
    request: bytes
    made: "asyncio.Future[str]"

    def keep(self, made: str) -> None:
        """The name is that of the finished object `made` from now on."""
        self.made.set_result(made)


class Names:
    """`what` is the word for errors: sandbox, container."""

    def __init__(self, what: str, is_abandoned: Callable[[Any], bool]) -> None:
        self._what, self._is_abandoned = what, is_abandoned
        self._held: dict[Hashable, Held] = {}

    def made(self, name: Hashable) -> str:
        """The id of the finished object that has the name; empty when there is none."""
        held = self._held.get(name)
        return held.made.result() if held and held.made.done() and not held.made.exception() else ""

    async def repeated(self, name: Hashable, request: bytes) -> str:
        """The id, if this repeats a call whose client never got the answer: waits until that has finished, and raises
        what it raises. Empty when the name is free.

        Raises AlreadyExists when the name is taken otherwise.
        """
        held = self._held.get(name)
        if held is None:
            return ""
        if held.request and held.request == request and held.task and self._is_abandoned(held.task):
            answer = await asyncio.shield(held.made)
            if name in self._held:  # the answer is given once; a third call meets an ordinary object
                self._held[name] = held._replace(task=asyncio.current_task())
            return answer
        shown = "/".join(str(part) for part in name) if isinstance(name, tuple) else str(name)
        if not held.made.done():
            raise AlreadyExists(
                f"the {self._what} name {shown} is reserved by a call in progress; retry when it has finished"
            )
        raise AlreadyExists(
            f"the {self._what} {shown} exists as {held.made.result()}; remove it or use another attempt"
        )

    @contextmanager
    def reserved(self, name: Hashable, request: bytes) -> Iterator[Held]:
        """Reserve a free name (see `repeated`) while the block makes its object, which must `keep` it at the end; a
        block that raises frees it.
        """
        reservation = Held(asyncio.current_task(), request, asyncio.get_running_loop().create_future())
        self._held[name] = reservation
        try:
            yield reservation
        except BaseException as error:
            del self._held[name]
            failure = error if isinstance(error, Exception) else AlreadyExists("the call was cancelled")
            reservation.made.set_exception(failure)
            reservation.made.exception()  # mark it as retrieved: there may be no waiter
            raise

    def take(self, name: Hashable, made: str) -> None:
        """Recovery: the name belongs to the finished object `made`."""
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        done.set_result(made)
        self._held[name] = Held(None, b"", done)

    def release(self, name: Hashable) -> None:
        """The object is gone: free its name. Idempotent."""
        self._held.pop(name, None)
