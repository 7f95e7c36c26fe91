# SPDX-License-Identifier: Apache-2.0
"""Pod manifests as rkt writes them, as users write them, and as nobody should."""

import json
from pathlib import Path
from typing import Any

import pytest

from stage1.errors import BadRequest
from stage1.rkt import manifest
from stage1.rkt.manifest import AppPort, HostPort, Manifest, Mounted, MountPoint, Volume
from tests.unit.rkt.pod_dir import APP, DOCKER, Document, app, lay

FULL = {
    "name": "one",
    "image": {"name": "example.com/busybox", "id": "sha512-6e4d", "labels": [{"name": "version", "value": "1.0"}]},
    "app": {
        "exec": ["/bin/sh", "-c", "sleep 9"],
        "eventHandlers": [{"name": "pre-start", "exec": ["/bin/echo", "pre"]}, {"name": "post-stop", "exec": ["x"]}],
        "user": "app",
        "group": "appg",
        "supplementaryGIDs": [10, 11],
        "workingDirectory": "/tmp",
        "environment": [{"name": "IMGVAR", "value": "fromimage"}, {"name": "E1", "value": "v1"}],
        "mountPoints": [{"name": "data", "path": "/data"}, {"name": "work", "path": "/work", "readOnly": True}],
        "ports": [{"name": "http", "protocol": "tcp", "port": 8080, "count": 1, "socketActivated": False}],
        "isolators": [{"name": "resource/memory", "value": {"limit": "64Mi"}}],
        "userAnnotations": {"ua": "1"},
        "userLabels": {"ul": "2"},
    },
    "readOnlyRootFS": True,
    "mounts": [
        {"volume": "extra", "path": "/extra"},
        {"volume": "v1", "path": "/mnt", "appVolume": {"name": "v1", "kind": "host", "source": "/s", "readOnly": True}},
    ],
    "annotations": [{"name": "foo.com/x", "value": "y"}],
}
VOLUMES = [
    {"name": "data", "kind": "host", "source": "/tmp", "readOnly": True, "recursive": False},
    {"name": "work", "kind": "empty", "mode": "0700", "uid": 5, "gid": 6},
]


def read(pod: str, **options: Any) -> Manifest:
    return manifest.read(f"{pod}/pod", lambda name: f"{pod}/stage1/rootfs/opt/stage2/{name}/manifest", **options)


def test_everything_is_read(tmp_path: Path) -> None:
    mutable = [{"name": "coreos.com/rkt/stage1/mutable", "value": "false"}]
    ports = [
        {"name": "http", "hostPort": 1080},
        {"name": "x", "hostPort": 2, "hostIP": "::1", "podPort": FULL["app"]["ports"][0]},
    ]  # type: ignore[index]
    result = read(lay(tmp_path, FULL, volumes=VOLUMES, isolators=None, annotations=mutable, ports=ports))
    (entry,) = result.entries
    assert entry.argv == ("/bin/sh", "-c", "sleep 9") and entry.pre_start == ("/bin/echo", "pre")
    assert entry.post_stop == ("x",) and (entry.user, entry.group, entry.gids) == ("app", "appg", (10, 11))
    assert entry.cwd == "/tmp" and entry.env == (("IMGVAR", "fromimage"), ("E1", "v1"))
    assert entry.mount_points == (MountPoint("data", "/data"), MountPoint("work", "/work", True))
    own = Volume("v1", "host", "/s", True)
    assert entry.mounts == (Mounted("extra", "/extra"), Mounted("v1", "/mnt", own))
    assert entry.ports == (AppPort("http", "tcp", 8080),) and entry.read_only_root
    assert entry.annotations == (("foo.com/x", "y"),) and not entry.is_from_docker and entry.image_owner == ("0", "0")
    assert result.volumes == {
        "data": Volume("data", "host", "/tmp", True, recursive=False),
        "work": Volume("work", "empty", mode=0o700, uid=5, gid=6),
    }
    assert result.ports == (HostPort("http", 1080), HostPort("x", 2, "::1", AppPort("http", "tcp", 8080)))
    assert result.annotations == {"coreos.com/rkt/stage1/mutable": "false"} and not result.has_isolators


