# SPDX-License-Identifier: Apache-2.0
"""Manifests, registries.conf, authfiles and skopeo's last words: pure functions over tables."""

import base64
import json
import tomllib
from typing import Any

import pytest

from cri.config_tables import Registry
from cri.image import manifest, registries
from cri.image.manifest import Manifest
from cri.image.registries import Auth, authfile, registries_conf
from cri.image.skopeo import LoginNeeded, RegistryUnavailable, explain, reason_of
from cri.store.reference import parse
from stage1.errors import BadRequest, NoSpace, NotFound, PodError, Unsupported
from stage1.rootfs.corrupt import Corrupt

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
OCI, DOCKER = "application/vnd.oci.image", "application/vnd.docker"
CONFIG = {"mediaType": f"{OCI}.config.v1+json", "digest": A}
LAYER = {"mediaType": f"{OCI}.layer.v1.tar+gzip", "digest": B}


def dump(document: Any) -> bytes:
    return json.dumps(document).encode()


def entry(os: str, arch: str, variant: str = "", digest: str = A) -> dict[str, Any]:
    return {"digest": digest, "platform": {"os": os, "architecture": arch, "variant": variant}}


@pytest.mark.parametrize(
    ("entries", "arch", "chosen"),
    [
        ([entry("linux", "amd64")], "amd64", A),
        ([entry("linux", "arm64"), entry("linux", "amd64", digest=B)], "amd64", B),
        ([entry("windows", "amd64"), entry("linux", "amd64", digest=B)], "amd64", B),
        ([entry("linux", "arm64", "v8")], "arm64", A),
        ([entry("linux", "amd64", "v3"), entry("linux", "amd64", digest=B)], "amd64", B),
        ([entry("linux", "riscv64")], "riscv64", A),
    ],
)
def test_of_an_index_the_entry_for_this_host_is_chosen(entries: Any, arch: str, chosen: str) -> None:
    assert manifest.choose(dump({"manifests": entries}), arch, name="x") == chosen


@pytest.mark.parametrize(
    ("entries", "there"),
    [
        ([], "nothing"),
        ([entry("linux", "s390x"), entry("unknown", "unknown")], "linux/s390x"),
        ([entry("linux", "arm", "v7"), entry("windows", "amd64")], "linux/arm, windows/amd64"),
        (["rubbish", 5], "nothing"),
        ([{"digest": A, "platform": "x"}, {"digest": A, "platform": {"os": 7, "architecture": ["a"]}}], "nothing"),
        (5, "nothing"),
    ],
)
def test_an_index_without_this_platform_is_reported_with_its_platforms(entries: Any, there: str) -> None:
    with pytest.raises(BadRequest, match=f"image x .*{there} .*linux/amd64"):
        manifest.choose(dump({"manifests": entries}), "amd64", name="x")


def test_a_manifest_is_no_index() -> None:
    assert manifest.choose(dump({"config": CONFIG}), "amd64", name="x") is None


@pytest.mark.parametrize("kind", ["tar", "tar+gzip", "tar+zstd"])
@pytest.mark.parametrize("prefix", [f"{OCI}.layer.v1.", f"{OCI}.layer.nondistributable.v1."])
def test_oci_layers_of_all_kinds_are_taken(kind: str, prefix: str) -> None:
    document = {"schemaVersion": 2, "config": CONFIG, "layers": [{"mediaType": prefix + kind, "digest": B}]}
    assert manifest.read_manifest(dump(document), name="x") == Manifest(A, (B,))


@pytest.mark.parametrize(
    "annotations, kept",
    [
        ({"io.clearpod.kernel.path": "/k", "other": "x"}, {"io.clearpod.kernel.path": "/k"}),
        ({"com.urunc.unikernel.binary": "L2s="}, {"com.urunc.unikernel.binary": "L2s="}),
        ({"io.clearpod.kernel.path": 7}, {}),
        ({"io.clearpod.kernel.path": "k" * 5000}, {}),
        (["io.clearpod.kernel.path"], {}),
        (None, {}),
    ],
)
def test_a_manifests_annotations_about_a_kernel_are_kept_as_labels(annotations: Any, kept: dict[str, str]) -> None:
    labels = manifest.kernel_annotations(dump({"annotations": annotations}))
    assert labels == kept
    config = {"config": {"Labels": {"io.clearpod.kernel.machine": "pc"}}}
    labelled = manifest.with_labels(config, labels)
    assert labelled["config"]["Labels"] == {"io.clearpod.kernel.machine": "pc", **kept}
    assert manifest.with_labels({"config": {"Labels": {**kept, "a": "b"}}}, labels)["config"]["Labels"]["a"] == "b"


