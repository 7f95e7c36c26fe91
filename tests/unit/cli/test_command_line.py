# SPDX-License-Identifier: Apache-2.0
"""The parser of the command line: every command is complete, and what belongs to another program is left to it."""

import contextlib
import io
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cri.__main__ import main
from cri.cli import COMMANDS, completion, root
from cri.cli.parser import Parser, make
from cri.cli.view import jail
from stage1.entry import dispatch
from stage1.errors import WrongState
from stage1.linux.host import which
from tests.reference import man

REPO = Path(__file__).parents[3]


def test_every_command_has_examples_of_itself_and_every_option_a_help() -> None:
    whole = make(None)
    commands = {parser.prog.removeprefix("clearpod "): parser for parser in whole.all()}
    for name in COMMANDS:
        assert commands[name].examples, name
        for arguments, what in commands[name].examples:
            assert f"clearpod {name}" in arguments and what, arguments
    for parser in commands.values():
        assert [action.dest for action in parser._actions if not action.help and action.option_strings] == []
        assert parser.format_help()


def _parser() -> Parser:
    parser = Parser(prog="x")
    parser.take_command(after=1)
    parser.add_argument("image", nargs="?", default="sample")
    parser.add_argument("-i", action="store_true")
    parser.add_argument("-m", "--memory")
    parser.add_argument("-e", action="append", default=[])
    return parser


@pytest.mark.parametrize(
    "line, image, memory, rest",
    [
        ("", "sample", None, ""),
        ("alpine", "alpine", None, ""),
        ("-m 64m alpine ls -l -m 3", "alpine", "64m", "ls -l -m 3"),
        ("-im 64m alpine -- ls", "alpine", "64m", "ls"),
        ("-im64m alpine ls -- x", "alpine", "64m", "ls -- x"),
        ("--memory=64m -i alpine --help", "alpine", "64m", "--help"),
        ("--memory 64m -e A=1 -e B=2 -- ls -i", "sample", "64m", "ls -i"),
        ("-- -x", "sample", None, "-x"),
        ("-- --", "sample", None, "--"),
        ("alpine -- -- ls", "alpine", None, "-- ls"),
        ("-i -", "-", None, ""),
    ],
)
def test_the_arguments_of_the_container_are_left_to_it(line: str, image: str, memory: str | None, rest: str) -> None:
    args = _parser().parse_args(line.split())
    assert (args.image, args.memory, " ".join(args.rest)) == (image, memory, rest)