def test_null_is_nothing(tmp_path: Path) -> None:
    nulls = dict.fromkeys(
        ("eventHandlers", "supplementaryGIDs", "environment", "mountPoints", "ports", "isolators", "workingDirectory")
    )
    entry = {"mounts": None, "annotations": None, "readOnlyRootFS": None}
    given: Document = {"volumes": None, "ports": None, "annotations": None, "isolators": None}
    (result,) = read(lay(tmp_path, app(entry=entry, **nulls), image={"annotations": None}, **given)).entries
    assert result._replace(argv=(), user="", group="", image_id="", image_argv=()) == manifest.Entry(
        "one", "", (), "", "", ("0", "0"), False
    )


def test_no_apps_at_all(tmp_path: Path) -> None:
    pod = Path(lay(tmp_path))
    for apps in ([], None):
        (pod / "pod").write_text(json.dumps({"apps": apps}))
        assert read(str(pod)).entries == ()


def test_without_app_the_images_command_runs(tmp_path: Path) -> None:
    bare = {"name": "one", "image": {"id": "sha512-00"}, "app": None}
    image = {"app": {**APP, "exec": ["/from/image"]}, "annotations": DOCKER}
    (entry,) = read(lay(tmp_path, bare, image=image)).entries
    assert entry.argv == ("/from/image",) and entry.is_from_docker


def test_only_one_app_is_looked_at(tmp_path: Path) -> None:
    pod = lay(tmp_path, app("one", exec=[]), app("two"))
    assert [entry.name for entry in read(pod, only="two").entries] == ["two"]
    with pytest.raises(BadRequest, match=r"app 'three'; .*: one, two"):
        read(pod, only="three")


def host(**fields: Any) -> Document:
    return {"volumes": [{"name": "v", "kind": "host", "source": "/x", **fields}]}


def empty(**fields: Any) -> Document:
    return {"volumes": [{"name": "v", "kind": "empty", **fields}]}


PORT = {"name": "p", "protocol": "tcp", "port": 80}


