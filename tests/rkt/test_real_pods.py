# SPDX-License-Identifier: Apache-2.0
"""The real rkt with the real stage1 image: every command on real VMs, and nothing left when pods are gone."""

import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from tests.fakes import aci
from tests.fakes.patience import PACE, PATIENCE
from tests.rkt import stage1_image
from tests.rkt.real import RealRkt, on_terminal, processes_of, removed, sh, wait_until

pytestmark = [
    pytest.mark.rkt,
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so it needs root"),
]
METADATA = "/run/rkt/metadata-svc.sock"
LASTING = "trap 'echo got term; exit 0' TERM; echo up; while :; do sleep 0.1; done"


def test_the_apps_code_is_rkts(rkt: RealRkt, app: Path) -> None:
    pod = rkt.run(app, *sh("echo out; echo err >&2; exit 7"))
    done = pod.finish()
    assert (done.code, done.out) == (7, "out\n") and "err\n" in done.err
    status = pod.status()
    assert status["state"] == "exited" and status["app-busybox"] == "7" and int(status["pid"]) == pod.process.pid
    assert pod.listed()["state"] == "exited" and pod.listed()["apps"][0]["exit_code"] == 7
    manifest = json.loads(rkt.call("cat-manifest", pod.uuid).out)
    assert manifest["apps"][0]["app"]["exec"] == ["/bin/sh", "-c", "echo out; echo err >&2; exit 7"]
    removed(rkt, pod)


def test_a_prepared_pod_runs_later(rkt: RealRkt, app: Path) -> None:
    prepared = rkt.call("prepare", f"--stage1-path={rkt.stage1}", app, *sh("echo prepared; exit 9"))
    uuid = prepared.out.strip()
    assert prepared.code == 0 and len(uuid) == 36
    pod = rkt.run(uuid, command="run-prepared")
    done = pod.finish()
    assert (done.code, done.out) == (9, "prepared\n"), done.err
    removed(rkt, pod)


def test_a_running_pod_is_listed_entered_and_stopped(rkt: RealRkt, app: Path) -> None:
    pod = rkt.run("--hostname=there", app, *sh(LASTING))
    pod.wait_for("up\n")
    assert pod.status()["state"] == "running" and pod.listed()["state"] == "running"
    done = pod.enter("/bin/sh", "-c", "printf '%s|' \"$@\"; hostname; id -u; pwd; exit 42", "x", "a b", "c'\"\n$d", "")
    assert (done.code, done.out) == (42, "a b|c'\"\n$d||there\n0\n/\n"), done.err
    argv = [*rkt.prefix, "enter", pod.uuid, "/bin/sh", "-c", "tty; stty size; read line; echo got $line; exit 43"]
    on = on_terminal(argv, rkt.env, given=b"hello\r", after=b"24 80")
    assert on.code == 43 and "/dev/pts/" in on.out and "got hello" in on.out, on.out
    refused = rkt.call("rm", pod.uuid)
    assert refused.code == 254 and "is currently running" in refused.err
    begun = time.monotonic()
    stopped = rkt.call("stop", pod.uuid)
    assert (stopped.code, stopped.out.strip('"\n')) == (0, pod.uuid), stopped.err
    ended = pod.finish()
    assert ended.code == 0 and ended.out == "got term\n", ended.err
    assert time.monotonic() - begun < 20 * PATIENCE
    assert pod.status()["app-busybox"] == "0"
    assert rkt.call("stop", pod.uuid).code == 0, "already stopped is fine"
    removed(rkt, pod)


def test_stop_with_force_ends_an_app_that_does_not_listen(rkt: RealRkt, app: Path) -> None:
    pod = rkt.run(app, *sh("trap '' TERM; echo up; while :; do sleep 0.1; done"))
    pod.wait_for("up\n")
    begun = time.monotonic()
    assert rkt.call("stop", "--force", pod.uuid).code == 0
    assert pod.finish().code != 0 and time.monotonic() - begun < 10 * PATIENCE
    removed(rkt, pod)


