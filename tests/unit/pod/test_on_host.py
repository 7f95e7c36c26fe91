# SPDX-License-Identifier: Apache-2.0
"""What is different in the OCI documents of a container on the host."""

from pathlib import Path

import pytest

from stage1.linux.process import capabilities as own
from stage1.pod import oci, on_host
from stage1.pod.model import HOST_TO_CONTAINER, Container, Limits, Mount, Pod, Process, Security

POD = Pod(id="ab" * 32, name="web", hostname="web-0", host=("network",))
BASE = Container(id="c1", name="main", image="sha256:" + "00" * 32, process=Process(argv=("sh",)))
FULL = frozenset({"cpu", "memory", "pids", "io"})


def test_without_volumes_and_limits_it_is_the_document_of_a_guest_but_for_propagation() -> None:
    here, there = on_host.config(POD, BASE, controllers=FULL), oci.config(POD, BASE)
    assert here["linux"].pop("rootfsPropagation") == "rslave"
    assert there["linux"].pop("rootfsPropagation") == "rprivate"
    assert here == there


@pytest.mark.parametrize(
    ("volume", "options"),
    [
        (Mount("/a", "/v"), ["rbind", "rw"]),
        (Mount("/a", "/v", read_only=True), ["rbind", "ro"]),
        (Mount("/a", "/v", read_only=True, recursive_read_only=True), ["rbind", "rro"]),
        (Mount("/a", "/v", propagation=HOST_TO_CONTAINER), ["rbind", "rw", "rslave"]),
        (Mount("/a", "/v", options=("noexec", "nodev")), ["rbind", "rw", "noexec", "nodev"]),
        (Mount("", "/v", read_only=True, image="sha256:11"), ["rbind", "ro"]),
    ],
)
def test_a_volume_has_the_values_of_its_mount(volume: Mount, options: list[str]) -> None:
    document = on_host.config(POD, BASE._replace(mounts=(volume,)), controllers=FULL)
    (result,) = [one["options"] for one in document["mounts"] if one["destination"] == "/v"]
    assert result == options


def test_limits_need_their_controllers() -> None:
    limited = BASE._replace(limits=Limits(memory=1 << 20))
    with_them = on_host.config(POD, limited, controllers=FULL)["linux"]["resources"]
    assert with_them["memory"] == {"limit": 1 << 20}
    for lacking in (frozenset(), FULL - {"memory"}, frozenset({"hugetlb"})):
        assert set(on_host.config(POD, limited, controllers=lacking)["linux"]["resources"]) == {"devices"}


def test_open_files_are_at_most_what_can_be_given() -> None:
    process = oci.process(POD, BASE, what=BASE.process)
    (limit,) = on_host.within(process, open_files=1000, capabilities=-1)["rlimits"]
    assert (limit["soft"], limit["hard"]) == (1000, 1000)
    assert on_host.within(process, open_files=1 << 30, capabilities=-1) == process


def test_a_privileged_container_has_no_capability_that_the_daemon_lacks() -> None:
    process = oci.process(POD, BASE._replace(security=Security(privileged=True)), what=BASE.process)
    result = on_host.within(process, open_files=1 << 30, capabilities=~(1 << 25))["capabilities"]
    for kind, names in process["capabilities"].items():
        assert result[kind] == [name for name in names if name != "CAP_SYS_TIME"]
    assert "CAP_SYS_TIME" in process["capabilities"]["bounding"]


def test_our_own_capabilities_are_known() -> None:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    assert f"CapBnd:\t{own():016x}\n" in status
