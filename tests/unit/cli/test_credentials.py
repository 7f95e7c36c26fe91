# SPDX-License-Identifier: Apache-2.0
"""Files of credentials as podman and docker write them, and helper programs. No registry is asked."""

import base64
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from cri.cli import credentials
from cri.cli.credentials import Files
from cri.image.origins import Auth
from cri.store.reference import parse
from stage1.errors import BadRequest, NotFound, PodError

SECRET = "s3cr:et"


def entry(user: str, password: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def written(path: Path, **document: Any) -> Files:
    path.write_text(json.dumps(document))
    return Files((str(path),), str(path), chosen=True)


def user_for(where: Files, image: str) -> str:
    auth = credentials.find(where, parse(image))
    return auth.username if auth else ""


@pytest.mark.parametrize(
    "image, user",
    [
        ("r.example/a/b/c", "abc"),
        ("r.example/a/b/d", "ab"),
        ("r.example/a/bb", "host"),
        ("r.example/x", "host"),
        ("r.example:5000/x", "port"),
        ("other.example/x", ""),
        ("busybox", "hub"),
        ("url.example/x/y", "url"),
    ],
)
def test_the_longest_key_wins(tmp_path: Path, image: str, user: str) -> None:
    auths = {
        "r.example": entry("host"),
        "r.example/a/b": entry("ab"),
        "r.example/a/b/c": entry("abc"),
        "r.example:5000": entry("port"),
        "https://index.docker.io/v1/": entry("hub"),
        "https://url.example/v2/": entry("url"),
        "other.example": {},
    }
    where = written(tmp_path / "auth.json", auths=auths)
    assert user_for(where, image) == user
    if user:
        assert credentials.find(where, parse(image)) == Auth(username=user, password=SECRET)


def test_files_are_read_in_their_order_and_a_chosen_one_alone(tmp_path: Path) -> None:
    ours = {"HOME": f"{tmp_path}/h", "XDG_RUNTIME_DIR": f"{tmp_path}/run"}
    names = ["run/containers/auth.json", "h/.config/containers/auth.json", "h/.docker/config.json"]
    assert credentials.places("", ours) == Files(
        tuple(f"{tmp_path}/{name}" for name in names), f"{tmp_path}/{names[0]}"
    )
    for name in reversed(names):
        (tmp_path / name).parent.mkdir(parents=True)
        written(tmp_path / name, auths={"r.example": entry(name)})
        assert user_for(credentials.places("", ours), "r.example/x") == name
    chosen = written(tmp_path / "mine", auths={"q.example": entry("me")})
    for where in (
        credentials.places(f"{tmp_path}/mine", {"REGISTRY_AUTH_FILE": "/none", **ours}),
        credentials.places("", {"REGISTRY_AUTH_FILE": f"{tmp_path}/mine", **ours}),
    ):
        assert where == chosen and user_for(where, "r.example/x") == "" and user_for(where, "q.example/x") == "me"
    with pytest.raises(NotFound, match="/none"):
        credentials.find(credentials.places("/none", ours), parse("r.example/x"))
    moved = credentials.places("", {"HOME": "/h", "XDG_CONFIG_HOME": "/c", "DOCKER_CONFIG": "/d"})
    assert moved.readable[1:] == ("/c/containers/auth.json", "/d/config.json")
    assert moved.writable.startswith("/run/containers/")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"auths": []}',
        '{"auths": {"r.example": {"auth": "%%%"}}}',
        '{"auths": {"r.example": {"auth": "czNjcjo="}}, "credHelpers": 1}',
        '{"credsStore": "../../bin/sh"}',
        '{"credsStore": 5}',
        "[" * 100_000,
    ],
)
def test_a_damaged_file_is_named_and_nothing_of_it_is_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "auth.json"
    path.write_text(text)
    with pytest.raises(BadRequest) as refused:
        credentials.find(Files((str(path),), str(path)), parse("r.example/x"))
    assert "czNj" not in str(refused.value) and "%%%" not in str(refused.value)


