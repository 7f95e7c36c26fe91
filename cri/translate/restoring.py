# SPDX-License-Identifier: Apache-2.0
"""Whether the containers that RestorePod requests are those of a checkpoint. Pure.

A process is what is in its memory: image, command, environment and user must equal the checkpoint's, and are refused
otherwise. Labels, mounts, limits and the log are the new pod's.
"""

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import DecodeError

from cri.pb import runtime_pb2 as pb
from cri.store.checkpoints import Manifest
from stage1.errors import BadRequest, WrongState

_SHOWN = 400
"""Characters of names in a sentence."""
_FIELDS = ("command", "args", "working_dir", "envs", "stdin", "stdin_once", "tty")
_USER = ("run_as_user", "run_as_group", "run_as_username", "supplemental_groups")


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
    """The first field in which they are not the same process; empty when they are."""
    users = former.linux.security_context, config.linux.security_context
    pairs: list[tuple[str, Any, Any]] = [(name, former, config) for name in _FIELDS]
    pairs += [(name, *users) for name in _USER]
    return next((name for name, was, now in pairs if getattr(was, name) != getattr(now, name)), "")
