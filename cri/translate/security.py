# SPDX-License-Identifier: Apache-2.0
"""LinuxContainerSecurityContext -> Security, and its user -> User. Called by `container`. Contract section 5.
Pure but for reading a Localhost seccomp profile.
"""

import json
from collections.abc import Iterable

from cri.pb import runtime_pb2 as pb
from stage1.errors import BadRequest, NotFound, Unsupported
from stage1.pod import oci, users
from stage1.pod.model import Security, User

PROFILE_BYTES = 1 << 20


def security(config: pb.ContainerConfig, sandbox: pb.PodSandboxConfig) -> Security:
    """What confines the container. Raises BadRequest, NotFound or Unsupported."""
    given = config.linux.security_context
    is_given = config.linux.HasField("security_context")
    if given.privileged and not sandbox.linux.security_context.privileged:
        raise BadRequest("a privileged container needs a privileged sandbox")
    _check_apparmor(given)
    masks = (tuple(given.masked_paths), tuple(given.readonly_paths)) if is_given else (oci.MASKED, oci.READONLY)
    if given.privileged:
        masks = ((), ())
    return Security(
        privileged=given.privileged,
        no_new_privs=given.no_new_privs,
        read_only_root=given.readonly_rootfs,
        add_capabilities=_capabilities(given.capabilities.add_capabilities),
        drop_capabilities=_capabilities(given.capabilities.drop_capabilities),
        ambient_capabilities=_capabilities(given.capabilities.add_ambient_capabilities),
        masked_paths=masks[0],
        readonly_paths=masks[1],
        seccomp="" if given.privileged else _seccomp(given),
        pid_namespace=_pid_namespace(given.namespace_options),
    )


def user(config: pb.ContainerConfig, image_user: str, *, passwd: str, group: str) -> User:
    """Who the container runs as: the request, else the image's `User`. Raises BadRequest."""
    given = config.linux.security_context
    name = str(given.run_as_user.value) if given.HasField("run_as_user") else given.run_as_username
    if given.HasField("run_as_group") and not name:
        raise BadRequest("run_as_group needs run_as_user or run_as_username")
    if given.HasField("run_as_user") and given.run_as_user.value < 0:
        raise BadRequest(f"run_as_user must not be negative, but it is {given.run_as_user.value}")
    extra = tuple(given.supplemental_groups)
    if any(number < 0 for number in extra):
        raise BadRequest("supplemental_groups must not be negative")
    merge = given.supplemental_groups_policy != pb.Strict
    found = users.resolve(name or image_user, passwd=passwd, group=group, extra=extra, merge=merge)
    if given.HasField("run_as_group"):
        gid = given.run_as_group.value
        return found._replace(gid=gid, groups=tuple(g for g in found.groups if g != gid))
    return found


def _capabilities(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name.upper() if name.upper().startswith("CAP_") else f"CAP_{name.upper()}" for name in names)


def _pid_namespace(options: pb.NamespaceOption) -> str:
    if options.pid == pb.TARGET:
        if not options.target_id:
            raise BadRequest("namespace_options.pid is TARGET, but target_id is empty")
        return f"target:{options.target_id}"
    return {pb.POD: "pod", pb.CONTAINER: "container", pb.NODE: "node"}[options.pid]


def _check_apparmor(given: pb.LinuxContainerSecurityContext) -> None:
    name = given.apparmor_profile
    if given.HasField("apparmor"):
        name = given.apparmor.localhost_ref if given.apparmor.profile_type == pb.SecurityProfile.Localhost else ""
    if name and name not in ("runtime/default", "unconfined"):
        raise Unsupported(f"the AppArmor profile {name!r} can't be used: the guest's kernel has no AppArmor")


def _seccomp(given: pb.LinuxContainerSecurityContext) -> str:
    """OCI linux.seccomp as JSON text; empty is unconfined."""
    if not given.HasField("seccomp") or given.seccomp.profile_type == pb.SecurityProfile.Unconfined:
        return ""
    if given.seccomp.profile_type == pb.SecurityProfile.RuntimeDefault:
        raise Unsupported(
            "the seccomp profile RuntimeDefault is not offered yet; use Unconfined or a Localhost profile"
        )
    path = given.seccomp.localhost_ref
    if not path.startswith("/"):
        raise BadRequest(f"seccomp.localhost_ref must be an absolute path, but it is {path!r}")
    try:
        with open(path, encoding="utf-8") as opened:
            return json.dumps(_oci_profile(json.loads(opened.read(PROFILE_BYTES))))
    except OSError as error:
        raise NotFound(f"the seccomp profile {path} can't be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadRequest(f"the seccomp profile {path} is not one: {error}") from None


def _oci_profile(profile: dict[str, object]) -> dict[str, object]:
    """The OCI form of a profile in Docker's style: what crun knows of it."""
    calls = profile.get("syscalls") or []
    if not isinstance(calls, list) or "defaultAction" not in profile:
        raise ValueError("defaultAction or syscalls is missing")
    keys = ("names", "action", "args", "errnoRet")
    kept = {
        key: profile[key] for key in ("defaultAction", "defaultErrnoRet", "architectures", "flags") if profile.get(key)
    }
    return kept | {"syscalls": [{key: call[key] for key in keys if call.get(key) is not None} for call in calls]}
