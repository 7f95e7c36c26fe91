# SPDX-License-Identifier: Apache-2.0
"""Runs one fuzzer: `python -m tests.fuzz.run NAME SECONDS [libFuzzer's options]`, or lists them: `... list`.

Called by scripts/fuzz and the tests. Inputs that reach new code go to build/fuzz/NAME, beside the corpus of the
repository; one that fails goes to build/fuzz/NAME-crash-*, and ends the process with a code that is not 0.
"""

import os
import sys
from pathlib import Path

from tests.fakes.c_program import make
from tests.fuzz.targets import TARGETS

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
OUT = CHECKOUT / "build" / "fuzz"
RSS_LIMIT_MIB = 1024
ONE_INPUT_S = 20
PROGRAMS = {
    "agent-link": "fuzz_link",
    "agent-texts": "fuzz_texts",
    "launcher-records": "fuzz_records",
    "launcher-texts": "fuzz_texts",
    "jailer-description": "fuzz_description",
    "volume_server-requests": "fuzz_requests",
}
"""Fuzzers in C, made by `make fuzz` in images/ and the part of the name before the dash, with `-` for `_`."""
PROGRAM_BYTES = 4096


def main() -> None:
    """Does not return: libFuzzer ends the process."""
    if sys.argv[1:] == ["list"]:
        sys.exit(print("\n".join([*TARGETS, *PROGRAMS])))
    name, seconds, *more = sys.argv[1:]
    if name in PROGRAMS:
        program = build(name)
        os.execv(program, [str(program), *options(name, seconds), *more, *corpora(name)])
    if name not in TARGETS:
        sys.exit(f"fuzz: there is no fuzzer {name}; there are: {', '.join([*TARGETS, *PROGRAMS])}")
    _fuzz(name, [*options(name, seconds), *more, *corpora(name)])


def build(name: str) -> Path:
    """The fuzzer's program in C."""
    component = name.partition("-")[0].replace("_", "-")
    out = CHECKOUT / "build" / component
    make(CHECKOUT / "images" / component, out, "fuzz")
    return out / PROGRAMS[name]


def options(name: str, seconds: str) -> list[str]:
    """libFuzzer's."""
    OUT.mkdir(parents=True, exist_ok=True)
    most = TARGETS[name].most_bytes if name in TARGETS else PROGRAM_BYTES
    limits = [
        f"-max_total_time={seconds}",
        f"-max_len={most}",
        f"-timeout={ONE_INPUT_S}",
        f"-rss_limit_mb={RSS_LIMIT_MIB}",
    ]
    return [*limits, f"-artifact_prefix={OUT}/{name}-", "-print_final_stats=1"]


def corpora(name: str) -> list[str]:
    """Where new inputs go, and the repository's."""
    result, kept = OUT / name, HERE / "corpus" / name
    result.mkdir(parents=True, exist_ok=True)
    return [str(result), *([str(kept)] if kept.is_dir() else [])]


def _fuzz(name: str, arguments: list[str]) -> None:
    import atheris

    target = TARGETS[name]
    with atheris.instrument_imports(include=list(target.modules)):
        target.run(b"")
        target.run(b"\x01")
    atheris.Setup([str(_launcher(name)), *arguments], target.run)
    atheris.Fuzz()


def _launcher(name: str) -> Path:
    """A program that is this fuzzer: a merge starts itself once more for each input that ends it."""
    script = OUT / f"{name}.sh"
    script.write_text(f'#!/bin/sh\ncd {CHECKOUT} && exec {sys.executable} -m tests.fuzz.run {name} 0 "$@"\n')
    script.chmod(0o755)
    return script


if __name__ == "__main__":
    main()
