# SPDX-License-Identifier: Apache-2.0
"""The socket on which plugins connect, registration and configuration. Used by `hub`.

Only root can connect. A plugin that does not register in time is disconnected, and no other waits for it. Its name and
index are validated here.
"""

import asyncio
import logging
import os
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from cri import __version__, owner
from cri.config_tables import Nri
from cri.nri import calls
from cri.nri.calls import Refused
from cri.nri.link import ENDING, Link, Lost
from cri.nri.plugin import Plugin
from cri.pb import nri_pb2 as nri
from cri.threads import obtained
from cri.translate import bounds
from stage1.errors import BadRequest, WrongState
from stage1.linux import files

log = logging.getLogger("clearpod.nri")

MOST_PLUGINS = 64
API_VERSION = "v0.12.1"
"""Of NRI: what plugins may expect of us."""
NAME, INDEX = re.compile(r"[A-Za-z0-9_.+-]{1,128}"), re.compile(r"[0-9]{2}")

Update = Callable[[Plugin, nri.UpdateContainersRequest], Awaitable[nri.UpdateContainersResponse]]


class PluginListener:
    """`admit` gets each configured plugin, `left` is called when one has disconnected, `update` does unsolicited
    updates.
    """

    def __init__(
        self, config: Nri, *, admit: Callable[[Plugin], None], left: Callable[[Plugin], None], update: Update
    ) -> None:
        self._config, self._admit, self._left, self._update = config, admit, left, update
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    async def open(self) -> None:
        """Begin to listen. Raises AlreadyExists when another runtime does there, BadRequest for a path that
        can't be.
        """
        bound = await obtained(_bind, socket.socket.close, self._config.socket)
        self._server = await asyncio.start_unix_server(self._accepted, sock=bound)

    async def close(self) -> None:
        """Disconnect all plugins and remove the socket. Idempotent."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._connections):
            connection.link.close(ENDING)
        await asyncio.to_thread(files.unlink, self._config.socket)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MOST_PLUGINS:
            log.warning("nri.full", extra={"warning": f"{MOST_PLUGINS} plugins are connected, which is the maximum"})
            writer.transport.abort()
            return
        connection = _Connection(reader, writer, self._update)
        self._connections.add(connection)
        try:
            plugin = await connection.register(self._config, self._left)
            self._admit(plugin)
            await connection.link.gone.wait()
        except (Lost, Refused) as error:
            connection.link.close(str(error))
            log.warning(
                "nri.unregistered",
                extra={"plugin": connection.title or "(no name)", "error": calls.shortened(str(error))},
            )
        except Exception:
            connection.link.close("clearpod had an internal error")
            log.exception("nri.fault", extra={"plugin": connection.title})
        finally:
            self._connections.discard(connection)


class _Connection:
    """One connection, until the plugin has registered."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, update: Update) -> None:
        self.title = ""
        self._registered = asyncio.Event()
        self._plugin: Plugin | None = None
        self._update = update
        self.link = Link(reader, writer, self._serve)

    async def register(self, config: Nri, left: Callable[[Plugin], None]) -> Plugin:
        """The plugin, registered and configured. Raises Lost, Refused."""
        limit_s = config.registration_timeout_s
        gone = asyncio.ensure_future(self.link.gone.wait())
        named = asyncio.ensure_future(self._registered.wait())
        await asyncio.wait({gone, named}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        named.cancel()
        if not self.title:
            raise Lost(self.link.why or f"it did not register within {limit_s:g} s")
        answer = await self.link.call("Configure", _greeting(config), timeout_s=config.request_timeout_s)
        if answer.events & ~calls.ALL_EVENTS:
            raise Lost(f"it subscribes to unknown events: {answer.events:#x}")
        events = answer.events or calls.ALL_EVENTS
        log.info("nri.plugin", extra={"plugin": self.title, "events": f"{events:#x}"})
        self._plugin = Plugin(self.title, self.link, events=events, timeout_s=config.request_timeout_s, left=left)
        return self._plugin

    async def _serve(self, asked: calls.Asked) -> Any:
        if asked.method == "RegisterPlugin":
            self._take_name(asked.message)
            return nri.Empty()
        if self._plugin is None:
            raise WrongState("a plugin must register before it can update containers")
        return await self._update(self._plugin, asked.message)

    def _take_name(self, request: nri.RegisterPluginRequest) -> None:
        if self.title:
            raise WrongState(f"this connection belongs to {self.title}; another plugin needs one of its own")
        if not NAME.fullmatch(request.plugin_name) or not INDEX.fullmatch(request.plugin_idx):
            raise BadRequest(
                f"a plugin's name has up to 128 letters, digits and _.+-, its index two digits, but they are"
                f" {bounds.short(request.plugin_name)} and {bounds.short(request.plugin_idx)}"
            )
        self.title = f"{request.plugin_idx}-{request.plugin_name}"
        self._registered.set()


def _bind(path: str) -> socket.socket:
    """A socket that only root can ever connect to: its mode is set before it listens."""
    owner.claim_path(path, key="nri.socket")
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(path)
        os.chmod(path, 0o600)
    except OSError as error:
        bound.close()
        raise BadRequest(f"{path}: can't listen there for NRI: {error}") from None
    return bound


def _greeting(config: Nri) -> nri.ConfigureRequest:
    return nri.ConfigureRequest(
        runtime_name="clearpod",
        runtime_version=__version__,
        registration_timeout=round(config.registration_timeout_s * 1000),
        request_timeout=round(config.request_timeout_s * 1000),
        NRI_version=API_VERSION,
    )