def test_a_pod_ends_with_its_launcher_and_leaves_no_vm(rkt: RealRkt, app: Path) -> None:
    pod = rkt.run(app, *sh(LASTING))
    pod.wait_for("up\n")
    os.kill(pod.process.pid, signal.SIGKILL)
    wait_until(lambda: pod.status()["state"] == "exited", 1 + 2 * (PACE > 1))
    pod.process.wait()
    wait_until(lambda: not processes_of(pod.uuid), 1)
    removed(rkt, pod)


@pytest.mark.parametrize("how", [(), ("--no-overlay",)])
def test_what_an_app_changed_is_exported(rkt: RealRkt, app: Path, tmp_path: Path, *, how: tuple[str, ...]) -> None:
    pod = rkt.run(*how, app, *sh("echo changed > /etc/new; rm /etc/group"))
    assert pod.finish().code == 0
    exported = rkt.call("export", pod.uuid, tmp_path / "out.aci")
    assert exported.code == 0, exported.err
    with tarfile.open(tmp_path / "out.aci") as archive:
        names = archive.getnames()
        new = archive.extractfile("rootfs/etc/new")
        assert new and new.read() == b"changed\n" and "rootfs/etc/group" not in names
    removed(rkt, pod)


def test_volumes_of_the_host_and_empty_ones_that_two_apps_share(rkt: RealRkt, app: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from the host\n")
    host = f"--volume=data,kind=host,source={tmp_path}"
    line = "cat /data/in; echo from the guest > /data/out; (echo x > /more/no) 2>&1 | grep -o 'Read-only.*'"
    read_only = f"--volume=more,kind=host,source={tmp_path},readOnly=true"
    pod = rkt.run(host, read_only, app, *sh(line))
    done = pod.finish()
    assert done.out == "from the host\nRead-only file system\n", (done.out, done.err)
    assert (tmp_path / "out").read_text() == "from the guest\n" and not (tmp_path / "no").exists()
    removed(rkt, pod)
    empty = ["--volume=data,kind=empty,mode=0770,uid=1000,gid=1001", "--volume=more,kind=empty"]
    wait = "until [ -s /more/it ]; do sleep 0.1; done; cat /more/it; stat -c '%a %u %g' /data"
    one = [app, "--name=one", "--exec=/bin/sh", "--", "-c", "echo from one > /more/it", "---"]
    pod = rkt.run(*empty, *one, app, "--name=two", *sh(wait))
    done = pod.finish()
    assert (done.code, done.out) == (0, "from one\n770 1000 1001\n"), done.err
    removed(rkt, pod)


def test_options_are_applied_to_the_app(rkt: RealRkt, app: Path) -> None:
    line = "id; hostname; cat /etc/resolv.conf; grep extra /etc/hosts; (: > /x) 2>&1 | grep -o 'Read-only.*'; echo $E"
    argv = ["--hostname=named", "--dns=192.0.2.1", "--hosts-entry=192.0.2.2=extra", "--set-env=E=a b"]
    app_options = ["--user=app", "--group=appg", "--supplementary-gids=7", "--readonly-rootfs=true"]
    pod = rkt.run(*argv, app, *app_options, *sh(line))
    done = pod.finish()
    lines = done.out.splitlines()
    assert lines[0].startswith("uid=1000(app) gid=1001(appg)") and "7" in lines[0], (done.out, done.err)
    assert lines[1] == "named" and "nameserver 192.0.2.1" in lines and lines[-1] == "a b"
    assert any("192.0.2.2" in one for one in lines) and "Read-only file system" in lines
    removed(rkt, pod)


def test_interactive_on_a_pipe_and_on_a_terminal(rkt: RealRkt, app: Path) -> None:
    pod = rkt.run("--interactive", app, *sh("read line; echo got $line; exit 4"), stdin=subprocess.PIPE)
    done = pod.finish(b"something\n")
    assert (done.code, done.out) == (4, "got something\n"), done.err
    removed(rkt, pod)
    argv = ["run", "--net=none", f"--stage1-path={rkt.stage1}", "--interactive", str(app)]
    line = "tty; stty size; read line; echo got $line; exit 5"
    on = on_terminal([*rkt.prefix, *argv, *sh(line)], rkt.env, given=b"typed\r", after=b"24 80")
    assert on.code == 5 and "got typed" in on.out, on.out


@pytest.mark.parametrize(
    "argv, noun",
    [
        (("--net=host",), "--net=host"),
        (("--net=absent",), "'absent'"),
        (("--net=none", "--no-overlay", "--private-users"), "--private-users"),
        (("--net=none", "--ipc=parent"), "--ipc=parent"),
    ],
)
def test_what_can_not_be_is_refused_and_leaves_nothing(
    rkt: RealRkt, app: Path, *, argv: tuple[str, ...], noun: str
) -> None:
    done = rkt.call("run", f"--stage1-path={rkt.stage1}", *argv, app, *sh("true"))
    assert done.code == 254 and noun in done.err
    assert rkt.call("gc", "--grace-period=0s").code == 0
    assert json.loads(rkt.call("list", "--format=json").out or "null") in (None, [])


def test_gc_after_a_reboot_and_twice(rkt: RealRkt, app: Path) -> None:
    pod = rkt.run(app, *sh("true"))
    assert pod.finish().code == 0
    for mounted in sorted(Path("/proc/self/mountinfo").read_text().splitlines(), reverse=True):
        if pod.uuid in mounted.split()[4]:
            subprocess.run(["umount", "-l", mounted.split()[4]], check=False)
    for _ in range(2):
        done = rkt.call("gc", "--grace-period=0s")
        assert done.code == 0 and "exit status" not in done.err
    assert not pod.engine_dir.exists() and not pod.dir.exists()


def test_no_python_is_needed_on_the_host(rkt: RealRkt, app: Path, tmp_path: Path) -> None:
    """A mount namespace in which the host's interpreters and their library are covered up."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "no-program").write_text("")
    interpreters = {os.path.realpath(path) for path in Path("/usr/bin").glob("python3*")}
    cover = [f"mount --bind {tmp_path}/no-program {path}" for path in interpreters if os.path.isfile(path)]
    cover += [f"mount --bind {tmp_path}/empty {path}" for path in Path("/usr/lib").glob("python3*")]
    rkt_command = " ".join([*rkt.prefix, "run", "--net=none", f"--stage1-path={rkt.stage1}", str(app)])
    line = f"{' && '.join(cover)} && ! /usr/bin/python3 -c pass 2>/dev/null && {rkt_command} --exec=/bin/false"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", line], capture_output=True, text=True, env=rkt.env, timeout=100, check=False
    )
    assert cover and done.returncode == 1 and "code 1" in done.stderr, done.stderr
    rkt.call("gc", "--grace-period=0s")


def test_apps_of_a_sandbox_come_and_go(rkt: RealRkt, app: Path) -> None:
    assert rkt.call("fetch", app).code == 0
    image = "example.com/busybox:1.0"
    pod = rkt.run(command="app sandbox")
    ready = rkt.call("status", "--wait-ready", pod.uuid)
    assert ready.code == 0, pod.finish().err

    def app_call(*argv: str) -> str:
        done = rkt.call("app", *argv)
        assert done.code == 0, (argv, done.err)
        return done.out

    for name, code in (("one", 3), ("two", 0)):
        line = f"echo I am {name}; sleep 300" if name == "one" else f"exit {code}"
        app_call("add", pod.uuid, image, f"--name={name}", *sh(line))
        assert "state=created" in app_call("status", pod.uuid, f"--app={name}")
    app_call("start", pod.uuid, "--app=one")
    app_call("start", pod.uuid, "--app=two")
    assert {"one", "two"} <= {*app_call("list", pod.uuid).split()}
    assert "state=running" in app_call("status", pod.uuid, "--app=one")
    wait_until(lambda: "state=exited" in app_call("status", pod.uuid, "--app=two"))
    done = rkt.call("app", "exec", "--app=one", pod.uuid, "/bin/sh", "-c", "echo $AC_APP_NAME; exit 6")
    assert (done.code, done.out) == (6, "one\n"), done.err
    app_call("start", pod.uuid, "--app=two")
    for _ in range(2):
        app_call("stop", pod.uuid, "--app=one")
    assert "exit_code=143" in app_call("status", pod.uuid, "--app=one")
    app_call("rm", pod.uuid, "--app=one")
    app_call("add", pod.uuid, image, "--name=one", *sh("true"))
    assert "state=created" in app_call("status", pod.uuid, "--app=one"), "nothing of the earlier one is left"
    assert pod.listed()["state"] == "running"
    assert rkt.call("stop", pod.uuid).code == 0
    assert pod.finish().code == 0
    removed(rkt, pod)


def check_a_sandboxs_port(rkt: RealRkt, app: Path, *, inside: str) -> None:
    """It is given when the sandbox is made, with the pod's own port, and whichever app listens there is reached."""
    pod = rkt.run("--port=web:tcp:8000:0.0.0.0:18081", command="app sandbox", net="default")
    assert rkt.call("fetch", app).code == 0 and rkt.call("status", "--wait-ready", pod.uuid).code == 0
    serve = sh("mkdir /www; echo later > /www/it; exec httpd -f -p 8000 -h /www")
    assert rkt.call("app", "add", pod.uuid, "example.com/busybox:1.0", "--name=one", *serve).code == 0
    assert rkt.call("app", "start", pod.uuid, "--app=one").code == 0
    fetch = ["ip", "netns", "exec", inside, aci.BUSYBOX, "wget", "-q", "-O-", "http://172.16.28.1:18081/it"]
    wait_until(lambda: subprocess.run(fetch, capture_output=True, timeout=60, check=False).stdout == b"later\n")
    assert rkt.call("stop", pod.uuid).code == 0
    pod.finish()
    removed(rkt, pod)


def test_there_is_a_default_network_and_gc_takes_it_away(app: Path, tmp_path: Path, guest_dir: Path) -> None:
    name = f"rkt-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    rkt = RealRkt(tmp_path, stage1_image.archive(guest_dir), inside=f"/run/netns/{name}")
    Path(METADATA).unlink(missing_ok=True)  # rkt leaves it there
    metadata = subprocess.Popen([*rkt.prefix, "metadata-service"], env=rkt.env, stderr=subprocess.DEVNULL)
    try:
        subprocess.run(["ip", "netns", "exec", name, "ip", "link", "set", "lo", "up"], check=True)
        rules = ["ip", "netns", "exec", name, "iptables-save", "-t", "nat"]
        ask = "wget -qO- --header 'Metadata-Flavor: AppContainer' $AC_METADATA_URL/acMetadata/v1/pod/uuid"
        serve = f"mkdir /www; echo served > /www/it; httpd -h /www; {ask}; echo ' up'; exec sleep 600"
        wait_until(lambda: os.path.exists(METADATA))
        pod = rkt.run("--port=web:18080", "--mds-register", app, *sh(serve), net="default")
        assert f"{pod.uuid} up\n" in pod.wait_for("up\n"), "the metadata service was asked"
        entered = pod.enter("/bin/sh", "-c", "echo $AC_METADATA_URL")
        assert entered.out.startswith("http://172.16.28.1:18112/"), entered.err
        (network,) = pod.listed()["networks"]
        assert network["netName"] == "default" and network["ip"].startswith("172.16.28.")
        for address in ("172.16.28.1", "127.0.0.1"):
            fetch = ["ip", "netns", "exec", name, aci.BUSYBOX, "wget", "-q", "-O-", f"http://{address}:18080/it"]
            assert subprocess.run(fetch, capture_output=True, check=True, timeout=60).stdout == b"served\n"
        assert pod.uuid in subprocess.run(rules, capture_output=True, text=True, check=True).stdout
        assert rkt.call("stop", pod.uuid).code == 0
        pod.finish()
        assert "default:ip4=172.16.28." in rkt.call("list").out
        removed(rkt, pod)
        assert pod.uuid not in subprocess.run(rules, capture_output=True, text=True, check=True).stdout
        assert not os.listdir(rkt.data / "clearpod/networks")
        check_a_sandboxs_port(rkt, app, inside=name)
    finally:
        metadata.kill()
        metadata.wait()
        Path(METADATA).unlink(missing_ok=True)
        rkt.clean()
        subprocess.run(["ip", "netns", "del", name], check=True)
        shutil.rmtree(rkt.data, ignore_errors=True)


def test_an_app_that_fails_ends_the_pod_and_one_that_succeeds_does_not(rkt: RealRkt, app: Path) -> None:
    one = [app, "--name=one", "--exec=/bin/true"]
    two = [app, "--name=two", "--exec=/bin/sh", "--", "-c", "sleep 1; kill -9 $$", "---"]
    pod = rkt.run(*one, *two, app, "--name=three", *sh(LASTING))
    done = pod.finish()
    assert done.code == 137 and "app two" in done.err, done.err
    status = pod.status()
    assert {name: status[f"app-{name}"] for name in ("one", "two", "three")} == {"one": "0", "two": "137", "three": "0"}
    removed(rkt, pod)


def test_event_handlers_run_before_and_after(rkt: RealRkt, app: Path, tmp_path: Path) -> None:
    prepared = rkt.call("prepare", f"--stage1-path={rkt.stage1}", app, *sh("cat /before; exit 3")).out.strip()
    manifest = json.loads(rkt.call("cat-manifest", prepared).out)
    handlers = {"pre-start": "echo made > /before", "post-stop": "echo after > /after"}
    manifest["apps"][0]["app"]["eventHandlers"] = [
        {"name": name, "exec": ["/bin/sh", "-c", line]} for name, line in handlers.items()
    ]
    (tmp_path / "pod.json").write_text(json.dumps(manifest))
    pod = rkt.run(f"--pod-manifest={tmp_path}/pod.json")
    done = pod.finish()
    assert (done.code, done.out) == (3, "made\n"), done.err
    assert (pod.dir / "stage1/rootfs/opt/stage2/busybox/rootfs/after").read_text() == "after\n"
    removed(rkt, pod)


def test_a_vm_that_dies_is_reported_and_ends_the_pod(rkt: RealRkt, app: Path) -> None:
    pod = rkt.run(app, *sh(LASTING))
    pod.wait_for("up\n")
    (vmm,) = Path(f"/proc/{pod.process.pid}/task/{pod.process.pid}/children").read_text().split()
    os.kill(int(vmm), signal.SIGKILL)
    done = pod.finish()
    assert done.code == 254 and "signal 9" in done.err
    removed(rkt, pod)


def test_attach_lists_and_follows_the_streams_of_an_app(rkt: RealRkt, app: Path) -> None:
    streams = ["--stdin=stream", "--stdout=stream", "--stderr=null"]
    pod = rkt.run(app, *streams, *sh("read line; echo got $line; sleep 1; exit 2"))
    wait_until(lambda: "pid" in pod.status() and pod.status()["pid"] != "")
    listed = json.loads(rkt.call("attach", "--mode=list", pod.uuid).out)
    assert {one["name"] for one in listed["targets"]} == {"stdin", "stdout"}
    joined = subprocess.run(
        [*rkt.prefix, "attach", pod.uuid], input=b"hello\n", capture_output=True, env=rkt.env, timeout=100, check=False
    )
    assert (joined.returncode, joined.stdout) == (0, b"got hello\n"), joined.stderr
    assert pod.finish().code == 2
    removed(rkt, pod)


def test_the_archive_is_not_larger_than_promised(rkt: RealRkt) -> None:
    assert 10 << 20 < rkt.stage1.stat().st_size <= 60_000_000