@pytest.mark.parametrize(
    "own, labels",
    [
        ({"a": "b"}, {"a": "b", "com.urunc.unikernel.binary": "/file"}),
        (None, {"com.urunc.unikernel.binary": "/file"}),
        (
            {"io.clearpod.kernel.machine": "pc"},
            {"io.clearpod.kernel.machine": "pc", "com.urunc.unikernel.binary": "/file"},
        ),
        ({"com.urunc.unikernel.cmdline": "x"}, {"com.urunc.unikernel.cmdline": "x"}),
        (["odd"], {"com.urunc.unikernel.binary": "/file"}),
    ],
)
def test_uruncs_file_counts_where_no_label_of_uruncs_does(own: Any, labels: dict[str, str]) -> None:
    merged = manifest.with_file({"config": {"Labels": own}}, {"com.urunc.unikernel.binary": "/file"})
    assert merged["config"]["Labels"] == labels
    assert manifest.with_file({"config": None}, {}) == {"config": None}


def test_only_some_annotations_about_a_kernel_are_kept() -> None:
    many = {f"io.clearpod.kernel.{number}": "x" for number in range(1000)}
    assert len(manifest.kernel_annotations(dump({"annotations": many}))) < 100


def test_a_docker_manifest_is_taken() -> None:
    document = {
        "schemaVersion": 2,
        "config": {"mediaType": f"{DOCKER}.container.image.v1+json", "digest": A},
        "layers": [{"mediaType": f"{DOCKER}.image.rootfs.diff.tar.gzip", "digest": B}],
    }
    assert manifest.read_manifest(dump(document), name="x") == Manifest(A, (B,))


@pytest.mark.parametrize(
    ("document", "kind", "says"),
    [
        ({"schemaVersion": 1}, Unsupported, "OCI nor Docker"),
        ({"schemaVersion": 2, "config": {}, "layers": []}, Unsupported, "not a container image"),
        ({"schemaVersion": 2, "config": 5, "layers": []}, Unsupported, "not a container image"),
        ({"schemaVersion": 2, "config": {"mediaType": [1]}, "layers": []}, Unsupported, "not a container image"),
        ({"schemaVersion": 2, "config": CONFIG, "layers": []}, Unsupported, "has no layers"),
        ({"schemaVersion": 2, "config": CONFIG, "layers": [{"mediaType": "a/b"}]}, Unsupported, "type a/b"),
        ({"schemaVersion": 2, "config": CONFIG, "layers": [7]}, Unsupported, "type None"),
        (
            {"schemaVersion": 2, "config": CONFIG, "layers": [{**LAYER, "digest": "../x"}]},
            Corrupt,
            "no sha256",
        ),
        ([], Corrupt, "JSON object"),
    ],
)
def test_what_is_no_image_is_refused(document: Any, kind: type[PodError], says: str) -> None:
    with pytest.raises(kind, match=says):
        manifest.read_manifest(dump(document), name="x")


@pytest.mark.parametrize(
    ("document", "kind", "says"),
    [
        (
            {"architecture": "arm64", "os": "linux", "rootfs": {"diff_ids": [A]}},
            BadRequest,
            "for linux/arm64 and",
        ),
        (
            {"architecture": "amd64", "os": "windows", "rootfs": {"diff_ids": [A]}},
            BadRequest,
            "for windows/amd64",
        ),
        (
            {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": []}},
            Corrupt,
            "1 layers .*0 diff",
        ),
        ({"architecture": "amd64", "os": "linux"}, Corrupt, "1 layers .*0 diff"),
        (
            {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": ["x"]}},
            Corrupt,
            "not a sha256 digest",
        ),
    ],
)
def test_a_config_must_fit_its_manifest_and_this_host(document: Any, kind: type[PodError], says: str) -> None:
    with pytest.raises(kind, match=says):
        manifest.read_config(dump(document), Manifest(A, (B,)), name="x", architecture="amd64")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"config": [1]}, "config .*object"),
        ({"rootfs": "x"}, "rootfs .*object"),
        ({"rootfs": {"diff_ids": {"a": 1}}}, "diff_ids .*list"),
        ({"config": {"User": 7}}, "whose User is '7'"),
        ({"config": {"Env": "A=1"}}, "whose Env is 'A=1'"),
        ({"config": {"Cmd": ["sh", None]}}, "whose Cmd is"),
        ({"config": {"Entrypoint": {"sh": 1}}}, "whose Entrypoint is"),
        ({"config": {"Volumes": 5}}, "whose Volumes is"),
        ({"config": {"Volumes": ["/a", None]}}, "whose Volumes is"),
    ],
)
def test_a_config_with_fields_that_are_something_else_is_refused(changes: Any, says: str) -> None:
    document = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [A]}, **changes}
    with pytest.raises(Corrupt, match=says):
        manifest.read_config(dump(document), Manifest(A, (B,)), name="x", architecture="amd64")


