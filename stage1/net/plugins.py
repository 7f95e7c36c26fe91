# SPDX-License-Identifier: Apache-2.0
"""Runs CNI plugins, one after the other, each within a time limit. Called by attach.

A plugin that does not end in time is killed with its session. What plugins are given and answer is `protocol`'s.
"""

from stage1.errors import NetworkFailed, PodError, TimedOut
from stage1.linux import process
from stage1.net import portmap, protocol
from stage1.net.conflist import Network, find_plugin
from stage1.net.protocol import Call, Document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_S = 30.0


class Runner:
    """`bin_dirs` are searched for plugins in order; `limit_s` is the time that each call of a plugin may take."""

    def __init__(self, bin_dirs: tuple[str, ...], limit_s: float = LIMIT_S) -> None:
        self.bin_dirs, self.limit_s = bin_dirs, limit_s

    def add(self, network: Network, call: Call, *, done: "Callable[[Document], None]") -> Document:
        """ADD by each plugin; `done` hears each result as soon as there is one. Undo: `delete`.

        Raises NetworkFailed when a plugin fails; what the others did stays for `delete`.
        """
        previous: Document | None = None
        for plugin in network.plugins:
            answer = self._run("ADD", network, plugin=plugin, call=call, previous=previous)
            previous = protocol.result(answer, _who(plugin, network))
            done(previous)
        return previous or {}

    def delete(self, network: Network, call: Call, *, previous: Document | None) -> None:
        """DEL by each plugin in reverse, all of them even if one fails; then raises NetworkFailed for the first."""
        failures: list[PodError] = []
        for plugin in reversed(network.plugins):
            try:
                self._run("DEL", network, plugin=plugin, call=call, previous=previous)
            except PodError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def check(self, network: Network, call: Call, *, previous: Document) -> None:
        """CHECK by each plugin, unless the configuration forbids it or its version has none."""
        if network.disable_check or network.version.startswith("0.3"):
            return
        for plugin in network.plugins:
            self._run("CHECK", network, plugin=plugin, call=call, previous=previous)

    def _run(self, verb: str, network: Network, *, plugin: Document, call: Call, previous: Document | None) -> bytes:
        who, path = _who(plugin, network), find_plugin(plugin["type"], self.bin_dirs)
        if not path:
            raise NetworkFailed(f"{who} is not in {' or '.join(self.bin_dirs)}; install it there")
        given = protocol.request(network, portmap.adapted(plugin), call=call, previous=previous)
        env = protocol.environment(verb, call, bin_dirs=self.bin_dirs)
        try:
            ended = process.run([path], timeout_s=self.limit_s, input=given, env=env)
        except TimedOut:
            raise NetworkFailed(f"{who} did not finish {verb} within {self.limit_s:g} s and was killed") from None
        if ended.code != 0:
            said = protocol.complaint(ended.stdout, ended.stderr, code=ended.code)
            raise NetworkFailed(f"{who} failed at {verb}: {said}")
        return ended.stdout


def _who(plugin: Document, network: Network) -> str:
    return f"the CNI plugin {plugin['type']!r} of network {network.name!r}"
