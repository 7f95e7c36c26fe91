# SPDX-License-Identifier: Apache-2.0
"""The configuration files and command lines of a node on the loopback address. Pure: nothing is read, written or run.

Called by `node` and `cluster`, and by test_configuration.py. Whoever reaches the ports may do anything there: they are
in a network namespace of the test's own.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

NODE = "clearpod-test"
NODE_IP = "192.0.2.1"
"""On the loopback device too: neither the kubelet nor the API server takes 127.0.0.1 for the node's own."""
PODS_MIB = 3072
"""What all pods may take, so that eviction is about pods and not about the machine that the tests share."""
EVICTION_MIB = 1536
"""Pods are evicted when less than so much of that is left."""
CLASS, OVERHEAD_MIB = "clearpod", 832
"""The RuntimeClass of these tests, and what an emulated VM takes beside its containers."""
TOKEN = "of-the-test"
CONTROLLERS = (
    "node-lifecycle-controller",
    "deployment-controller",
    "replicaset-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
    "garbage-collector-controller",
    "pod-garbage-collector-controller",
)
KERNEL = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
"""What the kubelet sets where it is otherwise; it is shown these, so that it leaves the machine as it is."""


class Place(NamedTuple):
    """The place of a node: a directory, a cgroup (from the root of the cgroups), and free ports."""

    root: Path
    cgroup: str
    etcd_port: int = 0
    etcd_peer_port: int = 0
    api_port: int = 0
    kubelet_port: int = 0
    host_mib: int = 4096

    @property
    def socket(self) -> str:
        """clearpod's."""
        return f"{self.root}/run/clearpod.sock"

    @property
    def api(self) -> str:
        """The API server's address."""
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def kubelet(self) -> str:
        """The kubelet's."""
        return f"https://127.0.0.1:{self.kubelet_port}"


def clearpod(place: Place, guest_dir: Path, *, network: dict[str, str]) -> str:
    """config.toml of the daemon; `network` has the directories `conf_dir`, `bin_dir` and `cache`."""
    return f"""\
run_dir = "{place.root}/run"
state_dir = "{place.root}/state"
[guest]
dir = "{guest_dir}"
[vm]
scratch_mib = 256
boot_timeout_s = 240
react_timeout_s = 20
[volumes]
kubelet_root = "{place.root}/kubelet"
[network]
conf_dir = "{network["conf_dir"]}"
bin_dirs = ["{network["bin_dir"]}"]
cache = "{network["cache"]}"
default = false
[log]
level = "debug"
"""


def kubelet(place: Place, *, static_pods: str = "") -> dict[str, Any]:
    """KubeletConfiguration. Processor 0 is for the system, the others are for who asks for whole ones."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{place.socket}",
        "address": "0.0.0.0",
        "port": place.kubelet_port,
        "readOnlyPort": 0,
        "healthzPort": 0,
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "failCgroupV1": False,
        "failSwapOn": False,
        "seccompDefault": True,
        "cgroupRoot": f"/{place.cgroup}",
        "podLogsDir": f"{place.root}/pod-logs",
        "volumePluginDir": f"{place.root}/plugins",
        "makeIPTablesUtilChains": False,
        "oomScoreAdj": 0,
        "cpuManagerPolicy": "static",
        "reservedSystemCPUs": "0",
        "kubeReserved": {"memory": f"{place.host_mib - PODS_MIB}Mi"},
        "evictionHard": {"memory.available": f"{EVICTION_MIB}Mi"},
        "evictionPressureTransitionPeriod": "5s",
        "imageMinimumGCAge": "1h",
        "nodeStatusUpdateFrequency": "2s",
        "syncFrequency": "10s",
        **({"staticPodPath": static_pods, "fileCheckFrequency": "1s"} if static_pods else {}),
    }


def kubelet_argv(place: Place, *, standalone: bool = False) -> list[str]:
    """Without an API server if `standalone`."""
    root = place.root
    argv = ["kubelet", f"--config={root}/kubelet.json", f"--root-dir={root}/kubelet", f"--cert-dir={root}/pki"]
    argv += [f"--hostname-override={NODE}", f"--node-ip={NODE_IP}", "--v=2"]
    return argv if standalone else [*argv, f"--kubeconfig={root}/kubeconfig", "--node-labels=clearpod.io/runtime=true"]


def kubeconfig(place: Place) -> dict[str, Any]:
    """For everybody: there is one user, who may do anything."""
    cluster = {"server": place.api, "insecure-skip-tls-verify": True}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {"token": TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }


def tokens() -> str:
    """The API server's file of users."""
    return f'{TOKEN},test,1,"system:masters"\n'


