#!/usr/lib/clearpod/bin/python3 -I
# SPDX-License-Identifier: Apache-2.0
"""Ends all pods of the node by its daemon, before the package `clearpod` is removed. Called by its prerm.

Best-effort: without a daemon it does nothing, and says so when there are pods.
"""

import os
import sys

import grpc

from cri.config import load
from cri.pb import runtime_pb2 as pb
from cri.pb import runtime_pb2_grpc as rpc

LIMIT_S = 60.0


def main() -> int:
    """Exit code: 1 when something is left."""
    config = load(None)
    pods = f"{config.run_dir}/pods"
    if not os.path.isdir(pods) or not os.listdir(pods):
        return 0
    with grpc.insecure_channel(f"unix:{config.socket_path}") as channel:
        runtime = rpc.RuntimeServiceStub(channel)
        try:
            for pod in runtime.ListPodSandbox(pb.ListPodSandboxRequest(), timeout=LIMIT_S).items:
                runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod.id), timeout=LIMIT_S)
                runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod.id), timeout=LIMIT_S)
        except grpc.RpcError as error:
            print(
                f"clearpod: pods are left in {pods}, since the daemon does not end them: {error.details()}",
                file=sys.stderr,
            )
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