def test_a_config_may_lack_everything_that_is_not_needed() -> None:
    for inner in (None, {}, {"User": None, "Env": None, "Cmd": []}):
        document = {"rootfs": {"diff_ids": [A]}, "config": inner}
        assert manifest.read_config(dump(document), Manifest(A, (B,)), name="x", architecture="amd64") == document


def test_layers_without_a_sensible_size_have_none() -> None:
    sizes = [{"digest": str(n), "size": size} for n, size in enumerate((7, 0, -1, True, "7", None))]
    assert manifest.sizes(dump({"layers": [*sizes, {"digest": "x"}]})) == {"0": 7}


REGISTRIES = (
    Registry(prefix="registry.k8s.io", location="127.0.0.1:5000", insecure=True),
    Registry(prefix="gcr.io/special", location="mirror.io:1/x"),
    Registry(prefix="gcr.io", mirrors=("one.io", 'odd"\\.io')),
)


def test_registries_conf_is_toml_with_the_values_of_the_configuration() -> None:
    result = tomllib.loads(registries_conf(REGISTRIES, parse("busybox")))["registry"]
    assert [(r["prefix"], r["location"], r["insecure"]) for r in result] == [
        ("registry.k8s.io", "127.0.0.1:5000", True),
        ("gcr.io/special", "mirror.io:1/x", False),
        ("gcr.io", "gcr.io", False),
    ]
    assert [m["location"] for m in result[2]["mirror"]] == ["one.io", 'odd"\\.io']


@pytest.mark.parametrize(
    ("name", "is_added"),
    [
        ("127.0.0.1:5001/a", True),
        ("127.0.0.1:5000/a", True),
        ("127.0.0.1:7000/a", False),
        ("127.0.0.1:7001/a", True),
        ("localhost:5000/a", True),
        ("localhost/a", True),
        ("[::1]:5000/a", True),
        ("10.0.0.1:5000/a", False),
        ("registry.k8s.io/a", False),
        ("busybox", False),
    ],
)
def test_a_registry_on_the_loopback_needs_no_tls_unless_configured(name: str, is_added: bool) -> None:
    own = (Registry(prefix="127.0.0.1:7000"), Registry(prefix="127.0.0.1:7001/part"))
    result = tomllib.loads(registries_conf((*REGISTRIES, *own), parse(name)))["registry"]
    assert (len(result) == 6) is is_added
    assert result[-1]["insecure"] is is_added


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("registry.k8s.io/pause", "127.0.0.1:5000"),
        ("gcr.io/a", "gcr.io"),
        ("gcr.io/special/a", "mirror.io:1"),
        ("gcr.io/specialist", "gcr.io"),
        ("quay.io/a", "quay.io"),
    ],
)
def test_the_longest_prefix_decides_where_an_image_comes_from(name: str, host: str) -> None:
    assert registries.location_of(parse(name), REGISTRIES) == host


ME = {"auth": base64.b64encode(b"me:pw").decode()}


@pytest.mark.parametrize(
    ("auth", "entry"),
    [
        (None, None),
        (Auth(), None),
        (Auth("me", "pw"), ME),
        (Auth("me", "pw", server_address="https://quay.io/v2/"), ME),
        (Auth("me", "pw", server_address="quay.io"), ME),
        (Auth("me", "pw", server_address="docker.io"), None),
        (Auth(auth=ME["auth"]), ME),
        (Auth(identity_token="t"), {"auth": base64.b64encode(b"<token>:").decode(), "identitytoken": "t"}),
    ],
)
def test_the_authfile_has_the_credentials_of_this_registry_or_none(auth: Auth | None, entry: Any) -> None:
    expected = {"auths": {"quay.io": entry}} if entry else {}
    assert json.loads(authfile(auth, parse("quay.io/a"), registries=())) == expected


