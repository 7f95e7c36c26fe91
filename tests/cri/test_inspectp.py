# SPDX-License-Identifier: Apache-2.0
"""The real crictl shows the addresses that the CNI plugins reported, in their order."""

import asyncio
import json

import pytest

from stage1.linux import process
from tests.fakes.cni import FakeCni

from .conftest import World
from .test_network import cni

__all__ = ["cni"]


@pytest.mark.crictl
async def test_inspectp_shows_the_addresses_of_the_cni_result(world: World, cni: FakeCni) -> None:
    cni.answer({"ips": [{"address": "fd09::5/64"}, {"address": "10.9.0.5/24"}, {"address": "10.9.0.6/24"}]})
    async with world.daemon() as cri:
        pod = await cri.pod()
        argv = ["crictl", "-r", f"unix://{world.config.socket_path}", "inspectp", pod]
        ended = await asyncio.to_thread(process.run, argv, timeout_s=60)
        assert ended.code == 0, ended.stderr
        output = json.loads(ended.stdout)["status"]["network"]
        assert output == {"ip": "fd09::5", "additionalIps": [{"ip": "10.9.0.5"}, {"ip": "10.9.0.6"}]}
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
