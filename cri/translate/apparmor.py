# SPDX-License-Identifier: Apache-2.0
"""Which AppArmor profile confines a container, and its compiled policy for the guest's kernel. Called by
CreateContainer, and by `security` for the name.

A profile by name is what the host's kernel has loaded, as it was compiled for that one, else a file of a directory of
the node's owner, which may be compiled or text. `find` reads files and may run apparmor_parser: not on the event loop.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

from cri.pb import runtime_pb2 as pb
from stage1.errors import BadRequest, KernelError, NotFound, Unsupported, both_ends
from stage1.linux import files, in_root
from stage1.linux.host import which
from stage1.linux.process import run
from stage1.pod.apparmor import DEFAULT, FEATURES, FILE
from stage1.pod.model import Pod

LOADED = "/sys/kernel/security/apparmor/policy/profiles"
"""The directory of the host's kernel with a directory for each profile, which has `name` and, if readable,
`raw_data`.
"""
POLICY_BYTES = 4 << 20
NAME_BYTES = 255
PROFILES = 10_000
COMPILED = b"\x04\x08\x00version\x00"
"""How what a kernel can load begins."""
COMPILE_S = 20.0
COMPILER = "apparmor_parser"
_PARSER_ERROR = "AppArmor parser error"


class Places(NamedTuple):
    """The sources of profiles: the host's kernel, the administrator's files, and the guest's directory with the
    default one.
    """

    directory: str
    guest_dir: str
    loaded: str = LOADED
    compiler: Callable[[], str] = lambda: which(COMPILER)


def profile(given: pb.LinuxContainerSecurityContext) -> str:
    """The name of the container's profile: `DEFAULT` when none is given, as the CRI requires; empty: unconfined. The
    new field wins over the old one. Raises BadRequest for what can't be a name.
    """
    name = given.apparmor_profile
    if given.HasField("apparmor"):
        kinds = {pb.SecurityProfile.RuntimeDefault: "runtime/default", pb.SecurityProfile.Unconfined: "unconfined"}
        reference = given.apparmor.localhost_ref.removeprefix("localhost/")
        name = kinds.get(given.apparmor.profile_type) or f"localhost/{reference}"
    if name in ("", "runtime/default"):
        return "" if given.privileged else DEFAULT
    if name == "unconfined":
        return ""
    kind, _, local = name.partition("/")
    if kind != "localhost" or not _is_name(local):
        raise BadRequest(
            f"the AppArmor profile must be runtime/default, unconfined or localhost/NAME, but it is {name[:100]!r}"
        )
    return local


def _is_name(text: str) -> bool:
    """Names of other namespaces and of several profiles at once are none."""
    return text.isprintable() and 0 < len(text.encode()) <= NAME_BYTES and text[0] != ":" and "//&" not in text


def require(name: str, pod: Pod, *, is_there: bool) -> str:
    """The profile that is applied where the kernel has AppArmor or not: where it has none, the default one is none, nor
    is it in the host's kernel. Raises Unsupported for one by name.
    """
    if name == DEFAULT:
        return name if is_there and not pod.host else ""
    if name and not is_there:
        kernel = "the host's kernel" if pod.host else f"the pod's kernel {pod.kernel or 'default'!r}"
        raise Unsupported(
            f"the AppArmor profile {name!r} can't be applied: {kernel} has no AppArmor; give the pod the annotation"
            " clearpod.io/kernel: stock or the runtime handler clearpod-stock"
        )
    return name


def find(name: str, places: Places) -> bytes:
    """The compiled policy that has the profile. Raises NotFound, BadRequest."""
    if name == DEFAULT:
        return _default(places.guest_dir)
    policy, path = _loaded(name, places.loaded), ""
    if not policy:
        policy, path = _of_file(name, places), _path(name, places)
    if not policy:
        raise NotFound(
            f"there is no AppArmor profile {name!r}: the host's kernel has not loaded it, and {_path(name, places)}"
            " does not exist"
        )
    if len(policy) > POLICY_BYTES:
        raise BadRequest(f"the policy of the AppArmor profile {name!r} has more than {POLICY_BYTES >> 20} MiB")
    if not policy.startswith(COMPILED) or name.encode() + b"\0" not in policy:
        where = f"what {path} has" if path else "what the host's kernel has loaded"
        raise BadRequest(f"{where} as AppArmor profile {name!r} is no policy with a profile of that name")
    return policy


def _default(guest_dir: str) -> bytes:
    try:
        return in_root.read("/", f"{guest_dir}/{FILE}", most=POLICY_BYTES)
    except KernelError:
        raise NotFound(
            f"the guest's kernel has AppArmor, but {guest_dir}/{FILE}, the default profile, can't be read; build it"
            " with `clearpod images build stock`, or ask for the profile unconfined"
        ) from None


def _loaded(name: str, directory: str) -> bytes:
    """Return the policy of a profile that is loaded in the host's kernel; empty when there is none or it is
    not shown.
    """
    try:
        entries = sorted(os.listdir(directory))[:PROFILES]
        return next((_raw(f"{directory}/{one}") for one in entries if _name(f"{directory}/{one}") == name), b"")
    except OSError:
        return b""


def _name(directory: str) -> str:
    with open(f"{directory}/name", "rb") as file:
        return file.read(NAME_BYTES + 1).decode(errors="replace").strip("\n")


def _raw(directory: str) -> bytes:
    with open(f"{directory}/raw_data", "rb") as file:
        return file.read(POLICY_BYTES + 1)


def _path(name: str, places: Places) -> str:
    """The file name of a profile by AppArmor's convention: the path of the program, with dots."""
    return f"{places.directory}/{name.strip('/').replace('/', '.')}"


