# SPDX-License-Identifier: Apache-2.0
"""LinuxContainerSecurityContext -> Security, and its user -> User. Called by `container`. Pure but for reading a
Localhost seccomp profile (`seccomp`). docs/user/security.md describes the same for operators.
"""

from collections.abc import Iterable

from cri.pb import runtime_pb2 as pb
from cri.translate import apparmor, seccomp
from stage1.errors import BadRequest
from stage1.pod import oci, users
from stage1.pod.model import HOST_NAMESPACES, Security, User


def security(config: pb.ContainerConfig, sandbox: pb.PodSandboxConfig) -> Security:
    """The confinement of the container. Raises BadRequest, NotFound or Unsupported."""
    given = config.linux.security_context
    is_given = config.linux.HasField("security_context")
    if given.privileged and not sandbox.linux.security_context.privileged:
        raise BadRequest("a privileged container needs a privileged sandbox")
    apparmor.profile(given)  # which of them is applied is for `apparmor.require`, when the guest's kernel is known
    options = sandbox.linux.security_context.namespace_options
    check_namespaces(given.namespace_options, who="container", allowed=host_namespaces(options))
    masks: tuple[tuple[str, ...], tuple[str, ...]] = (oci.MASKED, oci.READONLY)
    if is_given:
        masks = (
            _check_paths(given.masked_paths, what="masked_paths"),
            _check_paths(given.readonly_paths, what="readonly_paths"),
        )
    if given.privileged:
        masks = ((), ())
    # No message at all is unconfined: the kubelet always sends one, RuntimeDefault where its seccompDefault is set.
    is_confined = given.HasField("seccomp") and not given.privileged
    return Security(
        privileged=given.privileged,
        no_new_privs=given.no_new_privs,
        read_only_root=given.readonly_rootfs,
        add_capabilities=_capabilities(given.capabilities.add_capabilities),
        drop_capabilities=_capabilities(given.capabilities.drop_capabilities),
        ambient_capabilities=_capabilities(given.capabilities.add_ambient_capabilities),
        masked_paths=masks[0],
        readonly_paths=masks[1],
        seccomp=seccomp.profile(given.seccomp) if is_confined else "",
        pid_namespace=_pid_namespace(given.namespace_options),
    )


def user(config: pb.ContainerConfig, image_user: str, *, passwd: str, group: str) -> User:
    """The container's user: the request's, else the image's `User`. Raises BadRequest."""
    given = config.linux.security_context
    name = str(given.run_as_user.value) if given.HasField("run_as_user") else given.run_as_username
    if given.HasField("run_as_group") and not name:
        raise BadRequest("run_as_group needs run_as_user or run_as_username")
    extra = tuple(given.supplemental_groups)
    for what, number in (
        ("run_as_user", given.run_as_user.value),
        ("run_as_group", given.run_as_group.value),
        *(("supplemental_groups", group) for group in extra),
    ):
        if not 0 <= number <= users.MAX_ID:
            raise BadRequest(f"{what} must be a number from 0 to {users.MAX_ID}, but it is {number}")
    merge = given.supplemental_groups_policy != pb.Strict
    resolved = users.resolve(name or image_user, passwd=passwd, group=group, extra=extra, merge=merge)
    if given.HasField("run_as_group"):
        gid = given.run_as_group.value
        return resolved._replace(gid=gid, groups=tuple(g for g in resolved.groups if g != gid))
    return resolved


def _capabilities(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name.upper() if name.upper().startswith("CAP_") else f"CAP_{name.upper()}" for name in names)


def _pid_namespace(options: pb.NamespaceOption) -> str:
    if options.pid == pb.TARGET:
        if not options.target_id:
            raise BadRequest("namespace_options.pid is TARGET, but target_id is empty")
        return f"target:{options.target_id}"
    return {pb.POD: "pod", pb.CONTAINER: "container", pb.NODE: "node"}[options.pid]


def host_namespaces(options: pb.NamespaceOption) -> tuple[str, ...]:
    """Return the names of the host's namespaces that are asked for."""
    return tuple(name for name in HOST_NAMESPACES if getattr(options, name) == pb.NODE)


def check_namespaces(options: pb.NamespaceOption, *, who: str, allowed: tuple[str, ...]) -> None:
    """A VM has no namespaces of the host to give: only those in `allowed` are given, to a pod without a VM. User
    namespaces are `userns`' matter. Raises BadRequest.
    """
    why = "its sandbox does not" if who == "container" else "host_pods.allow in clearpod's configuration leaves it out"
    for name in HOST_NAMESPACES:
        mode = getattr(options, name)
        if mode == pb.NODE and name not in allowed:
            raise BadRequest(
                f"the {who} asks for the host's {name} namespace, which a pod in its own VM can't have, and {why}"
            )
        if mode not in pb.NamespaceMode.values():
            raise BadRequest(f"namespace_options.{name} of the {who} is {mode}, which is not a known mode")


def _check_paths(paths: Iterable[str], *, what: str) -> tuple[str, ...]:
    for path in (given := tuple(paths)):
        if not path.startswith("/") or "\0" in path:
            raise BadRequest(f"{what} must be absolute, but has {path!r}")
    return given