def test_credentials_are_filed_under_the_mapped_host_too() -> None:
    result = json.loads(authfile(Auth("me", "pw"), parse("registry.k8s.io/a"), registries=REGISTRIES))["auths"]
    assert sorted(result) == ["127.0.0.1:5000", "registry.k8s.io"]


@pytest.mark.parametrize(
    ("auth", "kind"),
    [
        (Auth(auth="???"), BadRequest),
        (Auth(auth="bm9jb2xvbg=="), BadRequest),
        (Auth(registry_token="t"), Unsupported),
    ],
)
def test_credentials_that_can_not_be_used_are_refused(auth: Auth, kind: type[PodError]) -> None:
    with pytest.raises(kind):
        authfile(auth, parse("quay.io/a"), registries=())


def fatal(text: str) -> str:
    quoted = text.replace('"', '\\"')
    return f'time="2026" level=info msg="x"\ntime="2026" level=fatal msg="{quoted}"\n'


@pytest.mark.parametrize(
    ("text", "code", "kind"),
    [
        (
            'Error parsing image name "docker://h/a:1": reading manifest 1 in h/a: manifest unknown',
            2,
            NotFound,
        ),
        ("reading manifest T in H/R: name unknown", 1, NotFound),
        ('reading manifest T in H/R: StatusCode: 404, "<html>"', 1, NotFound),
        (
            'pinging container registry h: Get "http://h/v2/": dial tcp: connect: connection refused',
            1,
            RegistryUnavailable,
        ),
        ("pinging container registry h: lookup h on R:53: no such host", 1, RegistryUnavailable),
        ("reading manifest T in H/R: received unexpected HTTP status: 503 Service", 1, RegistryUnavailable),
        ("context deadline exceeded", 1, RegistryUnavailable),
        ("toomanyrequests: slow down", 1, RegistryUnavailable),
        ("reading manifest T in H/R: unauthorized", 1, LoginNeeded),
        ("reading manifest T in H/R: denied", 1, LoginNeeded),
        ("unable to retrieve auth token: invalid username/password: unauthorized", 1, LoginNeeded),
        ("writing blob: write OUT/oci-put-blob1: no space left on device", 1, NoSpace),
        ("writing blob: happened during read: Digest did not match, expected X, got Y", 1, Corrupt),
        ("reading blob X: fetching blob: blob unknown", 1, Corrupt),
        ('reading blob X: Get "file:///etc/passwd": unsupported protocol scheme "file"', 1, RegistryUnavailable),
        ('reading blob X: Get "/v2/a": stopped after 10 redirects', 1, RegistryUnavailable),
        ('Get "http://h/v2/": net/http: HTTP/1.x transport connection broken: malformed', 1, RegistryUnavailable),
        ('reading manifest 1 in H/R: StatusCode: 418, "no"', 1, RegistryUnavailable),
        ("Error reading configuration blob: exceeded maximum allowed size of 4194304 bytes", 1, Corrupt),
        ("invalid reference format: repository name must be lowercase", 1, BadRequest),
        ("pinging container registry h: Get: tls: failed to verify certificate: x509: unknown authority", 1,
         RegistryUnavailable),
        ("something new", 1, PodError),
    ],
)  # fmt: skip
def test_each_failure_of_skopeo_has_its_error(text: str, code: int, kind: type[PodError]) -> None:
    error = explain(fatal(text), code, name="h/a:1")
    assert type(error) is kind
    assert "h/a:1" in str(error)
    assert "level=" not in str(error)
    assert str(error).startswith("RegistryUnavailable: ") is (kind is RegistryUnavailable)
    assert "x509" not in text or ("later" not in str(error) and "certificate" in str(error))


@pytest.mark.parametrize(
    ("stderr", "argv"),
    [
        ("", ""),
        ("\n\n", ""),
        ("plain words\n", "plain words"),
        (fatal('Error parsing image name "docker://h/a:1": why'), "why"),
        (fatal("initializing source docker://h/a:1: why"), "why"),
        (fatal("x" * 2000), f"{'x' * 166} ... {'x' * 329}"),
    ],
)
def test_the_reason_is_taken_out_of_the_log(stderr: str, argv: str) -> None:
    assert reason_of(stderr) == argv
