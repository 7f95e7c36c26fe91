# SPDX-License-Identifier: Apache-2.0
"""The kubelet of a node, alone or with an API server, and kubectl. Called by the fixtures in conftest.py.

Whoever starts something here ends it through `Node`.
"""

import json
import ssl
import subprocess
import urllib.request
from collections.abc import Callable
from typing import Any

from tests.fakes.patience import PATIENCE
from tests.kubernetes import configuration
from tests.kubernetes.node import START_S, Node, until

ANYBODY = ssl.create_default_context()
ANYBODY.check_hostname, ANYBODY.verify_mode = False, ssl.CERT_NONE
POD_S = 120
"""Within which a pod is there, emulated and beside other tests."""


def get(url: str) -> Any:
    """A JSON document, or text. Raises AssertionError."""
    try:
        with urllib.request.urlopen(url, context=ANYBODY, timeout=10 * PATIENCE) as reply:
            body = reply.read().decode()
    except OSError as error:
        raise AssertionError(f"{url}: {error}") from error
    return json.loads(body) if body[:1] in ("{", "[") else body


class Kubelet:
    """The kubelet of a node; `more` changes its configuration."""

    def __init__(self, node: Node, *, static_pods: str = "", **more: Any) -> None:
        self.node, self._standalone = node, bool(static_pods)
        self._config = {**configuration.kubelet(node.place, static_pods=static_pods), **more}

    def start(self) -> None:
        """Start it and wait until it answers."""
        (self.node.root / "kubelet.json").write_text(json.dumps(self._config))
        self.node.start("kubelet", configuration.kubelet_argv(self.node.place, standalone=self._standalone))
        until(self.is_well, within_s=START_S, what="the kubelet", log=self.node.log("kubelet"))

    def is_well(self) -> bool:
        """The result of its health check."""
        return bool(get(f"{self.node.place.kubelet}/healthz") == "ok")

    def restart(self) -> None:
        """As a crash, and the next one."""
        self.node.stop("kubelet", kill=True)
        self.start()

    def pods(self) -> list[dict[str, Any]]:
        """Those that it knows, with their status."""
        return list(get(f"{self.node.place.kubelet}/pods").get("items") or [])

    def summary(self, pod: str) -> dict[str, Any]:
        """What /stats/summary has of a pod."""
        result = get(f"{self.node.place.kubelet}/stats/summary")["pods"]
        output: list[dict[str, Any]] = [one for one in result if one["podRef"]["name"] == pod]
        assert output, f"no statistics of {pod}"
        return output[0]


class Cluster:
    """The API server and all that belongs to it, with the node's kubelet."""

    def __init__(self, node: Node) -> None:
        self.node, self.kubelet = node, Kubelet(node)

    def start(self) -> None:
        """Start everything, and wait until the node is ready."""
        node, place = self.node, self.node.place
        (node.root / "tokens").write_text(configuration.tokens())
        (node.root / "kubeconfig").write_text(json.dumps(configuration.kubeconfig(place)))
        key = ["openssl", "genrsa", "-out", str(node.root / "service.key"), "2048"]
        subprocess.run(key, check=True, capture_output=True)
        node.start("etcd", configuration.etcd_argv(place))
        node.start("api", configuration.apiserver_argv(place))
        until(lambda: get_ready(place.api), within_s=3 * START_S, what="the API server", log=node.log("api"))
        node.start("scheduler", configuration.scheduler_argv(place))
        node.start("manager", configuration.manager_argv(place))
        self.kubelet.start()
        until(self.is_ready, within_s=2 * START_S, what="a node that is ready", log=node.log("kubelet"))
        account = ["get", "serviceaccount", "default"]
        until(lambda: self.kubectl(*account), within_s=START_S, what="an account", log=node.log("manager"))

    def kubectl(self, *args: str, feed: Any = None, limit_s: float = 120) -> str:
        """What kubectl prints; it must succeed. `feed` is a document for its standard input."""
        ended = self.ends(*args, feed=feed, limit_s=limit_s)
        assert ended.returncode == 0, (args, ended.stdout, ended.stderr)
        return ended.stdout

    def ends(self, *args: str, feed: Any = None, limit_s: float = 120) -> "subprocess.CompletedProcess[str]":
        """However it ends."""
        text = None if feed is None else json.dumps(feed)
        return subprocess.run(self.argv(*args), input=text, capture_output=True, text=True, timeout=limit_s * PATIENCE)

    def argv(self, *args: str) -> list[str]:
        """A command line of kubectl."""
        return [
            "kubectl",
            f"--kubeconfig={self.node.root}/kubeconfig",
            f"--cache-dir={self.node.root}/kubectl",
            *args,
        ]

    def json(self, *args: str) -> Any:
        """What kubectl prints as JSON."""
        return json.loads(self.kubectl(*args, "-o", "json"))

    def apply(self, document: dict[str, Any]) -> None:
        """Create or change an object."""
        self.kubectl("apply", "-f", "-", feed=document)

    def is_ready(self) -> bool:
        """Whether the node is."""
        conditions = self.json("get", "node", configuration.NODE)["status"].get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def pod(self, name: str) -> dict[str, Any]:
        """A pod as the API has it."""
        result: dict[str, Any] = self.json("get", "pod", name)
        return result

    def wait(self, name: str, holds: Callable[[dict[str, Any]], Any], *, within_s: float = POD_S) -> dict[str, Any]:
        """A pod for which `holds` is true; else its events are told."""

        def status() -> dict[str, Any] | None:
            result = self.pod(name)
            return result if holds(result) else None

        try:
            return until(status, within_s=within_s, what=f"pod {name} as wanted")  # type: ignore[no-any-return]
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.kubectl('describe', 'pod', name)}") from error

    def run(self, document: dict[str, Any], *, until_ready: bool = True) -> dict[str, Any]:
        """Make a pod and wait until it is ready."""
        self.apply(document)
        name = document["metadata"]["name"]
        return self.wait(name, is_ready) if until_ready else self.pod(name)

    def delete(self, *names: str) -> None:
        """Delete pods, and wait."""
        self.kubectl("delete", "pod", "--now", "--ignore-not-found", *names)


def get_ready(api: str) -> bool:
    """Whether the API server is."""
    with_token = urllib.request.Request(f"{api}/readyz", headers={"Authorization": f"Bearer {configuration.TOKEN}"})
    try:
        with urllib.request.urlopen(with_token, context=ANYBODY, timeout=5 * PATIENCE) as reply:
            return bool(reply.read() == b"ok")
    except OSError as error:
        raise AssertionError(str(error)) from error


def is_ready(pod: dict[str, Any]) -> bool:
    """Its containers run and pass their probes."""
    conditions = pod["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def status_of(pod: dict[str, Any], container: str = "main") -> dict[str, Any]:
    """Of one container."""
    return next((one for one in pod["status"].get("containerStatuses", []) if one["name"] == container), {})