def _of_file(name: str, places: Places) -> bytes:
    path = _path(name, places)
    try:
        content = in_root.read("/", path, most=POLICY_BYTES + 1)
    except KernelError as error:
        if os.path.lexists(path):
            why = str(error) if isinstance(error, files.NotPlain) else os.strerror(error.errno)
            raise BadRequest(f"the AppArmor profile {path} can't be read: {why}") from None
        return b""
    if len(content) > POLICY_BYTES:
        raise BadRequest(f"the AppArmor profile {path} has more than {POLICY_BYTES >> 20} MiB")
    return content if content.startswith(COMPILED) else _compiled(path, places)


def _compiled(path: str, places: Places) -> bytes:
    """The policy, compiled for the features of the guest's kernel: by default the parser omits what the host's does not
    support.
    """
    compiler, features = places.compiler(), f"{places.guest_dir}/{FEATURES}"
    if not compiler:
        raise BadRequest(
            f"the AppArmor profile {path} is text, and this host has no {COMPILER} to compile it; install Debian's"
            f" apparmor, or put there what `{COMPILER} --skip-kernel-load --stdout` makes of it"
        )
    try:
        in_root.read("/", features, most=POLICY_BYTES)
    except KernelError:
        raise BadRequest(
            f"the AppArmor profile {path} is text, and there is no {features} to compile it for the guest's kernel;"
            " build it with `clearpod images build stock`"
        ) from None
    argv = [compiler, "--skip-kernel-load", "--skip-cache", f"--kernel-features={features}", "--stdout", path]
    made = run(argv, timeout_s=COMPILE_S)
    if made.code:
        output = " ".join((made.stderr or made.stdout).decode(errors="replace").split())
        error = output[max(output.find(_PARSER_ERROR), 0) :]  # warnings are in front
        raise BadRequest(f"the AppArmor profile {path} does not parse: {both_ends(error, 300) or '?'}")
    if not made.stdout:
        raise BadRequest(f"the file {path} has no AppArmor profile in it; write one of that name")
    return made.stdout
