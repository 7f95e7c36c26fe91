# SPDX-License-Identifier: Apache-2.0
"""critest's own JSON report as a table and as our JSON. Pure."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
BAD = ("failed", "panicked", "timedout", "interrupted", "aborted")

CANT_PASS = {
    "public image with digest should be pulled": "it names a digest of upstream's image, which no stand-in can have",
    "rshared": "a mount that is made in a virtual machine can't appear on the host",
}
"""Specs that are left out: a part of the name, and why it can't pass."""


class Spec(NamedTuple):
    """One spec. `reason` is empty for what passed."""

    name: str
    state: str
    reason: str
    seconds: float


def skip_expression() -> str:
    """For --ginkgo.skip."""
    return "|".join(re.escape(part) for part in CANT_PASS)


def specs(report: Sequence[dict[str, Any]]) -> list[Spec]:
    """The validation specs of ginkgo's JSON report, in order of their names.

    Benchmarks are none, nor is what was not asked for: ginkgo lists it as skipped, without a message.
    """
    result = [_spec(each) for suite in report for each in suite.get("SpecReports") or () if _is_counted(each)]
    return sorted(spec for spec in result if spec.state != SKIPPED or spec.reason)


def _is_counted(spec: dict[str, Any]) -> bool:
    return spec.get("LeafNodeType") == "It" and not str(spec["LeafNodeText"]).startswith("benchmark ")


def _spec(spec: dict[str, Any]) -> Spec:
    name = " ".join([*(spec.get("ContainerHierarchyTexts") or ()), spec["LeafNodeText"]]).removeprefix("[k8s.io] ")
    state = spec["State"]
    output = str((spec.get("Failure") or {}).get("Message", "")).strip()
    seconds = round(spec.get("RunTime", 0) / 1e9, 1)
    if state == PASSED:
        return Spec(name, PASSED, "", seconds)
    if state in BAD:
        return Spec(name, FAILED, output or state, seconds)
    why = next((reason for part, reason in CANT_PASS.items() if part in name), "")
    return Spec(name, SKIPPED, output or why, seconds)


def summary(specs: Sequence[Spec]) -> dict[str, Any]:
    """The document of --json."""
    counts = {state: sum(spec.state == state for spec in specs) for state in (PASSED, FAILED, SKIPPED)}
    return {**counts, "specs": [spec._asdict() for spec in specs]}


def table(specs: Sequence[Spec]) -> str:
    """For people: what failed last, where the eye is."""
    ordered = sorted(specs, key=lambda spec: ((PASSED, SKIPPED, FAILED).index(spec.state), spec.name))
    lines = [f"{spec.state:8}{spec.seconds:6.1f} s  {spec.name}{_why(spec)}" for spec in ordered]
    counts = summary(specs)
    return "\n".join([*lines, "", ", ".join(f"{counts[state]} {state}" for state in (PASSED, FAILED, SKIPPED))])


def _why(spec: Spec) -> str:
    return f"\n{'':18}{spec.reason.splitlines()[0]}" if spec.reason else ""
