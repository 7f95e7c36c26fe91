# SPDX-License-Identifier: Apache-2.0
"""The Prometheus endpoint over real HTTP, in front of fake guests; and what the dashboard asks for is there."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cri.config_tables import Metrics
from cri.metrics import families, server
from cri.server import Listener
from stage1.errors import AlreadyExists, BadRequest
from tests.fakes import promql
from tests.fakes.patience import PATIENCE

from .conftest import Client, World

DASHBOARD = Path(__file__).parents[2] / "docs/admin/grafana.json"
SCRAPED = {"job": "clearpod", "instance": "node:9547"}
"""Labels that Prometheus adds to each sample."""


@pytest.fixture(autouse=True)
def always_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scrape makes a page."""
    monkeypatch.setattr(server, "FRESH_S", 0.0)


class Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float


class Page:
    """A scrape, parsed by the library's own parser."""

    def __init__(self, text: str) -> None:
        self.samples = [
            Sample(one.name, one.labels, one.value)
            for family in text_string_to_metric_families(text)
            for one in family.samples
        ]

    def value(self, name: str, **labels: str) -> float:
        """Of the only sample with these labels."""
        (samples,) = [one.value for one in self.samples if one.name == f"clearpod_{name}" and one.labels == labels]
        return samples


def address(cri: Client) -> tuple[str, int]:
    """Where the daemon's endpoint is."""
    url = urlsplit(cri.node.metrics_url)
    assert url.hostname and url.port
    return url.hostname, url.port


