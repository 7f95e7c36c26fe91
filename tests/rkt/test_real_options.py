# SPDX-License-Identifier: Apache-2.0
"""The real rkt's options of isolation, size, users and streams, as apps in real VMs see them. Many apps share a pod."""

import copy
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from stage1.pod.capabilities import bounding
from tests.fakes import aci
from tests.rkt.real import Done, RealRkt, on_terminal, removed, sh, wait_until

pytestmark = [
    pytest.mark.rkt,
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so it needs root"),
]
STATUS = "grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status | tr -d '\\n\\t'; echo"
CAPABILITIES = 41
"""Of the guest's kernel."""


def says(image: Path, name: str, *flags: str, line: str) -> list[str]:
    """The fields for one app of several, whose output has its name in front."""
    marked = f"{{ {line}; }} 2>&1 | sed 's/^/{name}: /'"
    return [str(image), f"--name={name}", *flags, "--exec=/bin/sh", "--", "-c", marked, "---"]


def output_of(done: Done) -> dict[str, list[str]]:
    """What each app wrote, by lines."""
    assert done.code == 0, done.err
    result: dict[str, list[str]] = {}
    for line in done.out.splitlines():
        name, _, text = line.partition(": ")
        result.setdefault(name, []).append(text)
    return result


def bits(*names: str) -> str:
    """The set as /proc has it."""
    lines = Path("/usr/include/linux/capability.h").read_text().splitlines()
    numbers = {fields[1]: int(fields[2]) for fields in (line.split() for line in lines) if fields[:1] == ["#define"]
               and fields[1].startswith("CAP_") and fields[2].isdigit()}  # fmt: skip
    return f"{sum(1 << numbers[name] for name in names):016x}"


