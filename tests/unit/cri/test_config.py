# SPDX-License-Identifier: Apache-2.0
"""The configuration: errors name the line, the example is complete."""

import os
import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from cri import config, config_tables
from cri.config_tables import Table, table_of
from stage1.errors import BadRequest, NotFound

DOCS = Path(__file__).parents[3] / "docs/reference"

WRONG = [
    ("[vm]\nmemroy_mib = 3", 2, '"vm.memroy_mib"; .*"memory_mib"'),
    ("\n\nrundir = '/x'", 3, '"rundir"; .*"run_dir"'),
    ("[vmm]\nvcpus = 1", 1, '"vmm"; .*"vm"'),
    ("[log]\nzzz = 1", 2, '"log.zzz"; .*: level, format'),
    (
        "[socket]\nmode = '0660'\n[vm]\n# vcpus = 2\nvcpus = '1'",
        5,
        "\"vm.vcpus\" .*integer, .*'1'",
    ),
    ("[streaming]\naddress = 'localhost'", 2, "\"streaming.address\" .*IP address, .*'localhost'"),
    ("[streaming]\nport = 65536", 2, '"streaming.port" .*65535'),
    ("[vm]\nmemory_mib = 4", 2, '"vm.memory_mib" .*48, .* 4$'),
    (
        "[vm]\nhypervisor = 'xen'",
        2,
        "\"vm.hypervisor\" .*'auto', 'kvmtool' or 'qemu', .*'xen'",
    ),
    ("vm = { vcpus = 0 }", 1, '"vm.vcpus" .*1, .*0$'),
    ("log.level = 'loud'", 1, '"log.level" '),
    ("run_dir = 'relative'", 1, '"run_dir" .*pattern'),
    ("run_dir = '/run/a/directory/that/is/too/long'", 1, '"run_dir" .*22 bytes'),
    ("[socket]\nmode = '660'", 2, '"socket.mode" .*pattern'),
    (f"[socket]\npath = '/{'x' * 120}'", 2, '"socket.path" .*107 bytes'),
    (
        "[[registries]]\nprefix = 'a'\n[[registries]]\nprefix = 'b'\nlocaton = 'x'",
        5,
        '"location"',
    ),
    (
        "[[registries]]\nprefix = 'a'\n\n[[registries]]\nlocation = 'x'",
        4,
        '"registries.prefix" is missing',
    ),
    (
        "[[registries]]\nprefix = 'a'\nmirrors = [1]",
        3,
        '"registries.mirrors" .*string, .*1$',
    ),
    ("[policy]\nmax_memory_mb = 1", 2, '"policy.max_memory_mb"; .*"max_memory_mib"'),
    ("[policy]\n\nannotations = ['clearpod.io/memory']", 3, 'annotation "clearpod.io/memory"'),
    ("[[policy.rules]]\nnamespaces = ['a']\nmax_vcpu = 2", 3, '"max_vcpus"'),
    (
        "[[policy.rules]]\nnamespaces = ['a']\n[[policy.rules]]\n"
        "namespaces = ['b']\nannotations = ['clearpod.io/netwks']",
        5,
        '"clearpod.io/networks"',
    ),
    ("[[policy.rules]]\nnamespaces = []", 2, '"policy.rules.namespaces"'),
    ("[policy]\n[[policy.rules]]\nmax_vcpus = 2", 2, '"policy.rules.namespaces" is missing'),
    ("[[policy.rules]]\nnamespaces = ['a']\nmax_shm_mib = -1", 3, "0, .*-1$"),
    ("[policy]\nannotations = ['example.com/x']", 2, "clearpod.io/memory-mib, "),
    ("[network]\ndefault_subnets = []", 2, "one subnet of IPv4"),
    ("[network]\ndefault_subnets = ['10.1.0.0/16', '10.2.0.0/16']", 2, "one subnet of IPv4"),
    ("[network]\ndefault_subnets = ['10.1.0.1/16']", 2, "10.1.0.1/16 .*host bits"),
    ("[network]\ndefault_subnets = ['10.1.0.0/31']", 2, "gateway .*10.1.0.0/31"),
    ("[jail]\nfirst_id = 1000", 2, '"jail.first_id" .*524288, .*1000'),
    ("[jail]\ncount = 65536", 2, '"jail.count" .*131072'),
    ("[jail]\nfirst_id = 2147352575", 1, "before 2147352576"),
    ("[jail]\nfirst_id = 524289\ncount = 131072", 1, "whole range .*131072"),
    ("a = 1\nb = = 2", 2, "not TOML"),
    ("[vm", 1, "not TOML"),
]


@pytest.mark.parametrize(("text", "line", "pattern"), WRONG, ids=[case[2][:40] for case in WRONG])
def test_a_mistake_is_named_with_its_line(text: str, line: int, pattern: str) -> None:
    with pytest.raises(BadRequest) as caught:
        config.parse(text, "c.toml")
    assert str(caught.value).startswith(f"c.toml:{line}: ")
    assert re.search(pattern, str(caught.value))
    assert "\n" not in str(caught.value)


def test_an_empty_file_is_all_defaults() -> None:
    assert config.parse("") == config.Config()
    assert config.parse("").socket_path == "/run/clearpod/clearpod.sock"


def test_a_missing_file_is_an_error_only_when_it_was_requested(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="configuration file"):
        config.load(f"{tmp_path}/absent.toml")
    assert os.path.exists(config.DEFAULT_PATH) or config.load(None) == config.Config()


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(BadRequest, match="configuration file"):
        config.load(str(file))


def _keys(table: type[Table], prefix: str = "") -> set[str]:
    result = set()
    for field in fields(table):
        if inner := table_of(field):
            result |= _keys(inner, f"{prefix}{field.name}.")
        else:
            result.add(prefix + field.name)
    return result


def _values(table: dict[str, object], prefix: str = "") -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in table.items():
        inner = value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else value
        result |= _values(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {prefix + key: value}
    return result


def test_the_example_has_every_key_with_its_default() -> None:
    text = (DOCS / "config.example.toml").read_text(encoding="utf-8")
    values = _values(tomllib.loads(text))
    assert set(values) == _keys(config.Config)
    parsed = config.parse(text)
    policy = parsed.policy.but(rules=())
    assert parsed.but(registries=(), policy=policy) == config.Config()
    assert parsed.registries == (config_tables.Registry(prefix="registry.example"),)
