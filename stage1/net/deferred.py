# SPDX-License-Identifier: Apache-2.0
"""Deferred DELs: when a network can't be removed, fail a few times, then detach the pod all the same and retry later.

Called by attach when DEL fails. The pod's record is kept without the pod; the daemon retries it at its start and once a
minute, so nothing leaks and no pod hangs. It must not run plugins.
"""

from stage1.errors import Exhausted, PodError
from stage1.linux import namespace
from stage1.net import record
from stage1.net.plugins import PluginGone
from stage1.net.settings import netns_path


def defer(path: str, error: PodError, *, tries: int, had_netns: bool) -> str:
    """Defer the DEL of the record at `path` and return a sentence about it; or raise `error` while a retry is useful.

    An immediate retry is useless when the plugin is missing, or the netns was lost and a stand-in did not help. When
    the host had no process or descriptor for it, nothing was tried.
    """
    if isinstance(error, Exhausted):
        raise error
    pod_id, known = record.pod_of(path), _load(path)
    if known is None:
        namespace.remove_net(netns_path(pod_id))
        left = f"devices and rules of CNI plugins for pod {pod_id} may be left on the host"
        return f"{left}; see {path}, remove them and that file: {error}"
    failures = known.failures + 1
    is_hopeless = isinstance(error, PluginGone) or not had_netns
    is_deferred = known.is_deferred or is_hopeless or failures >= tries
    # On a full disk the tries can't be counted, and it is deferred at once: the record stays.
    is_counted = record.try_to_save(path, known._replace(failures=failures, is_deferred=is_deferred))
    if is_counted and not is_deferred:
        raise error
    namespace.remove_net(known.netns)
    return f"the network of pod {pod_id} could not be released and is retried later: {error}"


def _load(path: str) -> record.Record | None:
    try:
        return record.load_first(path)
    except PodError:
        return None


def is_deferred(path: str) -> bool:
    """Whether the DEL of the record at `path` is deferred."""
    known = _load(path)
    return known is not None and known.is_deferred
