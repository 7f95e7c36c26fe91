# SPDX-License-Identifier: Apache-2.0
"""Where an image is looked for, as whom and by which proxies: from the configuration, the request, and files."""

from pathlib import Path
from typing import Any

import pytest

from cri.config_tables import Registry
from cri.image import origins
from cri.image.origins import Auth
from cri.store.reference import parse
from stage1.errors import BadRequest, PodError, Unsupported

REGISTRIES = (
    Registry(prefix="registry.k8s.io", location="127.0.0.1:5000", insecure=True),
    Registry(prefix="gcr.io/special", location="mirror.io:1/x/"),
    Registry(prefix="gcr.io", mirrors=("one.io", "two.io/cache/")),
    Registry(prefix="*.test.io", mirrors=("m.io",)),
    Registry(prefix="127.0.0.1:7000"),
    Registry(prefix="127.0.0.1:7001/part"),
)
ME = "bWU6cHc="


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*origins.PROXIES, "ssl_cert_file", "ssl_cert_dir"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def asked(name: str, auth: Auth | None = None) -> dict[str, Any]:
    return origins.question(parse(name), registries=REGISTRIES, auth=auth)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("busybox", ["docker.io/library/busybox"]),
        ("registry.k8s.io/pause:3", ["127.0.0.1:5000/pause insecure"]),
        ("gcr.io/special/a/b", ["mirror.io:1/x/a/b"]),
        ("gcr.io/specialist", ["one.io/specialist", "two.io/cache/specialist", "gcr.io/specialist"]),
        ("a.test.io/b", ["m.io/b", "a.test.io/b"]),
        ("test.io/b", ["test.io/b"]),
        ("localhost/a", ["localhost/a insecure"]),
        ("[::1]:5000/a", ["[::1]:5000/a insecure"]),
        ("10.0.0.1:5000/a", ["10.0.0.1:5000/a"]),
        ("127.0.0.1:7000/a", ["127.0.0.1:7000/a"]),
        ("127.0.0.1:7001/a", ["127.0.0.1:7001/a insecure"]),
        ("127.0.0.1:7001/part/a", ["127.0.0.1:7001/part/a"]),
    ],
)
def test_mirrors_come_before_the_registry_and_only_the_loopback_needs_no_tls(name: str, places: list[str]) -> None:
    result = asked(name)["places"]
    assert [f"{p['host']}/{p['path']}{' insecure' if p['insecure'] else ''}" for p in result] == places
    assert [p["known"] for p in result] == [False] * (len(places) - 1) + [True], "mirrors see no credentials"


@pytest.mark.parametrize(
    ("auth", "shown"),
    [
        (None, {}),
        (Auth(), {}),
        (Auth("me", "pw"), {"basic": ME}),
        (Auth("me", "pw", server_address="https://quay.io/v2/"), {"basic": ME}),
        (Auth("me", "pw", server_address="docker.io"), {}),
        (Auth(auth=ME), {"basic": ME}),
        (Auth(identity_token="t"), {"identity": "t"}),
        (Auth(registry_token="t"), {"token": "t"}),
    ],
)
def test_credentials_are_those_for_this_registry_or_none(auth: Auth | None, shown: dict[str, str]) -> None:
    assert asked("quay.io/a", auth)["auth"] == shown


@pytest.mark.parametrize(
    ("auth", "kind"),
    [
        (Auth(auth="???"), BadRequest),
        (Auth(auth="bm9jb2xvbg=="), BadRequest),
        (Auth(registry_token="t\n"), Unsupported),
    ],
)
def test_credentials_that_can_not_be_used_are_refused(auth: Auth, kind: type[PodError]) -> None:
    with pytest.raises(kind):
        asked("quay.io/a", auth)


def test_proxies_authorities_and_certificates_come_from_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origins, "CERTIFICATES", (f"{tmp_path}/none", f"{tmp_path}"))
    monkeypatch.setenv("HTTPS_PROXY", "http://p:1")
    monkeypatch.setenv("no_proxy", "a,b")
    (tmp_path / "all.pem").write_text("ALL")
    monkeypatch.setenv("SSL_CERT_FILE", f"{tmp_path}/all.pem")
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path}/more:{tmp_path}/none")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/x.pem").write_text("MORE")
    own = tmp_path / "r.io:5000"
    own.mkdir()
    for name in ("one.crt", "two.crt", "client.cert", "client.key", "notes"):
        (own / name).write_text(name)
    result = asked("r.io:5000/a")
    assert (result["proxies"], result["authorities"].split()) == (["http://p:1", "", "a,b"], ["MORE", "ALL"])
    [place] = result["places"]
    assert place["ca"].split() == ["one.crt", "two.crt"]
    assert (place["certificate"].strip(), place["key"].strip()) == ("client.cert", "client.key")
    assert asked("r.io/a")["places"][0]["ca"] == ""