@pytest.mark.parametrize(
    "entry, pod, sentence",
    [
        (app(exec=[]), {}, "app 'one': .*command .*--exec"),
        (app(exec=None), {}, "app 'one': .*command .*--exec"),
        (app(exec=[""]), {}, "app 'one': .*command .*--exec"),
        (app(exec="sh"), {}, "app 'one': 'exec' .*list, .*'sh'"),
        (app(exec=[7]), {}, "app 'one': 'exec' .*string, .*7"),
        (app(exec=["a\0b"]), {}, "app 'one': 'exec' .*zero byte"),
        (
            app(exec=["/a", "b\ud800"]),
            {},
            r"app 'one': 'exec' .*'b\\ud800'; .*UTF-8",
        ),
        (app(user=5), {}, "app 'one': 'user' .*string, .*5"),
        (app(workingDirectory="tmp"), {}, "app 'one': .*working directory .*'tmp'"),
        (app(supplementaryGIDs=["5"]), {}, "app 'one': 'supplementaryGIDs' .*integer, .*'5'"),
        (app(supplementaryGIDs=[True]), {}, "app 'one': 'supplementaryGIDs' .*integer, .*True"),
        (app(environment={"A": "b"}), {}, "app 'one': 'environment' .*list, .*{'A': 'b'}"),
        (app(environment=[{"name": "A=B"}]), {}, "app 'one': 'A=B' .*environment variable"),
        (app(environment=[{"value": "x"}]), {}, "app 'one': '' .*environment variable"),
        (
            app(eventHandlers=[{"name": "pre-stop", "exec": ["x"]}]),
            {},
            "app 'one': .*event 'pre-stop' .*pre-start and post-stop",
        ),
        (
            app(eventHandlers=[{"name": "pre-start", "exec": ["x"]}] * 2),
            {},
            "app 'one': .*two handlers .*pre-start",
        ),
        (
            app(eventHandlers=[{"name": "pre-start", "exec": []}]),
            {},
            "app 'one': .*handler .*pre-start .*command",
        ),
        (
            app(mountPoints=[{"name": "m", "path": "m"}]),
            {},
            "app 'one': .*mount point 'm' .*'m'",
        ),
        (
            app(mountPoints=[{"path": "/m"}]),
            {},
            "app 'one': '' .*mount point; .*a-z",
        ),
        (
            app(entry={"mounts": [{"volume": "v", "path": ""}]}),
            {},
            "app 'one': .*mount of 'v' .*''",
        ),
        (app(entry={"mounts": ["v"]}), {}, "app 'one': 'mounts' .*object, .*'v'"),
        (app(entry={"readOnlyRootFS": "yes"}), {}, "app 'one': 'readOnlyRootFS' .*true or false, .*'yes'"),
        (
            app(ports=[{**PORT, "protocol": "icmp"}]),
            {},
            "app 'one': port 'p': .*'icmp', .*tcp or udp",
        ),
        (app(ports=[{**PORT, "port": 0}]), {}, "app 'one': port 'p': 1 .* 0 .*1 and 65535"),
        (
            app(ports=[{**PORT, "port": 65535, "count": 2}]),
            {},
            "app 'one': port 'p': 2 .* 65535 .*1 and 65535",
        ),
        (
            app(ports=[{**PORT, "count": 0}]),
            {},
            "app 'one': port 'p': 0 .* 80 .*1 and 65535",
        ),
        (
            app(),
            {"ports": [{"name": "p", "hostPort": 65536}]},
            "pod manifest: .*port 65536 .*'p' .*65535",
        ),
        (app(), {"ports": [{"name": "p"}]}, "pod manifest: .*port 0 .*'p' .*65535"),
        (
            app(),
            {"volumes": [{"name": "../v"}]},
            "pod manifest: '../v' .*volume",
        ),
        (
            app(),
            {"volumes": [{"name": "v", "kind": "nfs"}]},
            "volume 'v': .*'nfs', .*host or empty",
        ),
        (app(), host(source="x"), "volume 'v': .*source .*'x'"),
        (app(), host(readOnly="true"), "volume 'v': 'readOnly' .*true or false, .*'true'"),
        (app(), empty(mode="rwx"), "volume 'v': .*mode .*octal .*'rwx'"),
        (app(), empty(mode="17777"), "volume 'v': .*mode .*octal .*'17777'"),
        (app(), empty(uid=-1), "volume 'v': -1 .*user"),
        (app(), empty(gid=2**32 - 1), "volume 'v': 4294967295 .*group"),
        (app(), {"apps": "x"}, "pod manifest: 'apps' .*list, .*'x'"),
        (
            app(),
            {"apps": [app(), app()]},
            "pod manifest: .*apps .*'one'",
        ),
        (
            app(),
            {"apps": [app("../x")]},
            "pod manifest: '../x' .*app",
        ),
    ],
)
def test_what_makes_no_sense_is_reported_in_one_sentence(
    tmp_path: Path, entry: Document, pod: Document, sentence: str
) -> None:
    with pytest.raises(BadRequest, match=sentence) as caught:
        read(lay(tmp_path, entry, **pod))
    assert "\n" not in str(caught.value)


def test_without_a_command_in_either_manifest_the_app_is_refused(tmp_path: Path) -> None:
    pod = lay(tmp_path, {"name": "one"}, image={"app": None})
    with pytest.raises(BadRequest, match=r"pod manifest .*--exec"):
        read(pod)


@pytest.mark.parametrize("text, sentence", [("{", "is not JSON"), ("[]", "JSON object"), ("", "is not JSON")])
def test_a_damaged_manifest(tmp_path: Path, text: str, sentence: str) -> None:
    pod = lay(tmp_path, app())
    for name in (f"{pod}/pod", f"{pod}/stage1/rootfs/opt/stage2/one/manifest"):
        before = Path(name).read_text()
        Path(name).write_text(text)
        with pytest.raises(BadRequest, match=sentence):
            read(pod)
        Path(name).write_text(before)


def test_a_missing_manifest(tmp_path: Path) -> None:
    pod = lay(tmp_path, app())
    Path(f"{pod}/stage1/rootfs/opt/stage2/one/manifest").unlink()
    with pytest.raises(FileNotFoundError, match="stage2/one/manifest"):
        read(pod)
    with pytest.raises(FileNotFoundError):
        manifest.read(str(tmp_path / "pod"), str)
