# SPDX-License-Identifier: Apache-2.0
"""A real registry (Debian's docker-registry) on a loopback port, with its storage in a directory of the
test's.
"""

import os
import socket
import subprocess
import time
from pathlib import Path

from tests.fakes.patience import PATIENCE

CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {storage}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
{auth}
"""
AUTH = "auth: {{htpasswd: {{realm: test, path: {path}}}}}"


def free_port() -> int:
    """A TCP port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def skopeo(*arguments: str) -> None:
    """Copy an image, whatever this host's /etc/containers blocks."""
    argv = ["skopeo", "--insecure-policy", "--registries-conf", os.devnull, "copy", "-q", *arguments]
    subprocess.run(argv, check=True, timeout=60 * PATIENCE)


class Registry:
    """Use it in a `with`. `host` is 127.0.0.1:PORT. `htpasswd`, if given, is the only one who may do
    anything; `auth` is an `auth:` of the registry's configuration instead.
    """

    def __init__(self, directory: Path, *, htpasswd: str = "", auth: str = "") -> None:
        self.storage, self.port = directory / "storage", free_port()
        self.host = f"127.0.0.1:{self.port}"
        self._directory, self._htpasswd, self._auth = directory, htpasswd, auth

    def __enter__(self) -> "Registry":
        self._directory.mkdir(parents=True, exist_ok=True)
        auth = self._auth
        if self._htpasswd:
            (self._directory / "htpasswd").write_text(self._htpasswd)
            auth = AUTH.format(path=self._directory / "htpasswd")
        config = self._directory / "config.yml"
        config.write_text(CONFIG.format(storage=self.storage, port=self.port, auth=auth))
        log = (self._directory / "log").open("wb")
        self._process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
        log.close()
        self._wait()
        return self

    def _wait(self) -> None:
        for _ in range(200 * PATIENCE):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        self.__exit__()
        raise RuntimeError((self._directory / "log").read_text())

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def push(self, source: str, name: str, *options: str) -> str:
        """Push `oci:DIR:REF` as `name`; returns the reference."""
        target = f"{self.host}/{name}"
        skopeo("--dest-tls-verify=false", "--preserve-digests", *options, source, f"docker://{target}")
        return target

    def blob(self, digest: str) -> Path:
        """The file that holds a blob."""
        digits = digest.removeprefix("sha256:")
        return self.storage / "docker/registry/v2/blobs/sha256" / digits[:2] / digits / "data"