def etcd_argv(place: Place) -> list[str]:
    """Nothing in it has to survive."""
    client, peer = (f"http://127.0.0.1:{port}" for port in (place.etcd_port, place.etcd_peer_port))
    return [
        "etcd",
        f"--data-dir={place.root}/etcd",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver_argv(place: Place) -> list[str]:
    """It makes its own certificate; `service.key` is there already."""
    root = place.root
    return [
        "kube-apiserver",
        f"--etcd-servers=http://127.0.0.1:{place.etcd_port}",
        "--bind-address=127.0.0.1",
        f"--advertise-address={NODE_IP}",
        f"--secure-port={place.api_port}",
        f"--cert-dir={root}/api-pki",
        f"--token-auth-file={root}/tokens",
        "--authorization-mode=AlwaysAllow",
        "--service-cluster-ip-range=198.51.100.0/24",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={root}/service.key",
        f"--service-account-signing-key-file={root}/service.key",
        "--enable-priority-and-fairness=false",
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",
    ]


def scheduler_argv(place: Place) -> list[str]:
    """It serves nothing."""
    return ["kube-scheduler", f"--kubeconfig={place.root}/kubeconfig", "--leader-elect=false", "--secure-port=0"]


def manager_argv(place: Place) -> list[str]:
    """What deployments need; it serves nothing."""
    return [
        "kube-controller-manager",
        f"--kubeconfig={place.root}/kubeconfig",
        "--leader-elect=false",
        "--secure-port=0",
        f"--controllers={','.join(CONTROLLERS)}",
        f"--root-ca-file={place.root}/api-pki/apiserver.crt",
        f"--service-account-private-key-file={place.root}/service.key",
    ]


def pod(name: str, image: str, *script: str, **more: Any) -> dict[str, Any]:
    """A pod with one container, `main`. `more` is of its spec, `container` in `more` of the container."""
    container = {"name": "main", "image": image, **more.pop("container", {})}
    if script:
        container["command"] = ["sh", "-c", "\n".join(script)]
    spec = {"automountServiceAccountToken": False, "dnsPolicy": "Default", "terminationGracePeriodSeconds": 2}
    spec |= {"containers": [container], **more}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def runtime_class() -> dict[str, Any]:
    """With an overhead, so that the pod's cgroup has room for an emulated VM."""
    overhead = {"podFixed": {"memory": f"{OVERHEAD_MIB}Mi"}}
    named = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": CLASS}}
    return {**named, "handler": "clearpod", "overhead": overhead}


def resources(mib: int, *, most_mib: int = 0, cpu: str = "") -> dict[str, Any]:
    """Of a container: what it requests, and its limits, which are the same unless `most_mib` is given."""
    expected = {"memory": f"{mib}Mi", **({"cpu": cpu} if cpu else {})}
    return {"requests": expected, "limits": {**expected, "memory": f"{most_mib or mib}Mi"}}


def deployment(name: str, image: str, *script: str, replicas: int, **container: Any) -> dict[str, Any]:
    """Pods with the label app=NAME."""
    made = pod(name, image, *script, container=container)
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": made["spec"] | {"terminationGracePeriodSeconds": 2}},
        },
    }


def text(document: dict[str, Any]) -> str:
    """As a word of a command line."""
    return json.dumps(document)