def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """docker-credential-mine, which writes down its arguments and input; where it does."""
    program, seen = tmp_path / "bin/docker-credential-mine", tmp_path / "seen"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n{{ printf "%s " "$*"; cat; echo; }} >> {seen}\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return seen


ANSWER = json.dumps({"ServerURL": "x", "Username": "me", "Secret": SECRET})


@pytest.mark.parametrize("document", [{"credsStore": "mine"}, {"credHelpers": {"https://r.example": "mine"}}])
def test_a_helper_is_asked_and_gets_what_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: dict[str, Any]
) -> None:
    seen = helper(tmp_path, monkeypatch, f"[ $1 != get ] || echo '{ANSWER}'")
    where = written(tmp_path / "config.json", auths={"r.example": {}}, **document)
    assert credentials.find(where, parse("r.example/a/b")) == Auth(username="me", password=SECRET)
    assert credentials.store(where, "r.example", auth=Auth(username="you", password=SECRET)) == "the helper mine"
    assert credentials.forget(where, "r.example")
    given = json.dumps({"ServerURL": "r.example", "Username": "you", "Secret": SECRET})
    assert seen.read_text().splitlines() == [
        "get r.example", f"store {given}", "get r.example", "erase r.example"
    ]  # fmt: skip
    assert SECRET not in (tmp_path / "config.json").read_text()


def test_a_helpers_token_and_docker_hubs_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = json.dumps({"Username": "<token>", "Secret": "t"})
    seen = helper(tmp_path, monkeypatch, f"echo '{token}'")
    where = written(tmp_path / "config.json", credsStore="mine")
    assert credentials.find(where, parse("busybox")) == Auth(identity_token="t")
    assert seen.read_text() == "get https://index.docker.io/v1/\n"


def test_a_helper_that_has_nothing_or_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = written(tmp_path / "config.json", credsStore="mine", auths={"r.example": entry("file")})
    with pytest.raises(NotFound, match="docker-credential-mine"):
        credentials.find(where, parse("r.example/x"))
    helper(tmp_path, monkeypatch, "echo credentials not found in native keychain; exit 1")
    assert user_for(where, "r.example/x") == "file"
    for script in (f"echo {SECRET} >&2; exit 3", f"echo {SECRET}", 'echo {"Username":5}'):
        (tmp_path / "bin/docker-credential-mine").write_text(f"#!/bin/sh\ncat > /dev/null\n{script}\n")
        with pytest.raises(PodError, match="docker-credential-mine") as failed:
            credentials.find(where, parse("r.example/x"))
        assert SECRET not in str(failed.value)


def test_the_file_is_private_and_keeps_what_else_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "deep/er/auth.json"
    where = Files((str(path),), str(path))
    assert credentials.store(where, "r.example", auth=Auth(username="a", password="1")) == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    written(path, auths={"https://r.example/v1/": entry("old"), "q.example": entry("b")}, detachKeys="x")
    credentials.store(where, "r.example", auth=Auth(username="a", password="2"))
    credentials.store(where, "r.example/team", auth=Auth(username="c", password="3"))
    document = json.loads(path.read_text())
    assert sorted(document["auths"]) == ["q.example", "r.example", "r.example/team"] and document["detachKeys"] == "x"
    assert user_for(where, "r.example/team/x") == "c" and credentials.user(where, "r.example") == "a"
    assert credentials.forget(where, "r.example") and not credentials.forget(where, "r.example")
    credentials.forget_all(where)
    assert json.loads(path.read_text()) == {"auths": {}, "detachKeys": "x"}
    assert sorted(one.name for one in path.parent.iterdir()) == ["auth.json"]


@pytest.mark.parametrize("text", ["me", "", ":x", "me:", "a\n:b", f"me:{SECRET}\n"])
def test_credentials_that_can_not_be_are_not_repeated(text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        credentials.from_option(text)
    assert SECRET not in str(refused.value)
    assert credentials.from_option(f"me:{SECRET}") == Auth(username="me", password=SECRET)
