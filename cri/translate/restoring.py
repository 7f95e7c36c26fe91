# SPDX-License-Identifier: Apache-2.0
"""Whether the containers that RestorePod requests are those of a checkpoint. Pure.

A process is what is in its memory: command and environment must equal the checkpoint's, and are refused otherwise. What
else must be the same, for copies of all kinds, `cri.containers.claim` compares.
"""

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from cri.pb import runtime_pb2 as pb
from cri.store.checkpoints import Manifest
from stage1.errors import BadRequest, WrongState

_SHOWN = 400
"""Characters of names in a sentence."""
_FIELDS = ("command", "args", "envs")


def check(manifest: Manifest, configs: Sequence[pb.ContainerConfig]) -> None:
    """Raise BadRequest unless each container of the checkpoint is there once, by its name; WrongState when one is
    expected to be another process.
    """
    names = [one.metadata.name for one in configs]
    known = {one.name: one for one in manifest.containers}
    if not names or len(set(names)) < len(names) or set(names) != set(known):
        raise BadRequest(
            f"the checkpoint has the containers {', '.join(sorted(known))[:_SHOWN]}, and the configurations are of "
            f"{', '.join(sorted(names))[:_SHOWN] or 'none'}; give one for each"
        )
    for config in configs:
        try:
            former = pb.ContainerConfig.FromString(known[config.metadata.name].config)
        except DecodeError:
            raise BadRequest(
                f"the configuration of container {config.metadata.name} in the checkpoint can't be understood; take "
                "another checkpoint"
            ) from None
        if other := _difference(former, config):
            raise WrongState(
                f"container {config.metadata.name} of the checkpoint has another {other} than is asked for; it goes on "
                "with what it has, so ask for that"
            )


def _difference(former: pb.ContainerConfig, config: pb.ContainerConfig) -> str:
    """The first field in which they are not the same program; empty when they are."""
    return next((name for name in _FIELDS if getattr(former, name) != getattr(config, name)), "")
