# SPDX-License-Identifier: Apache-2.0
"""`clearpod login`, `logout` and the credentials of pulls with a real registry that asks for a password."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.oci_layout import Layer, Layout, directory, tar
from tests.fakes.patience import PATIENCE
from tests.fakes.registry import Registry

from .test_registry import ME_SECRET

SECRET = "secret"


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, str]]:
    """A registry for the user `me` alone, and an image in it."""
    place = tmp_path_factory.mktemp("closed")
    layout = Layout(place / "layout")
    tagged = layout.tag("1", layout.image([Layer(tar([directory("./")]))]))
    with Registry(place / "registry", htpasswd=ME_SECRET) as registry:
        yield registry, registry.push(tagged, "team/app:1", "--dest-creds", f"me:{SECRET}")


class User:
    """The command, as a user with a home of their own calls it."""

    def __init__(self, home: Path) -> None:
        self.home, self.file = home, home / "run/containers/auth.json"
        (home / "config.toml").write_text(f'run_dir = "/run/no-such"\nstate_dir = "{home}/state"\n')
        self._env = {"HOME": str(home), "XDG_RUNTIME_DIR": f"{home}/run", "PATH": os.environ["PATH"]}

    def argv(self, name: str, *words: str) -> list[str]:
        return [sys.executable, "-m", "cri", *name.split(), "--config", f"{self.home}/config.toml", *words]

    def __call__(self, name: str, *words: str, given: str = "", **env: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.argv(name, *words),
            input=given,
            env=self._env | env,
            capture_output=True,
            text=True,
            timeout=60 * PATIENCE,
            check=False,
        )

    def on_terminal(self, answers: str, *words: str) -> str:
        """What the command shows on a terminal on which `answers` are typed."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(sys.executable, self.argv(*words), self._env)
        shown = b""
        for answer in answers.split():
            while not shown.endswith(b": "):
                shown += os.read(terminal, 1000)
            os.write(terminal, f"{answer}\n".encode())
            shown += b"."
        try:
            while data := os.read(terminal, 1000):
                shown += data
        except OSError:
            pass  # that is how a terminal ends
        os.waitpid(pid, 0)
        os.close(terminal)
        return shown.decode()


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


def test_a_login_is_checked_stored_and_used_and_a_logout_ends_it(closed: tuple[Registry, str], user: User) -> None:
    registry, image = closed
    refused = user("images pull", image)
    assert refused.returncode and "rejects" in refused.stderr
    wrong = user("login", "-u", "me", "--password-stdin", registry.host, given="wrong\n")
    assert wrong.returncode == 125 and "password" in wrong.stderr and not user.file.exists()
    assert "wrong" not in wrong.stderr
    right = user("login", "-u", "me", "--password-stdin", registry.host, given=f"{SECRET}\n")
    assert (right.returncode, right.stderr) == (0, "") and right.stdout.startswith("Login Succeeded!")
    assert list(json.loads(user.file.read_text())["auths"]) == [registry.host]
    assert user.file.stat().st_mode & 0o777 == 0o600
    assert user("login", "--get-login", registry.host).stdout == "me\n"
    pulled = user("images pull", image)
    assert pulled.returncode == 0 and pulled.stdout.startswith("sha256:"), pulled.stderr
    assert user("logout", registry.host).returncode == 0
    again = user("logout", registry.host)
    assert again.returncode == 125 and registry.host in again.stderr
    assert user("images pull", image).returncode
    assert not list(Path(user.home, "state").rglob("auth.json"))


def test_other_places_of_credentials(closed: tuple[Registry, str], user: User) -> None:
    registry, image = closed
    for words, env, key in (
        (("--creds", f"me:{SECRET}"), {}, ""),
        (("--authfile", f"{user.home}/mine"), {}, f"{registry.host}/team/app"),
        ((), {"REGISTRY_AUTH_FILE": f"{user.home}/mine"}, f"{registry.host}/team"),
        ((), {"DOCKER_CONFIG": str(user.home)}, f"https://{registry.host}/v2/"),
    ):
        if key:
            path = user.home / ("config.json" if "DOCKER_CONFIG" in env else "mine")
            path.write_text(json.dumps({"auths": {key: {"auth": "bWU6c2VjcmV0"}}}))
        pulled = user("images pull", *words, image, **env)
        assert pulled.returncode == 0, pulled.stderr
    assert user("images pull", "--authfile", "/none", image).returncode
    assert "me" not in user("images pull", "--creds", "me", image).stderr.split()


def test_a_terminal_is_asked_and_does_not_show_the_password(closed: tuple[Registry, str], user: User) -> None:
    registry, _ = closed
    shown = user.on_terminal(f"me {SECRET}", "login", registry.host)
    assert "Login Succeeded!" in shown and SECRET not in shown
    assert user.file.exists()


def test_a_pull_shows_its_progress_on_a_terminal_and_one_line_elsewhere(
    closed: tuple[Registry, str], user: User
) -> None:
    words = ("images pull", "--creds", f"me:{SECRET}", closed[1])
    first = user.on_terminal("", *words)
    lines = [line.strip("\r") for line in first.split("\n")]
    assert f"{closed[1]}: " in lines[-3] and " downloaded in " in lines[-3] and "\x1b[" in first
    assert lines[-2].startswith("sha256:")
    for again in (user.on_terminal("", *words[:1], "--quiet", *words[1:]), user(*words).stdout):
        assert again.strip() == lines[-2]
    assert user(*words).stderr == ""


def test_no_password_is_an_argument(closed: tuple[Registry, str], user: User) -> None:
    refused = user("login", "-u", "me", "-p", SECRET, closed[0].host)
    assert refused.returncode == 125 and "--password-stdin" in refused.stderr and SECRET not in refused.stderr
    for words, given in (
        (("-u", "me"), SECRET),
        (("--password-stdin",), SECRET),
        (("-u", "a:b", "--password-stdin"), "x"),
    ):
        assert user("login", *words, closed[0].host, given=given).returncode == 125
    assert user("login", "-u", "me", "--password-stdin", "not a host", given="x").returncode == 125
    assert user("login", "-u", "me", "--password-stdin", closed[0].host).returncode == 125  # an empty one
    assert not user.file.exists()
