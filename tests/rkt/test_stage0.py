# SPDX-License-Identifier: Apache-2.0
"""The fake of rkt calls stage1 as rkt specifies. test_real_rkt.py compares it with the real rkt."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.patience import PATIENCE
from tests.rkt import recorder
from tests.rkt.images import AppSpec, Image
from tests.rkt.stage0 import PATH, Stage0

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so its fake needs root")

ENTRY_ENV = {"RKT_STAGE1_ENTERCMD", "RKT_STAGE1_ENTERPID", "PATH"}


def seen(fake: Stage0) -> list[dict[str, Any]]:
    return list(recorder.records(fake.stage1.root.parent))


def test_run_is_called_as_stage1_requires(fake: Stage0, image: Image) -> None:
    pod = fake.prepare([AppSpec("one", image)])
    assert pod.state() == "prepared"
    process = pod.run("--hostname=h", "--debug", env={"PATH": PATH, "ODD": "a\nb"})
    assert pod.wait_pid() == process.pid and pod.state() == "running" and pod.wait_ready()
    (record,) = seen(fake)
    place = fake.data / "pods" / "run" / pod.uuid
    assert record["argv"][0] == f"{place}/stage1/rootfs/init" and record["cwd"] == str(place)
    assert record["argv"][1:] == ["--debug", "--net=default", "--local-config=/etc/rkt", "--hostname=h", pod.uuid]
    lock = record["env"].pop("RKT_LOCK_FD")
    assert record["fds"][lock] == str(place) and record["locks"] == [int(lock)]
    others = {"RKT_SELINUX_CONTEXT": "", "RKT_SELINUX_MOUNT_CONTEXT": ""}
    assert record["env"] == {"PATH": PATH, "ODD": "a\nb", **others}
    assert record["mounted"] and (pod.app_root("one") / "etc" / "mtab").is_symlink()
    assert pod.stop().code == 0 and process.wait(20 * PATIENCE) == 42 and pod.state() == "exited"


def test_run_prepared_and_sandbox_have_other_options(fake: Stage0, image: Image) -> None:
    prepared = fake.prepare([AppSpec("one", image)])
    prepared.run("--ipc=private", net="none", prepared=True)
    prepared.wait_ready()
    sandbox = fake.prepare([], mutable=True)
    sandbox.run("--ipc=private")
    sandbox.wait_ready()
    first, second = (record["argv"][1:-1] for record in seen(fake))
    assert first == ["--net=none"]
    assert second == ["--net=default", "--local-config=/etc/rkt", "--mutable", "--ipc=private"]


def test_the_other_programs_get_what_rkt_gives(fake: Stage0, image: Image, tmp_path: Path) -> None:
    pod = fake.prepare([AppSpec("one", image)])
    process = pod.run()
    pod.wait_ready()
    (pod.dir / "net-info.json").write_text("[]")
    done = pod.enter("sh", "-c", "echo $0; exit 7", "a b")
    assert (done.code, done.stdout) == (7, "a b\n")
    pod.attach("one", "list").wait()
    pod.attach("one", "stdin,stderr").wait()
    pod.stop(force=True)
    process.wait(20 * PATIENCE)
    assert pod.stop().stdout.endswith("already stopped\n")
    assert pod.gc(debug=True, local_config="/l", remove=False).code == 0
    assert pod.gc().code == 0 and pod.state() == "gone"
    _, enter, listed, custom, stop, *removed = seen(fake)
    tree = fake.data / "cas" / "tree" / fake.stage1.tree
    argv = [f"--pid={process.pid}", "--appname=one", "--", "sh", "-c", "echo $0; exit 7", "a b"]
    assert enter["argv"] == [f"{tree}/rootfs/enter", *argv]
    assert any(str(path).endswith("/net-info.json") for path in enter["fds"].values())
    assert listed["argv"][1:] == ["--action=list", "--app=one", "--debug=false"]
    streams = ["--tty-in=false", "--tty-out=false", "--stdin=true", "--stdout=false", "--stderr=true"]
    assert custom["argv"][1:] == ["--action=custom-attach", *streams, "--app=one", "--debug=false"]
    assert set(custom["env"]) == ENTRY_ENV
    assert stop["argv"][1:] == ["--force", pod.uuid] and stop["fds"]["0"] == "/dev/null"
    garbage = fake.data / "pods" / "exited-garbage" / pod.uuid
    assert [record["argv"] for record in removed] == [
        [f"{garbage}/stage1/rootfs/gc", "--debug", "--local-config", "/l", pod.uuid],
        [f"{garbage}/stage1/rootfs/gc", "--local-config", "/etc/rkt", pod.uuid],
    ]
    assert not any(record["locks"] for record in (enter, listed, custom, stop, *removed))


def test_apps_come_and_go(fake: Stage0, image: Image) -> None:
    sandbox = fake.prepare([], mutable=True)
    process = sandbox.run()
    sandbox.wait_ready()
    assert sandbox.app_add(AppSpec("one", image, {"environment": [{"name": "A", "value": "1"}]})).code == 0
    assert sandbox.app_state("one") == "created" and (sandbox.app_root("one") / "etc" / "passwd").exists()
    assert sandbox.app_start("one").code == 0 and sandbox.app_state("one") == "running"
    assert [app["name"] for app in sandbox.manifest()["apps"]] == ["one"]
    (sandbox.root / "rkt" / "status" / "one").write_text("3\n")
    assert sandbox.app_state("one") == "exited" and sandbox.status() == {"one": 3}
    assert sandbox.app_rm("one").code == 0 and sandbox.manifest()["apps"] == []
    _, add, start, stop, rm = seen(fake)
    assert add["argv"][1:] == ["--debug=false", f"--uuid={sandbox.uuid}", "--app=one"]
    for record in (start, stop, rm):
        assert record["argv"][1:] == ["--debug=false", "--app=one"] and set(record["env"]) == ENTRY_ENV
    assert add["env"]["RKT_STAGE1_ENTERCMD"] == f"{sandbox.dir}/stage1/rootfs/enter"
    assert add["env"]["RKT_STAGE1_ENTERPID"] == str(process.pid)


def test_without_overlay_there_are_copies(fake: Stage0, image: Image) -> None:
    pod = fake.prepare([AppSpec("one", image)], overlay=False)
    pod.run()
    pod.wait_ready()
    assert (pod.app_root("one") / "etc" / "passwd").exists() and not seen(fake)[0]["mounted"]
    assert pod.seen == pod.root and pod.is_ready()
    pod.stop()


def test_after_a_reboot_gc_finds_the_stage1_mounted_and_no_app(fake: Stage0, image: Image) -> None:
    pod = fake.prepare([AppSpec("one", image)])
    process = pod.run()
    pod.wait_ready()
    process.kill()
    process.wait()
    assert pod.state() == "exited"
    pod.reboot()
    assert pod.gc(remove=False).code == 0
    assert seen(fake)[-1]["mounted"] and not os.path.ismount(pod.app_root("one"))
