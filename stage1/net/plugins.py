# SPDX-License-Identifier: Apache-2.0
"""Runs CNI plugins, one after the other, each within a time limit. Called by attach.

A plugin that does not end in time is killed with its session. What plugins are given and answer is `protocol`'s.
"""

import time
from collections.abc import Callable

from stage1.errors import NetworkFailed, PodError, TimedOut
from stage1.linux import process
from stage1.net import portmap, protocol
from stage1.net.conflist import Network, find_plugin
from stage1.net.protocol import Call, Document
from stage1.net.settings import LIMIT_S

LEAST_S = 1.0
"""Each plugin gets so long at least, however long those before it have taken."""


class PluginGone(NetworkFailed):
    """The plugin's program is not there any more."""


class Runner:
    """`bin_dirs` are searched for plugins in order; `limit_s` is the time that each call of a plugin may take.

    With `all_s` its calls take no longer than that together, but for `LEAST_S` of each.
    """

    def __init__(self, bin_dirs: tuple[str, ...], limit_s: float = LIMIT_S, *, all_s: float = 0.0) -> None:
        self.bin_dirs, self.limit_s = bin_dirs, limit_s
        self._until = time.monotonic() + all_s if all_s else 0.0

    def _limit_s(self) -> float:
        left_s = max(self._until - time.monotonic(), LEAST_S) if self._until else self.limit_s
        return min(left_s, self.limit_s)

    def add(
        self, network: Network, call: Call, *, done: Callable[[Document], None], first: Document | None = None
    ) -> Document:
        """ADD by each plugin, but not by the first one if there is its result (`first`); `done` is called with each
        result as soon as there is one. Undo: `delete`.

        Raises NetworkFailed when a plugin fails; the others' results stay for `delete`.
        """
        previous = first
        for plugin in network.plugins[0 if first is None else 1 :]:
            previous = self._add(network, plugin, call=call, previous=previous)
            done(previous)
        return previous or {}

    def add_first(self, network: Network, call: Call) -> Document:
        """ADD by the first plugin alone. Undo: `delete`. Raises NetworkFailed."""
        return self._add(network, network.plugins[0], call=call, previous=None)

    def _add(self, network: Network, plugin: Document, *, call: Call, previous: Document | None) -> Document:
        answer = self._run("ADD", network, plugin=plugin, call=call, previous=previous)
        return protocol.result(answer, _who(plugin, network))

    def delete(
        self, network: Network, call: Call, *, previous: Document | None, done: tuple[int, ...] = (), is_lost: bool
    ) -> dict[int, PodError]:
        """DEL by each plugin but those `done`, in reverse, all of them even if one fails; the number and error of each
        that did.

        When `is_lost`, the devices in the netns only stand for the pod's own. A plugin that they do not please, since
        its rules were lost too, is asked again without a netns, which means that only its leases are to go.
        """
        failures: dict[int, PodError] = {}
        for number, plugin in reversed([*enumerate(network.plugins)]):
            if number in done:
                continue
            try:
                self._run("DEL", network, plugin=plugin, call=call, previous=previous)
            except PodError as error:
                if not is_lost or not self._forgets(network, plugin, call=call, previous=previous):
                    failures[number] = error
        return failures

    def _forgets(self, network: Network, plugin: Document, *, call: Call, previous: Document | None) -> bool:
        try:
            self._run("DEL", network, plugin=plugin, call=call._replace(netns=""), previous=previous)
        except PodError:
            return False
        return True

    def release(self, network: Network, call: Call, *, plugin: Document, previous: Document | None) -> None:
        """DEL by the IPAM plugin that `plugin` would call, which knows leases without a netns. Raises NetworkFailed."""
        kind = plugin["ipam"]["type"]
        env = protocol.environment("DEL", call._replace(netns=""), bin_dirs=self.bin_dirs)
        given = protocol.request(network, plugin, call=call, previous=previous)
        self._exec(f"the IPAM plugin {kind!r} of network {network.name!r}", kind, env=env, given=given)

    def check(self, network: Network, call: Call, *, previous: Document) -> None:
        """CHECK by each plugin, unless the configuration forbids it or its version has none."""
        if network.disable_check or network.version.startswith("0.3"):
            return
        for plugin in network.plugins:
            self._run("CHECK", network, plugin=plugin, call=call, previous=previous)

    def ask(self, verb: str, network: Network, *, plugin: Document, more: Document) -> None:
        """STATUS or GC, with `more` added to the plugin's document. Raises NetworkFailed."""
        env = protocol.bare_environment(verb, bin_dirs=self.bin_dirs)
        given = protocol.bare_request(network, plugin, more=more)
        self._exec(_who(plugin, network), plugin["type"], env=env, given=given)

    def _run(self, verb: str, network: Network, *, plugin: Document, call: Call, previous: Document | None) -> bytes:
        env = protocol.environment(verb, call, bin_dirs=self.bin_dirs)
        given = protocol.request(network, portmap.adapted(plugin), call=call, previous=previous)
        return self._exec(_who(plugin, network), plugin["type"], env=env, given=given)

    def _exec(self, who: str, kind: str, *, env: dict[str, str], given: bytes) -> bytes:
        path, verb = find_plugin(kind, self.bin_dirs), env["CNI_COMMAND"]
        if not path:
            raise PluginGone(f"{who} is not in {' or '.join(self.bin_dirs)}; install it there")
        limit_s = self._limit_s()
        try:
            ended = process.run([path], timeout_s=limit_s, input=given, env=env)
        except TimedOut:
            raise NetworkFailed(f"{who} did not finish {verb} within {limit_s:.3g} s and was killed") from None
        if ended.code != 0:
            reason = protocol.error_text(ended.stdout, ended.stderr, code=ended.code)
            raise NetworkFailed(f"{who} failed at {verb}: {reason}")
        return ended.stdout


def _who(plugin: Document, network: Network) -> str:
    return f"the CNI plugin {plugin['type']!r} of network {network.name!r}"