@pytest.mark.parametrize("line", ["--no-such", "-m", "--mem 5", "--no-such alpine -i", "-ix alpine"])
def test_a_wrong_line_is_one_line_and_the_code_of_the_parser(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = _parser()
    parser.wrong = 125
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(line.split())
    text = capsys.readouterr().err
    assert ended.value.code == 125
    assert text.startswith("x: ") and text.count("\n") == 1 and "x --help" in text


@pytest.mark.parametrize(
    "line, config",
    [
        ("ps", None),
        ("ps --config /a", "/a"),
        ("--config /a ps", "/a"),
        ("--config=/a ps", "/a"),
        ("--config ps ps", "ps"),
        ("--config /a ps --config /b", "/b"),
        ("snapshot --config /a create p n", "/a"),
        ("--config /a snapshot create p n", "/a"),
        ("--config /a snapshot --config=/b list", "/b"),
        ("snapshot --config create list", "create"),
        ("images --config /a ls --json", "/a"),
        ("--config /a run alpine --config /b", "/a"),
    ],
)
def test_a_configuration_may_precede_the_command_and_its_action(line: str, config: str | None) -> None:
    words = line.split()
    assert make(words).parse_args(words).config == config


@pytest.mark.parametrize(
    "line, key",
    [
        ("--json ps", "--json"),
        ("snapshot --json list", "--json"),
        ("images -a prune", "-a"),
        ("--config /a images --json=1 ls", "--json"),
        ("--config /a completion bash", "--config"),
        ("images --config /a build", "--config"),
        ("--config", "--config"),
        ("--no-such", "--no-such"),
    ],
)
def test_other_options_that_precede_the_command_or_its_action_are_refused_by_name(
    line: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = line.split()
    with pytest.raises(SystemExit) as ended:
        make(words).parse_args(words)
    text = capsys.readouterr().err
    assert ended.value.code == 2 and text.count("\n") == 1 and f" {key}" in text and "invalid choice" not in text


@pytest.mark.parametrize("word", ["-V", "--version"])
def test_the_version(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([word])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("clearpod ")


def test_a_command_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["rnu"])
    assert ended.value.code == 2 and "'rnu'" in capsys.readouterr().err


def clearpod(*arguments: str, **options: object) -> "subprocess.Popen[bytes]":
    argv = [sys.executable, "-m", "cri", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(argv, cwd=REPO, **{**pipes, **options})  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("arguments", [["run", "--help"], ["completion", "bash"]])
def test_a_reader_that_went_away_is_no_traceback(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    process = clearpod(*arguments, stdout=write)
    os.close(write)
    assert (process.communicate(timeout=60)[1], process.returncode) == (b"", 141)


def test_a_full_disk_under_the_output_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        process = clearpod("--version", stdout=full)
    sentence = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 1 and sentence.startswith("clearpod: ") and sentence.count("\n") == 1


def test_an_interrupt_at_the_start_is_silent_behind_a_launcher_that_blocks_it(tmp_path: Path) -> None:
    launcher = tmp_path / "clearpod"
    launcher.write_text(
        f"#!/usr/bin/env -S --block-signal=INT {sys.executable}\n"
        f"import sys\nsys.path.insert(0, {str(REPO)!r})\nfrom cri.__main__ import main\nsys.exit(main())\n"
    )
    launcher.chmod(0o755)
    for delay_s in (0.01, 0.03, 0.05, 0.1):
        process = subprocess.Popen(
            [launcher, "check", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        time.sleep(delay_s)  # a moment in Python's own start, wherever that is on this machine
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[1]
        assert output == b"" and process.returncode in (130, -signal.SIGINT), (delay_s, output)


@pytest.mark.parametrize("columns", ["20", "80", "400"])
def test_help_fits_wide_and_narrow_terminals(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for parser in make(None).all():
        assert parser.format_help()


def test_the_shells_get_every_command_and_option() -> None:
    for shell in completion.SHELLS:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert main(["completion", shell]) == 0
        script = out.getvalue()
        assert [word for word in (*COMMANDS, "tmpfs", "vm-memory") if word not in script] == [], shell
        if which(shell):
            checked = subprocess.run([shell, "-n"], input=script.encode(), capture_output=True, timeout=60, check=False)
            assert (checked.returncode, checked.stderr) == (0, b""), shell


def test_bash_completes_a_command_and_an_option(tmp_path: Path) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main(["completion", "bash"])
    asked = """
        f=$(complete -p clearpod | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
        COMP_WORDS=(clearpod ima); COMP_CWORD=1; $f; echo "${COMPREPLY[@]}"
        COMP_WORDS=(clearpod run --tm); COMP_CWORD=2; $f; echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", out.getvalue() + asked], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["images", "--tmpfs"], done.stderr


def test_manual_pages_have_every_option_and_no_fault_of_troff() -> None:
    pages = man.pages()
    assert {f"clearpod-{name}.1" for name in COMMANDS} | {"clearpod.1"} == set(pages)
    assert "vm\\-memory" in pages["clearpod-run.1"] and ".SH EXAMPLES" in pages["clearpod-run.1"]
    if which("groff"):
        argv = ["groff", "-man", "-ww", "-z", "-Tutf8"]
        for name, text in pages.items():
            done = subprocess.run(argv, input=text.encode(), capture_output=True, timeout=60, check=False)
            assert done.stderr == b"", name


def test_who_is_not_root_gets_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(WrongState, match="sudo"):
        root.require("does it")
    parser = Parser()
    jail.add_arguments(parser)
    with pytest.raises(WrongState, match="sudo"):
        jail.main(parser.parse_args(["1f3c"]))
    assert root.with_sudo(["/usr/bin/clearpod", "run", "a b"]) == "sudo clearpod run 'a b'"
    assert root.with_sudo(["/home/x/.venv/bin/clearpod", "run"]) == "sudo /home/x/.venv/bin/clearpod run"
    assert root.with_sudo(["/x/cri/__main__.py", "run"]) == shlex.join(["sudo", sys.executable, "-m", "cri", "run"])


def test_it_makes_files_that_vmms_can_read_whatever_the_callers_umask(capsys: pytest.CaptureFixture[str]) -> None:
    for action in (lambda: main([]), lambda: dispatch.enter("none", [])):
        before = os.umask(0o077)
        try:
            with contextlib.suppress(ImportError):
                action()
        finally:
            made = os.umask(before)
        assert made == 0o022
