# SPDX-License-Identifier: Apache-2.0
"""Runs skopeo and explains its failures. Called by the pull only.

skopeo is killed when this process or the waiting coroutine ends (even by SIGKILL). Its files belong to the caller. It
has the network, but no capability, no other process, and no writable directory but the pull's own: see `sandbox`.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal

from cri.image.registries import Auth
from stage1.errors import BadRequest, NoSpace, NotFound, PodError, Unavailable, both_ends
from stage1.linux import sandbox
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.limits import Limits, refusal

log = logging.getLogger("clearpod.pull")

_INSPECT_TIMEOUT, _COPY_TIMEOUT = "60s", "60m"
_LOG_BYTES = 65536
_MEMORY_BYTES, _CPU_S = 2 << 30, 3600
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables with further paths of the authorities' certificates."""
_WRITES = f"{sandbox.WRITE},refer,make-sym"


class RegistryUnavailable(Unavailable):
    """kubelet reads the prefix of the message, and reads messages of UNKNOWN only."""

    grpc_code, noted_code = "UNKNOWN", "UNAVAILABLE"

    def __init__(self, sentence: str) -> None:
        super().__init__(f"RegistryUnavailable: {sentence}")


class Misled(RegistryUnavailable):
    """A registry leads to another host, which does not give what it should. What that answers is in no error: whoever
    names the image may not be allowed to ask that host.
    """

    def __init__(self, image: str, host: str) -> None:
        shown = host[:100] if host.isprintable() else "another host"
        super().__init__(
            f"the registry of {image} leads to {shown}, which does not give what is asked for; report it to the "
            "registry's operator"
        )


class LoginNeeded(PodError):
    """The registry refuses the image, with and without credentials."""

    grpc_code = "UNAUTHENTICATED"


class Skopeo:
    """skopeo with the files of one pull in `work_dir`: registries.conf, auth.json, tmp/.

    `archive` is a file that it reads; it then has no network.
    """

    def __init__(self, work_dir: str, *, name: str, limits: Limits, archive: str = "") -> None:
        self._work_dir, self._name, self._limits = work_dir, name, limits
        self._common = ["--insecure-policy", "--tmpdir", work_dir]
        self._auth = []
        if os.path.exists(f"{work_dir}/registries.conf"):
            self._common += ["--registries-conf", f"{work_dir}/registries.conf"]
            self._auth = ["--authfile", f"{work_dir}/auth.json"]
        certificates = [(os.environ[name], sandbox.READ) for name in _CERTIFICATES if os.environ.get(name)]
        self._box = sandbox.Box(
            _MEMORY_BYTES,
            _CPU_S,
            limits.image_mib << 20,
            work_dir,
            (
                (work_dir, _WRITES),
                *sandbox.NETWORK_PLACES,
                *certificates,
                *([(archive, "read-file")] if archive else []),
            ),
            network=not archive,
            reserves=True,
            sockets=True,
            # An archive may belong to another user.
            keeps=("dac_read_search",) if archive else (),
        )

    async def inspect(self, source: str, *, config: bool = False) -> bytes:
        """The manifest or index that `source` names, or the config of the image, byte for byte. Raises OverLimit."""
        options = ["--raw", *(["--config"] if config else []), *self._auth]
        key = "config_kib" if config else "manifest_kib"
        most = self._limits.config_kib if config else self._limits.manifest_kib
        out = await self._run(["--command-timeout", _INSPECT_TIMEOUT, "inspect", *options, source], most << 10)
        if len(out) > most << 10:
            what = "config" if config else "manifest"
            raise refusal(f"the {what} of {self._name} has more than {most << 10} bytes", key=key, cap=most)
        return out

    async def copy(self, source: str, layout: str, *, blobs: str) -> None:
        """Copy an image into a new OCI layout, its blobs into `blobs`; those that are there by name are
        not fetched.
        """
        options = ["-q", "--preserve-digests", *(["--src-authfile", self._auth[1]] if self._auth else [])]
        target = ["--dest-shared-blob-dir", blobs, source, f"oci:{layout}:image"]
        await self._run(["--command-timeout", _COPY_TIMEOUT, "copy", *options, *target], _LOG_BYTES)

    async def log_in(self, registry: str, auth: Auth) -> None:
        """Have the registry check the credentials. They are on this process's way to skopeo only, and in its file in
        the pull's directory. Raises LoginNeeded, RegistryUnavailable.
        """
        options = [
            "login",
            "--authfile",
            f"{self._work_dir}/auth.json",
            "--username",
            auth.username,
            "--password-stdin",
        ]
        try:
            await self._run([*options, registry], _LOG_BYTES, given=auth.password.encode())
        except LoginNeeded:
            raise LoginNeeded(f"the registry {self._name} does not take this user name with this password") from None

    async def _run(self, arguments: list[str], most_bytes: int, *, given: bytes = b"") -> bytes:
        """Return its output; slightly more than `most_bytes` if it writes more, and then it is killed. `given` is its
        input.
        """
        means = await asyncio.to_thread(sandbox.means)
        argv = [*sandbox.command(self._box, means), "skopeo", *self._common, *arguments]
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=pipe if given else asyncio.subprocess.DEVNULL,
                stdout=pipe,
                stderr=pipe,
                start_new_session=True,
                env=os.environ | {"HOME": self._box.directory, "TMPDIR": self._box.directory},
            )
        except FileNotFoundError:
            raise NotFound("there is no setpriv program; install util-linux") from None
        assert process.stdout and process.stderr
        if process.stdin:
            process.stdin.write(given)
            process.stdin.close()
        log = asyncio.create_task(_tail(process.stderr))
        try:
            out = await _head(process.stdout, most_bytes)
            if len(out) > most_bytes:
                return out
            err = await log
            await process.wait()
        finally:
            await kill_group(process)
            log.cancel()
        if process.returncode == 0:
            return out
        raise explain(err.decode("utf-8", "replace"), process.returncode or 0, name=self._name, is_local=not self._auth)


