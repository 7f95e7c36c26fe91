# SPDX-License-Identifier: Apache-2.0
"""What a plugin wants of a container that is about to be made, checked and put into its record. Used by `hub`, in a
thread: it looks at the host's files, as a request's mounts do.

The one boundary for a plugin's wishes: they are held to the bounds of a request of kubelet's, and what a virtual
machine can't follow is refused by its name. Nothing of a wish is in force when another part of it is refused.
"""

from collections.abc import Iterator

from cri.nri import amounts, shown
from cri.nri.amounts import Claims
from cri.pb import nri_pb2 as nri
from cri.pb import runtime_pb2 as pb
from cri.store.pods import ContainerRecord, PodRecord
from cri.translate import bounds, container, limits, mounts, resources
from stage1.errors import BadRequest, PodError, Unsupported

KNOWN = ("annotations", "mounts", "env", "args", "linux")
KNOWN_LINUX = ("resources", "oom_score_adj")
PROPAGATION = {
    "private": pb.PROPAGATION_PRIVATE,
    "rprivate": pb.PROPAGATION_PRIVATE,
    "slave": pb.PROPAGATION_HOST_TO_CONTAINER,
    "rslave": pb.PROPAGATION_HOST_TO_CONTAINER,
}


def adjusted(
    record: ContainerRecord, wish: nri.ContainerAdjustment, *, title: str, claims: Claims, pod: PodRecord
) -> ContainerRecord:
    """The record with what the plugin `title` wants; `claims` have what others wanted, and take in its wishes.

    Raises Unsupported, BadRequest, NotFound; the message names the plugin, whose fault it is.
    """
    who = f"the NRI plugin {title} sets"
    amounts.require_known(wish, KNOWN, who=who, where="")
    amounts.require_known(wish.linux, KNOWN_LINUX, who=who, where="linux")
    amounts.claim(claims, _fields(wish), title=title)
    try:
        record = _with_annotations(record, wish)
        record = _with_process(record, wish)
        record = _with_mounts(record, wish, pod=pod)
        return _with_resources(record, wish, pod=pod, who=who)
    except (Unsupported, BadRequest) as error:
        reason = str(error)
        raise type(error)(reason if reason.startswith(who) else f"{who} something invalid: {reason}") from None
    except PodError as error:
        raise BadRequest(f"{who} something invalid: {error}") from None


def _fields(wish: nri.ContainerAdjustment) -> Iterator[tuple[int, str]]:
    """The fields that it sets; a removal does not claim a field."""
    for field, keys in (
        (nri.Annotations, list(wish.annotations)),
        (nri.Env, [one.key for one in wish.env]),
        (nri.Mounts, [one.destination for one in wish.mounts]),
    ):
        yield from ((field, key) for key in keys if not _is_removal(key))
    if wish.args:
        yield nri.Args, ""
    if wish.linux.HasField("oom_score_adj"):
        yield nri.OomScoreAdj, ""
    yield from amounts.fields(wish.linux.resources)


def _is_removal(key: str) -> bool:
    """NRI's mark: a minus before the name of what is to go."""
    return key.startswith("-")


def _with_annotations(record: ContainerRecord, wish: nri.ContainerAdjustment) -> ContainerRecord:
    if not wish.annotations:
        return record
    config = pb.ContainerConfig.FromString(record.config)
    for key in filter(_is_removal, wish.annotations):
        config.annotations.pop(key[1:], None)
    for key, value in wish.annotations.items():
        if not _is_removal(key):
            config.annotations[key] = value
    bounds.check(pb.ContainerConfig(annotations=config.annotations, labels=config.labels))
    return record._replace(config=config.SerializeToString())


def _with_process(record: ContainerRecord, wish: nri.ContainerAdjustment) -> ContainerRecord:
    """The record with the plugin's variables and arguments. An empty first argument marks a deliberate replacement of
    another plugin's arguments.
    """
    process = record.container.process
    env = dict(one.partition("=")[::2] for one in process.env)
    for pair in wish.env:
        if _is_removal(pair.key):
            env.pop(pair.key[1:], None)
    env |= {pair.key: pair.value for pair in wish.env if not _is_removal(pair.key)}
    argv = tuple(wish.args[1:] if wish.args and not wish.args[0] else wish.args) or process.argv
    pairs = [pb.KeyValue(key=key, value=value.encode(errors="surrogatepass")) for key, value in env.items()]
    asked = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="container"), command=map(shown.text, argv), envs=pairs
    )
    if wish.env or wish.args:
        bounds.check(asked)
        container.check(asked)
    made = process._replace(argv=argv, env=tuple(f"{key}={value}" for key, value in env.items()))
    return record._replace(container=record.container._replace(process=made))


def _with_mounts(record: ContainerRecord, wish: nri.ContainerAdjustment, *, pod: PodRecord) -> ContainerRecord:
    """The status echoes the request's mounts by their position, so that one that goes must go there too."""
    if not wish.mounts:
        return record
    requested = [_as_request(one) for one in wish.mounts if not _is_removal(one.destination)]
    bounds.check(pb.ContainerConfig(mounts=requested))
    made = tuple(mounts.mount(one, {}, pod_ids=pod.pod.ids) for one in requested)
    if not pod.pod.host:
        mounts.require_no_devices(made)
    gone = {mounts.target(one.destination[1:]) for one in wish.mounts if _is_removal(one.destination)}
    gone |= {one.target for one in made}
    old = record.container.mounts
    config = pb.ContainerConfig.FromString(record.config)
    kept = [one for one, own in zip(config.mounts, old, strict=False) if own.target not in gone]
    del config.mounts[:]
    config.mounts.extend(kept)
    rest = tuple(one for one in old if one.target not in gone)
    places = {one.target for one in made}
    volumes = tuple(path for path in record.container.volumes if path not in places)  # the image's own
    own = record.container._replace(mounts=(*rest, *made), volumes=volumes)
    return record._replace(container=own, config=config.SerializeToString())


def _as_request(given: nri.Mount) -> pb.Mount:
    """A mount in the words of the CRI. Raises Unsupported for one that is no volume of the host's."""
    where = given.destination
    is_bind = given.type in ("", shown.BIND, "none")
    if not is_bind:
        raise Unsupported(
            f"the mount {bounds.short(where)} is of type {bounds.short(given.type)}; only bind is supported"
        )
    made = pb.Mount(container_path=where, host_path=given.source)
    for option in given.options:
        if option in PROPAGATION:
            made.propagation = PROPAGATION[option]
        elif option in ("ro", "rw"):
            made.readonly = option == "ro"
        elif option in mounts.OPTIONS:
            made.mount_options.append(option)
        elif option not in ("bind", "rbind"):
            raise Unsupported(
                f"the mount {bounds.short(where)} has the option {bounds.short(option)}, which is not supported"
            )
    return made


def _with_resources(
    record: ContainerRecord, wish: nri.ContainerAdjustment, *, pod: PodRecord, who: str
) -> ContainerRecord:
    given = amounts.to_cri(wish.linux.resources, who=who)
    given.oom_score_adj = wish.linux.oom_score_adj.value if _is_int32(wish.linux.oom_score_adj.value) else 1 << 30
    if not given.ByteSize():
        return record
    limits.check(given)
    changed = resources.updated_container(record, given, pod=pod.pod)
    asked = pb.ContainerConfig.FromString(changed.config).linux.resources
    limits.check(asked)
    own = changed.container._replace(limits=limits.of_container(asked, pod.pod))
    return changed._replace(container=own)


def _is_int32(value: int) -> bool:
    return -(1 << 31) <= value < 1 << 31
