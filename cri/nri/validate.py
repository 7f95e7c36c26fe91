# SPDX-License-Identifier: Apache-2.0
"""Passes the combined adjustments of a new container to plugins that validate them. Used by `hub`. A validator that
fails or does not answer has rejected them: its owner relies on it.
"""

from collections.abc import Iterable

from cri.nri import calls
from cri.nri.amounts import Claims
from cri.nri.plugin import Plugin
from cri.pb import nri_pb2 as nri
from stage1.errors import WrongState

METHOD = "ValidateContainerAdjustment"


class Wishes:
    """Gathered while the plugins are asked; `about` is the container as it was asked for."""

    def __init__(self, about: nri.ContainerRequest) -> None:
        self._all = nri.ValidateContainerAdjustmentRequest(pod=about.pod, container=about.container)

    def consulted(self, plugin: Plugin) -> None:
        """Note that this plugin was consulted."""
        index, _, name = plugin.title.partition("-")
        self._all.plugins.add(name=name, index=index)

    def take(self, answer: nri.CreateContainerResponse) -> None:
        """Take in the plugin's answer."""
        self._all.adjust.MergeFrom(answer.adjust)
        self._all.update.MergeFrom(answer.update)

    async def validate(self, plugins: Iterable[Plugin], claims: Claims, *, what: str) -> None:
        """Raise WrongState when one of those that validate rejects."""
        for plugin in [one for one in plugins if one.takes(METHOD)]:
            self._all.owners.CopyFrom(_owners(self._all.container.id, claims))
            answer = await plugin.ask(METHOD, self._all, what=what)
            if answer is None:
                raise WrongState(f"the NRI plugin {plugin.title}, which validates {what}, has disconnected; retry")
            if answer.reject:
                why = calls.shortened(answer.reason)
                raise WrongState(f"the NRI plugin {plugin.title} rejects the adjustments of {what}: {why}")


def _owners(container: str, claims: Claims) -> nri.OwningPlugins:
    made = nri.OwningPlugins()
    fields = made.owners[container]
    for (field, part), title in claims.items():
        if part:
            fields.compound[field].owners[part] = title
        else:
            fields.simple[field] = title
    return made