async def kill_group(process: asyncio.subprocess.Process) -> None:
    """Kill the process and its group, reap it, and close its pipes. Another task reads its stderr. Idempotent.

    What it still had written is read: asyncio's wait() returns only when all pipes are at their end, and a stream that
    is full is not read any further on its own. Pipes of one that has ended may be open nevertheless.
    """
    try:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            while process.stdout and await process.stdout.read(65536):
                pass
            await process.wait()
    finally:  # also when the loop ends meanwhile, which cancels everything
        process._transport.close()  # type: ignore[attr-defined]  # asyncio has no other way
    await asyncio.sleep(0)  # that is when it closes them


async def _head(stream: asyncio.StreamReader, most_bytes: int) -> bytes:
    output = bytearray()
    while len(output) <= most_bytes and (data := await stream.read(65536)):
        output += data
    return bytes(output)


async def _tail(stream: asyncio.StreamReader) -> bytes:
    output = bytearray()
    while data := await stream.read(65536):
        output += data
        del output[:-_LOG_BYTES]
    return bytes(output)


_NOT_THERE = re.compile(
    "manifest unknown|name unknown|StatusCode: 404|no descriptor found|more than one image in oci"
    "|opening file .*: no such file|index.json: no such file|Tag .* not found"
)
_LOGIN = re.compile("unauthorized|denied|authentication required|invalid username/password|403 ")
_BROKEN = re.compile("[Dd]igest did not match|does not match|blob unknown|invalid tar header|invalid character")
_UNREACHABLE = re.compile(
    "pinging container registry|connection re|no such host|timeout|deadline exceeded|EOF|toomanyrequests"
    "|unexpected HTTP status|network is unreachable|no route to host|StatusCode: 5"
)
_NO_TLS = re.compile("x509|tls:|server gave HTTP response")
_NO_NAME = "invalid reference format"

_TOO_LARGE = re.compile("exceeded maximum allowed size of [0-9]+ bytes")
_ODD_ANSWER = re.compile(r'\b(Get|Head|Post) "|StatusCode: [0-9]')
"""Of Go's HTTP client, and of an answer that no registry gives. After all others, which are more specific."""


