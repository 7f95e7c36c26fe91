# SPDX-License-Identifier: Apache-2.0
"""The remaining rights of the VMM of an rkt pod, by the kernel's own files, and that apps and rkt lose nothing by the
jail.
"""

import os
import socket
import tempfile
from pathlib import Path

import pytest

from cri.cli.view import jail as cli
from stage1.pod import ids
from stage1.pod.ids import POD_IDS
from stage1.pod.model import IdMap
from stage1.rkt import machine
from stage1.vm import in_force, slots, vmm
from stage1.vm.in_force import InForce
from tests.fakes.patience import PATIENCE
from tests.rkt.conftest import Rig, Running, wait_until

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so its fake needs root"),
]
FEW = {"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID"}
WAITS = "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done"
MAKES = """mkdir /made; echo web > /made/web; chown 1000:1000 /made/web; ln -s web /made/link; echo x >> /etc/passwd
mv /etc/group /etc/moved; rm /etc/old; chmod 4755 /made; echo volume > /data/new; chown 5:6 /data/new
echo far > /made/far; chown 70000:2147483647 /made/far; [ "$(stat -c %u:%g /made/far)" = 70000:2147483647 ]; sync"""


def vmm_of(running: Running) -> InForce:
    result = vmm.find_unrecorded(machine.place(running.pod.uuid))
    assert result is not None
    return in_force.read(result.pid, result.start_time)


def test_the_vmm_has_no_privileges_on_the_host_and_only_the_pods_files(rig: Rig) -> None:
    running = rig.run([rig.sh("one", WAITS)])
    running.wait_for(b"up\n")
    place, result = machine.place(running.pod.uuid), vmm_of(running)
    first = slots.find(place)
    assert first is not None and slots.Range().first <= first < slots.Range().first + slots.Range().length
    assert {*result.users, *result.groups} == {first} and result.supplementary == ()
    assert result.uid_map == result.gid_map == ids.extents(first, IdMap())
    assert {*result.capabilities["bounding"]} == {*result.capabilities["permitted"]} == FEW
    assert not result.capabilities["inheritable"] and not result.capabilities["ambient"]
    assert result.no_new_privs and result.seccomp == "filter" and result.seccomp_filters >= 1
    shared = {one.kind for one in result.namespaces if one.is_hosts}
    assert not shared - {"time"}
    mounted = {one.path: one for one in result.mounts}
    writable = {path for path, one in mounted.items() if one.is_writable and not path.startswith(("/dev", "/proc"))}
    assert writable == {"/vmm", f"{place}/share/volumes/status", f"{place}/share/layers/apps/one"}
    assert mounted[f"{place}/share"].is_mapped and not {"home", "root", "var"} & {*result.root}
    assert not any(str(running.pod.dir) in path and "/clearpod/" not in path for path in mounted)
    assert cli.RKT == machine.RUN
    assert cli.inspect(cli.find("/nowhere", running.pod.uuid[:13])) == result
    assert running.pod.stop().code == 0


def test_what_apps_write_has_on_disk_the_owners_that_the_guest_gave(rig: Rig, tmp_path: Path) -> None:
    data = tmp_path / "volume"
    data.mkdir()
    volumes = [{"name": "data", "kind": "host", "source": str(data), "readOnly": False}]
    mounts = [{"volume": "data", "path": "/data"}]
    for overlay in (True, False):
        app = rig.sh("one", f"set -e\ntouch /etc/old\n{MAKES}")._replace(entry={"mounts": mounts})
        pod = rig.rkt.prepare([app], overlay=overlay, volumes=volumes)
        process = pod.run(net="none", stdin=-3, stdout=-1, stderr=-1)
        _, err = process.communicate(timeout=120 * PATIENCE)
        assert process.returncode == 0, err
        root = pod.dir / "overlay" / rig.image.tree / "upper" / "one" if overlay else pod.app_root("one")
        made = (root / "made/web").stat()
        assert (made.st_uid, made.st_gid) == (1000, 1000) and (root / "made").stat().st_mode & 0o7777 == 0o4755
        assert (root / "made").stat().st_uid == (root / "etc/passwd").stat().st_uid == 0
        assert (root / "etc/passwd").read_text().endswith("x\n") and (root / "etc/moved").read_text().startswith(
            "root:"
        )
        assert os.readlink(root / "made/link") == "web" and not (root / "etc/old").exists()
        far = (root / "made/far").stat()
        assert (far.st_uid, far.st_gid) == (70000, (1 << 31) - 1)
        new = (data / "new").stat()
        assert (new.st_uid, new.st_gid) == (5, 6)
        (data / "new").unlink()


@pytest.mark.parametrize("top", ["/opt", "/usr", "/nix"])
def test_rkts_directory_may_lie_where_programs_do(small_stage1_image: Path, small_image: Path, top: str) -> None:
    was_there = os.path.isdir(top)
    os.makedirs(top, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=top) as place:
            os.chmod(place, 0o700)
            rig = Rig(Path(place), small_stage1_image, small_image)
            try:
                running = rig.run([rig.sh("one", WAITS)])
                running.wait_for(b"up\n")
                assert running.pod.stop().code == 0
            finally:
                rig.clean()
    finally:
        if not was_there:
            os.rmdir(top)


def test_an_app_that_comes_later_is_mapped_too(rig: Rig) -> None:
    running = rig.run([], "--mutable")
    pod = running.pod
    assert pod.wait_ready()
    added = pod.app_add(rig.sh("one", f"echo x > /new; chown 7:8 /new; {WAITS}"))
    assert added.code == 0, added
    assert pod.app_start("one").code == 0
    new = pod.dir / "overlay" / rig.image.tree / "upper" / "one" / "new"
    wait_until(lambda: new.exists() and new.stat().st_uid == 7)
    assert new.stat().st_gid == 8
    shown = {one.path: one for one in vmm_of(running).mounts}
    assert shown[f"{machine.place(pod.uuid)}/share/layers/apps/one"].is_writable
    assert pod.app_stop("one").code == 0 and pod.app_rm("one").code == 0
    assert pod.stop().code == 0


def test_the_ids_are_given_back_when_the_pod_is_removed(rig: Rig) -> None:
    running = rig.run([rig.sh("one", "true")])
    place = machine.place(running.pod.uuid)
    assert running.finish()[0] == 0
    first = slots.find(place)
    assert first is not None
    claim = Path(slots.PLACE, str(first // POD_IDS))
    assert claim.is_symlink()
    gone = running.pod.gc()
    assert gone.code == 0 and not claim.is_symlink() and not os.path.exists(place), gone


def test_the_link_is_a_socket_of_roots_alone(rig: Rig) -> None:
    running = rig.run([rig.sh("one", WAITS)])
    running.wait_for(b"up\n")
    path = f"{machine.place(running.pod.uuid)}/agent.sock"
    assert os.stat(path).st_uid == 0 and os.stat(path).st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(path)
    running.process.kill()
    running.finish()