async def ask(cri: Client, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to this request."""
    async with asyncio.timeout(10 * PATIENCE):
        reader, writer = await asyncio.open_connection(*address(cri))
        writer.write(data)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


async def scrape(cri: Client) -> Page:
    """All metrics of now."""
    status, headers, body = await ask(cri, get("/metrics"))
    assert status == 200 and headers["content-type"].startswith("text/plain")
    return Page(body.decode())


@asynccontextmanager
async def measured(world: World, *, warm: int = 0) -> AsyncIterator[Client]:
    """A daemon with metrics, on any free port."""
    world.config = world.config.but(metrics=Metrics(enabled=True, port=0))
    world.warm(warm)
    async with world.daemon() as cri:
        yield cri


async def _live(cri: Client) -> None:
    """One of each: a pod from the pool and one that is booted, a container that ends, calls that fail."""
    pod = await cri.pod()
    await cri.pod("second", hostname="own")
    container = await cri.container(pod, "false")
    await cri("StartContainer", container_id=container)
    await cri.ended(container)
    await cri.refused("StartContainer", container_id="f" * 64)
    await cri("ListPodSandbox")
    await cri("PullImage", image={"image": cri.image})


async def test_the_page_has_each_metric_and_what_each_query_of_the_dashboard_wants(world: World) -> None:
    async with measured(world, warm=1) as cri:
        await cri.warmed(1)
        await _live(cri)
        page = await scrape(cri)
    names = {one.name for one in page.samples}
    endings = {families.HISTOGRAM: "_count"}
    assert [one for one in families.FAMILIES if f"clearpod_{one.name}{endings.get(one.kind, '')}" not in names] == []
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(queries) > 30
    assert [why for text in queries if (why := _unresolved(text, page))] == []
    given = {value for one in page.samples for value in one.labels.values()}
    assert not [value for value in given if "web" in value or "second" in value or len(value) >= 64], "names of pods"
    assert len(page.samples) < 1000


def _unresolved(text: str, page: Page) -> str:
    """Why the query would show nothing; empty when it shows something."""
    query = promql.parse(text.replace("$instance", ".*"))
    for selector in query.selectors:
        samples = [one for one in page.samples if selector.takes(one.name, one.labels | SCRAPED)]
        if not samples:
            return f"{selector} finds nothing: {text}"
        if missing := query.groups - set(SCRAPED).union(*(one.labels for one in samples)):
            return f"{selector} has no label {missing}: {text}"
    return ""


@pytest.mark.parametrize("text", ["sum(clearpod_podz)", "sum by (stat) (clearpod_pods)", 'clearpod_pods{state="gone"}'])
def test_a_query_that_shows_nothing_is_noticed(text: str) -> None:
    assert _unresolved(text, Page('# TYPE clearpod_pods gauge\nclearpod_pods{state="ready"} 1\n'))


@pytest.mark.parametrize("text", ["", "sum(", "sum(1)", "clearpod_pods{state}", "a ? b", 'a{b=="c"}'])
def test_what_is_no_query_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"read|brackets|matchers|nothing"):
        promql.parse(text)


async def test_what_happens_is_counted(world: World) -> None:
    async with measured(world) as cri:
        before = await scrape(cri)
        await _live(cri)
        page = await scrape(cri)
    assert (before.value("pods", state="ready"), page.value("pods", state="ready")) == (0, 2)
    assert page.value("virtual_machines") == 2
    assert page.value("containers", state="exited") == 1
    assert page.value("container_exits_total", reason="Error") == 1
    assert page.value("pod_starts_total", result="booted") == 2
    assert page.value("pod_start_seconds_count", how="booted") == 2
    for phase in ("prepare", "spawn", "guest", "kernel", "configure"):
        assert page.value("boot_phase_seconds_count", phase=phase) == 2
    assert page.value("rpcs_total", method="RunPodSandbox", code="OK") == 2
    assert page.value("rpcs_total", method="StartContainer", code="NOT_FOUND") == 1
    assert page.value("rpc_seconds_bucket", method="StartContainer", le="+Inf") == 2
    assert page.value("images") == 1 and page.value("image_bytes") > 0
    assert page.value("link_busy_seconds_total") > 0
    assert page.value("rpcs_in_progress") == 0


async def test_a_pod_that_does_not_start_and_a_vm_that_dies_are_counted(world: World) -> None:
    async with measured(world) as cri:
        pod = await cri.pod()
        live = cri.node.pods.get(pod)
        assert live.vm is not None
        live.vm.kill()
        await live.gone.wait()
        world.faults.boot_s = 100
        assert (await cri.refused("RunPodSandbox", config=cri.sandbox("late")))[0] == "UNKNOWN"
        page = await scrape(cri)
    assert page.value("pod_deaths_total") == 1
    assert page.value("pod_starts_total", result="failed") == 1
    assert page.value("pods", state="dead") == 1


async def test_the_pool_is_counted(world: World) -> None:
    async with measured(world, warm=1) as cri:
        await cri.warmed(1)
        world.faults.reply_delay_s = 0.5  # of the guest, whose part is the claim's, not the network's
        await cri.pod()
        world.faults.reply_delay_s = 0
        page = await scrape(cri)
    assert page.value("boot_phase_seconds_count", phase="network") == 1
    assert page.value("boot_phase_seconds_sum", phase="claim") >= 0.5
    assert page.value("pool_slots") == 1
    assert page.value("pool_claims_total") == 1
    assert page.value("pool_boots_total") >= 1
    assert page.value("pod_starts_total", result="claimed") == 1


async def test_an_ordered_end_is_no_death(world: World) -> None:
    async with measured(world) as cri:
        await cri("StopPodSandbox", pod_sandbox_id=await cri.pod())
        page = await scrape(cri)
    assert page.value("pod_deaths_total") == 0


ANSWERS = [
    (get("/metrics", "HEAD"), 200),
    (get("/metrics?name[]=x"), 200),
    (get("/"), 404),
    (get("/metrics/../etc"), 404),
    (get("/metrics", "POST"), 405),
    (b"PRI * HTTP/2.0\r\n\r\n", 404),
    (b"\x16\x03\x01\r\n\r\n", 400),
    (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
]


async def test_what_it_answers(world: World) -> None:
    async with measured(world) as cri:
        for data, status in ANSWERS:
            answer = await ask(cri, data)
            assert answer[0] == status, data[:40]
            assert bool(answer[2]) == (status != 431 and not data.startswith(b"HEAD")), data[:40]


async def test_a_disk_that_fails_is_no_number(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(pods: object) -> None:
        raise OSError(5, "the disk is gone")

    async with measured(world) as cri:
        monkeypatch.setattr(cri.node.storage, "counts", fail)
        status, _, body = await ask(cri, get("/metrics"))
        assert status == 503 and b"the disk is gone" in body


async def test_a_silent_client_is_disconnected_and_concurrent_requests_make_one_page(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "FRESH_S", 1000.0)
    async with measured(world) as cri:
        silent = [await asyncio.open_connection(*address(cri)) for _ in range(server.MOST)]
        answers = await asyncio.gather(*(ask(cri, get("/metrics")) for _ in range(20)))
        assert {answer[0] for answer in answers} == {200}
        assert len({answer[2] for answer in answers}) == 1
        assert await silent[0][0].read() == b"", "the oldest made room"
        for _, writer in silent:
            writer.close()


async def test_a_port_that_is_taken_is_refused_and_nothing_stays_open(world: World) -> None:
    async with measured(world) as cri:
        _, port = address(cri)
        config = world.config.but(metrics=Metrics(enabled=True, port=port), run_dir=f"{world.root}/r2")
        with pytest.raises(AlreadyExists, match="metrics"):
            await Listener(cri.node, config).start()
        away = config.but(metrics=Metrics(enabled=True, address="203.0.113.1", port=0))
        with pytest.raises(BadRequest, match="metrics"):
            await Listener(cri.node, away).start()


async def test_without_it_nothing_is_counted(world: World) -> None:
    async with world.daemon() as cri:
        await cri.pod()
        assert cri.node.metrics_url == ""
        assert type(cri.node.recorder).__name__ == "Recorder"


def test_without_it_no_library_is_loaded() -> None:
    code = "import sys, cri.server, cri.cli.serve; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