_PHRASES = re.compile(
    r"manifest unknown|name unknown|blob unknown|authentication required|invalid username/password|unauthorized"
    r"|access to the resource is denied|denied|toomanyrequests|no descriptor found|blob upload unknown"
    r"|(?:[Ss]tatus(?:Code)?(?: code from registry)?):? [0-9]{3}|server gave HTTP response to HTTPS client"
    r"|connection refused|connection reset by peer|no such host|server misbehaving|Temporary failure in name resolution"
    r"|network is unreachable|no route to host|i/o timeout|TLS handshake timeout|context deadline exceeded"
    r"|unexpected EOF|x509: certificate (?:signed by unknown authority|has expired|is not valid|is valid for)"
    r"|x509: cannot validate certificate|tls: [a-z ]{3,60}|unsupported protocol scheme|stopped after [0-9]+ redirects"
    r"|[Dd]igest did not match|does not match|invalid tar header|invalid character|malformed HTTP"
    r"|exceeded maximum allowed size of [0-9]+ bytes|invalid reference format[a-z: ]{0,60}"
)
"""What an error about a registry repeats of skopeo's. All else may come from a host that the registry leads to."""
_PLACES = re.compile(r'\b(?:Get|Head|Post|Put) \\?"https?://([^/"\\]+)')
_HOSTS = {"docker.io": ("registry-1.docker.io", "auth.docker.io")}


def explain(stderr: str, code: int, *, name: str, is_local: bool = False) -> PodError:
    """The error that skopeo's last words stand for. `name` is the image as the user knows it, and `is_local` for a file
    of this host, whose errors are told whole.
    """
    reason = reason_of(stderr)
    if re.search("^(setpriv|env): .*skopeo.*No such file", stderr, re.MULTILINE):
        return NotFound("there is no skopeo program; install skopeo")
    if "no space left on device" in reason or "disk quota exceeded" in reason:
        return NoSpace(f"the disk is full while {name} was downloaded; free some space")
    if _NO_NAME in reason:
        return BadRequest(f"{name} is not an image name ({_phrases(reason)})")
    log.info("pull.skopeo", extra={"image": name, "error": reason})
    registry = name.partition("/")[0]
    others = [one for one in _PLACES.findall(reason) if one not in (registry, *_HOSTS.get(registry, ()))]
    if others and not is_local:
        return Misled(name, others[-1])
    return _explained(reason, code, name=name, shown=reason if is_local else _phrases(reason))


def _phrases(reason: str) -> str:
    """The parts of the reason that are skopeo's own words or names of a registry's errors, each once."""
    return ", ".join(dict.fromkeys(_PHRASES.findall(reason)))[:300] or "the daemon's log has more"


def _explained(reason: str, code: int, *, name: str, shown: str) -> PodError:
    if _LOGIN.search(reason):
        return LoginNeeded(f"the registry rejects the credentials for {name}, or does not have it ({shown})")
    if _NO_TLS.search(reason):
        return RegistryUnavailable(
            f"the registry of {name} can't be trusted ({shown}); correct its certificate, or put that of its authority"
            " below /etc/containers/certs.d"
        )
    if code == 2 or _NOT_THERE.search(reason):
        return NotFound(f"there is no image {name} ({shown})")
    if _BROKEN.search(reason):
        return Corrupt(f"the registry's copy of {name} is damaged ({shown}); pull again, or push again")
    if _UNREACHABLE.search(reason):
        return RegistryUnavailable(f"can't reach the registry of {name} ({shown}); try again later")
    if _TOO_LARGE.search(reason):
        return Corrupt(f"a document of {name} is larger than any image's ({shown}); push it again")
    if _ODD_ANSWER.search(reason):
        return RegistryUnavailable(
            f"the registry of {name} does not answer like a registry ({shown}); correct the name, or report it to its"
            " operator"
        )
    if signal_number := -code if code < 0 else max(0, code - 128):
        return PodError(f"can't pull {name}: skopeo was killed by signal {signal_number}; pull again")
    return PodError(f"can't pull {name}: {shown if reason else f'skopeo ended with status {code}'}")


def reason_of(stderr: str) -> str:
    """The reason in skopeo's log, without its frame and without what it repeats of the command."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    fatal = [line for line in lines if "level=fatal" in line] or lines[-1:]
    if not fatal:
        return ""
    message = re.search(r'msg="(.*)"$', fatal[-1]) or re.search(r"msg=(.*)$", fatal[-1])
    text = message[1].replace('\\"', '"').replace("\\\\", "\\") if message else fatal[-1]
    text = re.sub(r'^(Error parsing image name|(initializing|Invalid) source( name)?) "?\S+?"?: ', "", text)
    return both_ends(re.sub(r"\s+", " ", text), 500)
