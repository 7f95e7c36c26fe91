# SPDX-License-Identifier: Apache-2.0
"""The steps of a pod's network: record, netns, plugins, taps; and their undoing. Called by the engine.

Each step is recorded before it is made. So `detach` can undo all of them in any process and repeatedly, whichever step
was interrupted by a kill. docs/design/network.md has the reasons.
"""

import threading
from collections.abc import Callable

from stage1.errors import PodError
from stage1.linux import files, namespace
from stage1.net import deferred, neighbours, networks, protocol, record, reservation, tap_links
from stage1.net.lock import AttachLock
from stage1.net.plugins import PluginGone, Runner
from stage1.net.protocol import Document
from stage1.net.record import Attachment, Record
from stage1.net.settings import IFNAME as IFNAME
from stage1.net.settings import Settings as Settings
from stage1.net.settings import netns_path
from stage1.pod.model import Pod
from stage1.pod.network import Interface, PodNetwork

Connect = Callable[[bool], PodNetwork]


TRIES = 3
"""Of StopPodSandbox, before a DEL is deferred (`deferred`). The earlier ones fail, so that people hear of it."""


def attach(
    pod: Pod, directory: str, *, settings: Settings, join: Connect | None = None, with_taps: bool = True
) -> PodNetwork | None:
    """Give the pod the node's network and those that it names; None when there is none. Rolled back when it fails.

    `join` is that of pool_slot, which has made the netns and its tap already, and perhaps (`reservation`) a device;
    then `note` is to follow. Without taps it is for processes in the netns, not a guest.

    Raises:
        BadRequest: the configuration can't be understood, names a plugin that is not there, or lacks a network.
        NetworkFailed: a plugin failed or did not end in time.
    """
    chosen = networks.chosen(pod.networks, settings)
    if not chosen:
        return None
    call = protocol.call_for(pod, netns_path(pod.id), ifname=IFNAME)
    # Host ports, bandwidth and DNS are given for the pod, that is, for its first network.
    rest = (call._replace(ifname=f"eth{number}", runtime={}) for number in range(1, len(chosen)))
    attachments = tuple(map(Attachment, chosen, (call, *rest)))
    connect = join or _usual(with_taps=with_taps, is_free=pod.allow_spoofing)
    return make(directory, attachments, settings=settings, connect=connect, is_pool_slot=join is not None)


def make(
    directory: str,
    attachments: tuple[Attachment, ...],
    *,
    settings: Settings,
    connect: Connect | None = None,
    is_pool_slot: bool = False,
) -> PodNetwork:
    """Give the pod in `directory` a netns, which a pool slot has already, and these networks, in this order. `connect`
    makes the taps; without it each gets one that passes only what is the pod's own.

    Undo: `detach`. Raises as `attach`.
    """
    call = attachments[0].call
    plan = Record(call.netns, settings.bin_dirs, settings.limit_s, attachments, directory=directory)
    files.make_dirs(settings.cache_dir, 0o700)
    path = record.place(settings.cache_dir, call.container)
    with AttachLock():
        try:
            if not is_pool_slot:
                record.link(directory, path)  # first: by it, what is written from now on is found and removed
                record.begin(path, plan)
                namespace.make_net(plan.netns)
                return _fill(path, plan, connect=connect or _usual())

            plan, is_held = reservation.continued(path, plan)
            record.begin(path, plan)
            seen, _ = _called(path, plan, connect=connect or _usual(), is_held=is_held)
            return seen
        except BaseException as error:
            _undo(directory, error)
            raise


def _usual(*, with_taps: bool = True, is_free: bool = False) -> Connect:
    if not with_taps:
        return lambda _: tap_links.as_they_are()
    return lambda _: tap_links.join_all(is_free=is_free)


def _undo(directory: str, error: BaseException) -> None:
    """Roll back; what can't be undone now stays recorded for `detach`, and is noted at the original error."""
    try:
        problem = detach(directory)
    except PodError as second:
        problem = str(second)
    if problem:
        error.add_note(f"and {problem}")


def _fill(path: str, plan: Record, *, connect: Connect) -> PodNetwork:
    seen, made = _called(path, plan, connect=connect)
    _settle(path, made._replace(seen=seen), save=record.save)
    return seen


def _called(path: str, plan: Record, *, connect: Connect, is_held: bool = False) -> tuple[PodNetwork, Record]:
    """Call the plugins and connect; what the pod has, and the record with all results. If the network `is_held`, its
    first plugin was called already.
    """
    runner, made = Runner(plan.bin_dirs, plan.limit_s), plan
    results = []
    for number, one in enumerate(plan.attachments):

        def done(result: Document, number: int = number) -> None:
            nonlocal made
            attachments = list(made.attachments)
            attachments[number] = attachments[number]._replace(result=result)
            made = made._replace(attachments=tuple(attachments))
            record.save(path, made)

        results.append(runner.add(one.network, one.call, done=done, first=one.result))
    with namespace.inside_net(plan.netns):
        seen = _with_results(connect(is_held), results)
    return seen._replace(networks=tuple(one.network.name for one in plan.attachments)), made


def _settle(path: str, known: Record, *, save: Callable[[str, Record], None]) -> None:
    """Write down what the pod has, and only then limit its devices, which `detach_recorded` finds there. A host without
    nf_tables has pods without the limit, and `garbage.networks` reports it.
    """
    save(path, known)
    neighbours.add(neighbours.of(known))


def note(directory: str, seen: PodNetwork) -> None:
    """Write down what `attach` with `join` has returned: needed by `read`, and by a DEL whose netns was lost, so before
    the pod is ready. Raises NoSpace, KernelError.
    """
    path = record.linked(directory)
    known = record.load(path)
    if known:
        _settle(path, known._replace(seen=seen), save=record.settle)


