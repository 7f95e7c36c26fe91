# SPDX-License-Identifier: Apache-2.0
"""VOLUME of an image: writable with the image's content, also below a read-only root, and gone with the container."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.config import Config
from cri.pb import runtime_pb2 as pb
from cri.store.images import ImageStore
from cri.translate import mounts
from stage1.errors import BadRequest
from stage1.pod import oci
from stage1.pod.model import Container, Mount, Pod, Process
from tests.fakes import sample as samples
from tests.fakes.oci_layout import Entry, Layer, directory, file, tar
from tests.fakes.pulled import pull_blocking
from tests.fakes.registry import Registry

from .conftest import Client, Registered, VmWorld, vm_world

VOLUMES: dict[str, dict[str, str]] = {path: {} for path in ("/data", "new/deep", "/link/made", "/taken", "/etc")}
SEEN = """
cat /data/kept; stat -c '%a %u' /data; echo x > /data/written && rm /data/kept && ls /data
stat -c '%a %u' /new/deep; touch /new/deep/a /target/made/b && ls /link/made /new/deep
touch /taken/x 2>&1; grep -q localhost /etc/hosts && echo hosts; touch /etc/x && touch /y 2>&1
grep -c ' /data ' /proc/mounts
"""
OUTPUT = """kept
1770 33
written
755 0
/link/made:
b

/new/deep:
a
touch: /taken/x: Read-only file system
hosts
touch: /y: Read-only file system
1
"""


@pytest.fixture
def machine(tmp_path: Path, guest_dir: Path) -> Iterator[VmWorld]:
    """With an image that declares volumes: one with content, one that is missing, one behind a link."""
    data = [directory("data/", mode=0o1770, uid=33), file("data/kept", b"kept\n")]
    more = [directory("target/"), Entry("link", "s", link="target"), directory("taken/")]
    layers = [samples.busybox(guest_dir), Layer(tar([*data, *more]))]
    layout = samples.image(tmp_path / "layout", layers, Cmd=["sh"], Volumes=VOLUMES)
    with Registry(tmp_path / "registry") as registry:
        reference = registry.push(layout, "t/volumes:1")
        store = ImageStore(f"{tmp_path}/state")
        pull_blocking(store, reference, config=Config())
        store.close()
        with vm_world(Registered(reference, f"{tmp_path}/state"), guest_dir, copies=True) as made:
            yield made


async def output_of(cri: Client, c: str) -> str:
    await cri("StartContainer", container_id=c)
    status = await cri.ended(c, limit_s=60)
    lines = Path(status.log_path).read_text().splitlines(keepends=True)
    return "".join(line.split(" ", 3)[3] for line in lines)


@pytest.mark.vm
async def test_an_images_volumes_are_writable_below_a_read_only_root(machine: VmWorld, tmp_path: Path) -> None:
    context = pb.LinuxContainerSecurityContext(readonly_rootfs=True)
    linux = pb.LinuxContainerConfig(security_context=context)
    (tmp_path / "taken").mkdir()
    taken = pb.Mount(host_path=f"{tmp_path}/taken", container_path="/taken", readonly=True)
    async with machine.daemon() as cri:
        pod = await cri.pod(log_directory=f"{machine.root}/logs")
        for name in ("first", "second"):
            c = await cri.container(pod, "sh", "-c", SEEN, name=name, linux=linux, mounts=[taken])
            assert await output_of(cri, c) == OUTPUT, "each has its own, which goes with it"
            await cri("RemoveContainer", container_id=c)
        plain = await cri.container(pod, "sh", "-c", "touch /y && ls /data /new", name="plain")
        assert await output_of(cri, plain) == "/data:\nkept\n\n/new:\ndeep\n"
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert machine.left_over() == []


DECLARED = [
    ({"/data": {}, "data/": {}, "//data": {}}, [], ("/data",)),
    ({"/a/../b": {}, "/../c": {}}, [], ("/b", "/c")),
    ({"/": {}, "": {}, "/proc/x": {}, "/dev/shm": {}, "/sys": {}, "/a\0b": {}}, [], ()),
    ({"/a": {}, "/b": {}}, ["/a"], ("/b",)),
    (None, [], ()),
]


@pytest.mark.parametrize(("declared", "taken", "expected"), DECLARED)
def test_what_an_image_declares(
    declared: dict[str, dict[str, str]], taken: list[str], expected: tuple[str, ...]
) -> None:
    assert mounts.of_image({"Volumes": declared}, [Mount("/x", target) for target in taken]) == expected


@pytest.mark.parametrize("declared", [[f"/v{number}" for number in range(33)], ["/" + "x" * 255]])
def test_more_than_a_guest_takes_is_refused(declared: list[str]) -> None:
    with pytest.raises(BadRequest, match="the image declares"):
        mounts.of_image({"Volumes": dict.fromkeys(declared)}, [])


def test_a_volume_is_mounted_after_what_it_is_below() -> None:
    volumes = (Mount("/x", "/data"), Mount("/x", "/srv/deep"))
    own = ("/data/a", "/srv", "/etc")
    made = Container(id="c", name="c", image="i", process=Process(("true",)), mounts=volumes, volumes=own)
    result = {one["destination"]: one["source"] for one in oci.config(Pod("0" * 64, "web"), made)["mounts"]}
    ordered = list(result)
    assert ordered.index("/etc") < ordered.index("/etc/hosts") < ordered.index("/data") < ordered.index("/data/a")
    assert ordered.index("/srv") < ordered.index("/srv/deep")
    assert result["/srv"] == "/run/clearpod/containers/c/volumes/1"