def status(capabilities: str, *, no_new_privs: int, seccomp: int) -> str:
    return f"CapBnd:{capabilities}NoNewPrivs:{no_new_privs}Seccomp:{seccomp}"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with isolators of its own, and a file with an owner other than root."""
    place = tmp_path_factory.mktemp("guarded")
    root = aci.root(place / "root")
    (root / "mine").write_text("")
    os.chown(root / "mine", 4000, 5000)
    isolators = [
        {"name": "os/linux/no-new-privileges", "value": True},
        {"name": "os/unix/sysctl", "value": {"kernel.shm_rmid_forced": "1"}},
    ]
    return aci.pack(root, place / "guarded.aci", name="example.com/guarded", isolators=isolators)


def test_capabilities_filters_users_and_environment(rkt: RealRkt, guarded: Path, app: Path, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("FROM_FILE=f\nOVER=file\n")
    (tmp_path / "file").write_text("a file\n")
    denied = "chmod 600 /tmp/it; echo $?"
    touch = "touch /tmp/it"
    apps = [
        says(app, "plain", line=f"{STATUS}; ls /sys/module | wc -l; unshare -m true; echo $?"),
        says(app, "retain", "--caps-retain=CAP_KILL,CAP_NET_ADMIN", line=STATUS),
        says(app, "remove", "--caps-remove=CAP_MKNOD,CAP_CHOWN", line=STATUS),
        says(guarded, "guarded", line=f"{STATUS}; cat /proc/sys/kernel/shm_rmid_forced"),
        says(app, "errno", "--seccomp=mode=remove,errno=ENOSYS,chmod,fchmodat,fchmodat2", line=f"{touch}; {denied}"),
        says(app, "kill", "--seccomp=mode=remove,chmod,fchmodat,fchmodat2", line=f"{touch}; {denied}"),
        says(app, "white", "--seccomp=mode=retain,@rkt/default-whitelist", line=f"{touch}; {denied}; {STATUS}"),
        says(app, "black", "--seccomp=mode=remove,errno=EPERM,@rkt/default-blacklist", line="unshare -m true; echo $?"),
        says(app, "number", "--user=4242", "--group=77", line="id; echo $HOME; grep NoNew /proc/self/status"),
        says(guarded, "path", "--user=/mine", "--group=/mine", line="id -u; id -g"),
        says(
            app,
            "words",
            "--working-dir=/etc",
            "--environment=E=one two",
            "--mount=volume=file,target=/etc/file",
            line="pwd; echo $E $FROM_FILE $OVER; cat file; echo more >> file",
        ),
    ]
    options = ["--ipc=private", "--set-env=OVER=flag", f"--set-env-file={tmp_path}/env"]
    options.append(f"--volume=file,kind=host,source={tmp_path}/file")
    pod = rkt.run(*options, *(word for one in apps for word in one))
    done = pod.finish()
    result = output_of(done)
    default = bounding((), ())
    assert result["plain"][0] == status(bits(*default), no_new_privs=0, seccomp=2) and result["plain"][-1] == "1"
    assert result["plain"][1] == "0", "hidden"
    assert result["retain"] == [status(bits("CAP_KILL", "CAP_NET_ADMIN"), no_new_privs=0, seccomp=2)]
    left = set(default) - {"CAP_MKNOD", "CAP_CHOWN"}
    assert result["remove"] == [status(bits(*left), no_new_privs=0, seccomp=2)] and len(left) == len(default) - 2
    assert result["guarded"] == [status(bits(*default), no_new_privs=1, seccomp=2), "1"]
    assert "Function not implemented" in result["errno"][0] and result["errno"][-1] == "1"
    assert result["kill"][-1] == "159", "128 + SIGSYS"
    assert result["white"][0] == "0" and result["white"][1] == status(bits(*default), no_new_privs=0, seccomp=2)
    assert "Operation not permitted" in result["black"][0] and result["black"][-1] == "1"
    assert result["number"] == ["uid=4242 gid=77 groups=77", "/root", "NoNewPrivs:\t1"]
    assert result["path"] == ["4000", "5000"] and result["words"] == ["/etc", "one two f flag", "a file"]
    assert (tmp_path / "file").read_text() == "a file\nmore\n"
    removed(rkt, pod)


def test_limits_are_the_apps_and_make_the_vm_as_large_as_it_must_be(rkt: RealRkt, tmp_path: Path) -> None:
    root = aci.root(tmp_path / "root")
    script = "mkdir -p /tmp/cg; mount -t cgroup2 none /tmp/cg; cd /tmp/cg; cat memory.max cpu.max cpu.weight > /seen"
    handlers = [{"name": "pre-start", "exec": ["/bin/sh", "-c", script]}]
    image = aci.pack(root, tmp_path / "sized.aci", name="example.com/sized", eventHandlers=handlers)
    limits = ["--memory=100M", "--cpu=500m", "--cpu-shares=512", "--oom-score-adj=100"]
    line = "grep MemTotal /proc/meminfo; nproc; cat /proc/self/oom_score_adj"
    apps = [says(image, "one", *limits, line=line), says(image, "two", "--memory=60Mi", "--cpu=300m", line="nproc")]
    pod = rkt.run(*(word for one in apps for word in one))
    done = pod.finish()
    result = output_of(done)
    total_kib = int(result["one"][0].split()[1])
    assert 64 + 96 + 60 - 40 < total_kib / 1024 < 64 + 96 + 60, "of the VM"
    assert result["one"][1:] == ["1", "100"] and result["two"] == ["1"], "0.8 CPUs are one"
    seen = (pod.dir / "stage1/rootfs/opt/stage2/one/rootfs/seen").read_text().split()
    assert seen == ["99999744", "50000", "100000", "20"], "bytes in whole pages, quota and period, weight of 512 shares"
    removed(rkt, pod)


def test_nothing_is_restricted_with_insecure_options_and_files_come_from_the_host(rkt: RealRkt, app: Path) -> None:
    free = copy.copy(rkt)
    free.prefix = [one.replace("=image", "=image,all-run") for one in rkt.prefix]
    line = f"{STATUS}; ls /sys/module | wc -l; cat /etc/resolv.conf /etc/hosts"
    pod = free.run("--dns=host", "--hosts-entry=host", *says(app, "free", line=line))
    result = output_of(pod.finish())["free"]
    assert result[0] == status(f"{(1 << CAPABILITIES) - 1:016x}", no_new_privs=0, seccomp=0)
    assert int(result[1]) > 0, "not hidden"
    files = [line for name in ("/etc/resolv.conf", "/etc/hosts") for line in Path(name).read_text().splitlines()]
    assert result[2:] == files
    removed(rkt, pod)


def call(rkt: RealRkt, *argv: str) -> str:
    done = rkt.call(*argv)
    assert done.code == 0, (argv, done.err)
    return done.out


def test_a_sandboxs_annotations_volumes_logs_and_chosen_streams(rkt: RealRkt, app: Path, tmp_path: Path) -> None:
    call(rkt, "fetch", str(app))
    (tmp_path / "logs").mkdir()
    kept = "coreos.com/rkt/experiment"
    notes = {f"{kept}/logmode": "k8s-plain", f"{kept}/kubernetes-log-dir": f"{tmp_path}/logs",
             "clearpod.io/memory-mib": "700", "clearpod.io/vcpus": "2"}  # fmt: skip
    pod = rkt.run(*(f"--annotation={name}={value}" for name, value in notes.items()), command="app sandbox")
    call(rkt, "status", "--wait-ready", pod.uuid)
    image = "example.com/busybox:1.0"
    streams = [f"--{name}=stream" for name in ("stdin", "stdout", "stderr")]
    log = f"--annotation={kept}/kubernetes-log-path=talks_0.log"
    volume = f"--mnt-volume=name=it,kind=host,source={tmp_path},target=/it,readOnly=true"
    line = "while read x; do echo got $x; echo wrong $x >&2; test $x = end && exit; done"
    call(rkt, "app", "add", pod.uuid, image, "--name=talks", log, volume, *streams, *sh(line))
    terminal = [f"--{name}=tty" for name in ("stdin", "stdout", "stderr")]
    call(rkt, "app", "add", pod.uuid, image, "--name=term", *terminal, *sh("tty; read x; echo got $x; exit 7"))
    for name in ("talks", "term"):
        call(rkt, "app", "start", pod.uuid, f"--app={name}")
    facts = pod.enter("/bin/sh", "-c", "nproc; grep MemTotal /proc/meminfo; ls /it; touch /it/no", app="talks")
    assert facts.out.split()[0] == "2" and 600 << 10 < int(facts.out.split()[2]) < 700 << 10
    assert "logs" in facts.out.split() and "Read-only file system" in facts.err
    listed: dict[str, Any] = json.loads(call(rkt, "attach", "--mode=list", "--app=term", pod.uuid))
    assert [one["name"] for one in listed["targets"]] == ["tty"]
    attach(rkt, pod.uuid)
    log_file = tmp_path / "logs" / "talks_0.log"
    expected = ["stderr wrong end", "stderr wrong one", "stdout got end", "stdout got one"]
    wait_until(lambda: sorted(line[31:] for line in log_file.read_text().splitlines()) == expected)
    wait_until(lambda: "exit_code=7" in call(rkt, "app", "status", pod.uuid, "--app=term"))
    call(rkt, "stop", pod.uuid)
    assert pod.finish().code == 0
    removed(rkt, pod)


def attach(rkt: RealRkt, uuid: str) -> None:
    """By chosen streams, and to a terminal."""
    refused = rkt.call("attach", "--mode=tty", "--app=talks", uuid)
    assert refused.code == 254 and "tty-in" in refused.err
    client = [*rkt.prefix, "attach", "--app=talks"]
    given = subprocess.run(
        [*client, "--mode=stdin,stderr", uuid], input=b"one\nend\n", capture_output=True, env=rkt.env, timeout=100
    )
    assert (given.returncode, given.stdout, given.stderr) == (0, b"", b"wrong one\nwrong end\n")
    client = [*rkt.prefix, "attach", "--app=term", "--mode=tty", uuid]
    on = on_terminal(client, rkt.env, given=b"typed\r\r", after=b"")
    assert on.code == 0 and "got typed" in on.out, on