def _with_results(seen: PodNetwork, results: list[Document]) -> PodNetwork:
    """The addresses as the plugins reported them, else as they are; DNS of the first network that has some."""
    reported = _addresses([protocol.ips(result) for result in results])
    there = [address.partition("/")[0] for one in seen.interfaces for address in one.addresses]
    servers, searches, options = next((dns for dns in map(protocol.dns, results) if any(dns)), ((), (), ()))
    ips = tuple(dict.fromkeys(reported or there))
    return seen._replace(ips=ips, dns_servers=servers, dns_searches=searches, dns_options=options)


def _addresses(reported: list[tuple[str, ...]]) -> list[str]:
    """The first network's first. One of a family that the first network lacks is left out: kubelet takes the first of
    each family for an address of the pod in the cluster.
    """
    first, *others = reported
    families = {":" in address for address in first}
    return [*first, *(a for addresses in others for a in addresses if not first or (":" in a) in families)]


def read(directory: str) -> PodNetwork | None:
    """The network of the pod in `directory`, from its record; None when it has none."""
    path = record.linked(directory)
    known = record.load(path) if path else None
    return known.seen if known else None


def check(directory: str) -> None:
    """CHECK by all plugins: whether the pod's network is still as they made it. Raises NetworkFailed when one finds a
    difference.

    Only on request: portmap 1.1 fails for every pod with addresses of both families.
    """
    path = record.linked(directory)
    known = record.load(path) if path else None
    for one in known.attachments if known else ():
        if known and one.result is not None:
            Runner(known.bin_dirs, known.limit_s).check(one.network, one.call, previous=one.result)


def detach(directory: str, *, tries: int = 1, is_cut: bool = False, all_s: float = 0.0) -> str:
    """DEL by all plugins, then the netns with its taps, then the record; idempotent. The VM has ended, or `is_cut` off
    first: the next owner of its addresses must get none of its packets. Raises NetworkFailed when that is not possible.

    When a plugin fails at DEL for the `tries`-th time, the pod is detached all the same and its DEL deferred: then this
    returns a sentence about it. Before that it raises NetworkFailed, and another call tries again. `all_s` is as in
    Runner.
    """
    path, problem = record.linked(directory), ""
    if not path:
        return problem
    netns = netns_path(record.pod_of(path))
    if (had_netns := namespace.is_net(netns)) and is_cut:
        with namespace.inside_net(netns):
            tap_links.cut_all()
    try:
        detach_recorded(path, all_s=all_s)
    except PodError as error:
        problem = deferred.defer(path, error, tries=tries, had_netns=had_netns)
    record.forget(f"{directory}/{record.LINK}")
    return problem


def detach_recorded(path: str, *, all_s: float = 0.0) -> None:
    """Like `detach`, from the record alone: for deferred DELs, and pods whose directory did not survive a reboot.
    Raises NetworkFailed if a plugin fails at DEL.
    """
    known = record.load_first(path)
    if known is not None:
        wait_for_removal = _begin(lambda: neighbours.remove(neighbours.of(known)))
        try:
            _delete_all(path, known, all_s=all_s)
        finally:
            wait_for_removal()
        # From here on there is nothing that a stand-in could help to remove. If that can't be written, the next
        # call makes one in vain.
        record.try_to_save(path, known._replace(attachments=()))
        namespace.remove_net(known.netns)
    record.forget(path)


def _begin(function: Callable[[], None]) -> Callable[[], None]:
    """Call it beside what follows, or now where there can be no more threads; returns what waits for its end."""
    thread = threading.Thread(target=function, name="detach")
    try:
        thread.start()
    except RuntimeError:
        function()
        return lambda: None
    return thread.join


def _delete_all(path: str, known: Record, *, all_s: float) -> None:
    runner = Runner(known.bin_dirs, known.limit_s, all_s=all_s)
    is_there, is_lost = _stand_in(known) if known.attachments else (True, False)
    failures: list[PodError] = []
    attachments = list(known.attachments)
    for at, one in reversed([*enumerate(attachments)]):
        call = one.call if is_there else one.call._replace(netns="")
        failed = runner.delete(one.network, call, previous=one.result, done=one.deleted, is_lost=is_lost)
        attachments[at] = one._replace(deleted=tuple(n for n in range(len(one.network.plugins)) if n not in failed))
        failures += failed.values()
    if failures:
        record.try_to_save(path, known._replace(attachments=tuple(attachments)))
        raise min(failures, key=lambda failure: isinstance(failure, PluginGone))


def _stand_in(known: Record) -> tuple[bool, bool]:
    """Whether there is a netns for DEL, and whether something in it is not the pod's own.

    What was lost is replaced by devices with the same addresses: without them plugins would not find the addresses
    whose rules they must remove. A DEL that failed may have removed some already.
    """
    is_there = namespace.is_net(known.netns)
    lost = _lost_devices(known)
    if is_there and not known.failures:
        return True, False
    if not is_there and not lost:
        return False, False
    if not is_there:
        namespace.remove_net(known.netns)
        namespace.make_net(known.netns)
    with namespace.inside_net(known.netns):
        return True, tap_links.stand_in(lost)


def _lost_devices(known: Record) -> tuple[Interface, ...]:
    """The devices as they were observed, else those of the results of ADD."""
    if known.seen:
        return known.seen.interfaces
    results = ((one.call.ifname, one.result) for one in known.attachments if one.result is not None)
    return tuple(Interface(name, "", addresses=protocol.addresses(result)) for name, result in results)
