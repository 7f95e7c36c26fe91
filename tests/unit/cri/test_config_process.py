# SPDX-License-Identifier: Apache-2.0
"""The configuration read by a process of its own: the same values and errors, and no pydantic in the daemon."""

import subprocess
import sys
from pathlib import Path

import pytest

from cri import config, config_process
from stage1.errors import BadRequest, NotFound, PodError

FULL = """
cdi_dirs = ["/a"]
[vm]
ceiling = 3
[[registries]]
prefix = "a.example"
mirrors = ["b.example"]
[policy]
kernels = []
[[policy.rules]]
namespaces = ["n"]
networks = ["x", "y"]
"""
DAEMON = """
import sys
from cri import server
from cri.cli import service
from cri.config_process import load_apart
print(load_apart(sys.argv[1]).vm.ceiling, sorted(name for name in sys.modules if name.startswith("pydantic")))
"""


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a daemon, which has not checked a file itself."""
    monkeypatch.delitem(sys.modules, "cri.config_check", raising=False)


@pytest.mark.parametrize(
    "text", ["", FULL, (Path(__file__).parents[3] / "docs/reference/config.example.toml").read_text()]
)
def test_the_values_are_those_that_are_read_here(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text, encoding="utf-8")
    assert config_process.load_apart(str(file)) == config.load(str(file))


@pytest.mark.parametrize(
    "text", ["[vm]\nmemroy_mib = 3", "a = = 1", "[jail]\nfirst_id = 2147352575", "[[registries]]\nlocation = 'x'", None]
)
def test_what_is_wrong_is_the_same_error_with_the_same_sentence(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "c.toml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    kind = NotFound if text is None else BadRequest
    with pytest.raises(kind) as apart:
        config_process.load_apart(str(file))
    with pytest.raises(kind) as here:
        config.load(str(file))
    assert str(apart.value) == str(here.value)


def test_a_process_that_ends_without_an_answer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_process, "_START", "import sys; sys.exit('broken')")
    (tmp_path / "c.toml").write_text("", encoding="utf-8")
    with pytest.raises(PodError, match=r"c\.toml .*broken"):
        config_process.load_apart(str(tmp_path / "c.toml"))


def test_a_daemon_that_read_a_file_has_no_pydantic(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(FULL, encoding="utf-8")
    argv = [sys.executable, "-c", DAEMON, str(file)]
    ended = subprocess.run(argv, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    assert ended.stdout == "3.0 []\n"
