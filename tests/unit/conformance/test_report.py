# SPDX-License-Identifier: Apache-2.0
"""critest's report as our table and JSON, and the pure parts of the stand-in images."""

from typing import Any

from tests.conformance import debian, parts, report


def spec(text: str, state: str, message: str = "", kind: str = "It") -> dict[str, Any]:
    """One entry as ginkgo writes it."""
    failure = {"Failure": {"Message": message}} if message else {}
    return {
        "ContainerHierarchyTexts": ["[k8s.io] Pods", "runtime"], "LeafNodeType": kind, "LeafNodeText": text,
        "State": state, "RunTime": 1_540_000_000, **failure,
    }  # fmt: skip


SUITE = [
    {"SpecReports": [
        spec("should start", "passed"),
        spec("should stop", "timedout"),
        spec("should leave", "failed", "expected 0\ngot 1"),
        spec("needs a feature", "skipped", "no user namespaces"),
        spec("should support 'rshared'", "skipped"),
        spec("was not in the focus", "skipped"),
        spec("benchmark about starts", "skipped"),
        spec("", "passed", kind="BeforeSuite"),
    ]},
    {"SpecReports": None},
]  # fmt: skip


def test_each_spec_has_its_state_and_reason() -> None:
    assert report.specs(SUITE) == [
        report.Spec("Pods runtime needs a feature", "skipped", "no user namespaces", 1.5),
        report.Spec("Pods runtime should leave", "failed", "expected 0\ngot 1", 1.5),
        report.Spec("Pods runtime should start", "passed", "", 1.5),
        report.Spec("Pods runtime should stop", "failed", "timedout", 1.5),
        report.Spec("Pods runtime should support 'rshared'", "skipped", report.CANT_PASS["rshared"], 1.5),
    ]


def test_the_document_counts_what_it_lists() -> None:
    document = report.summary(report.specs(SUITE))
    assert (document["passed"], document["failed"], document["skipped"]) == (1, 2, 2)
    assert document["specs"][2] == {
        "name": "Pods runtime should start",
        "state": "passed",
        "reason": "",
        "seconds": 1.5,
    }


def test_the_table_ends_with_what_failed_and_the_counts() -> None:
    lines = report.table(report.specs(SUITE)).splitlines()
    assert lines[0].startswith("passed") and lines[0].endswith("Pods runtime should start")
    assert lines[-1] == "1 passed, 2 failed, 2 skipped"
    assert "expected 0" in lines[-5] + lines[-4] and "got 1" not in "\n".join(lines)


def test_sources_come_from_debians_own_suites_of_this_host() -> None:
    told = (
        "Debian\thttp://a.example/debian/\ttrixie\tmain\t/usr/share/keyrings/k.gpg\n"
        "Debian\thttp://a.example/debian/\ttrixie\tcontrib\t/usr/share/keyrings/k.gpg\n"
        "Debian\tfile:/mirror/\ttrixie-updates\tmain\t$(SIGNED_BY)\n"
        "Debian Backports\thttp://a.example/debian/\ttrixie-backports\tmain\t\n"
        "local\tfile:/srv/\t./\t$(COMPONENT)\t$(SIGNED_BY)\n"
    )
    assert debian.source_lines(told) == [
        "deb-src [signed-by=/usr/share/keyrings/k.gpg] http://a.example/debian/ trixie main",
        "deb-src file:/mirror/ trixie-updates main",
    ]
    assert debian.source_lines("") == []


def test_busybox_gets_our_options_once() -> None:
    told = "# CONFIG_STATIC is not set\nCONFIG_TC=y\nCONFIG_TCPSVD=y\n# CONFIG_FEATURE_PREFER_APPLETS is not set\n"
    lines = parts.configured(told).splitlines()
    assert lines[0] == "CONFIG_TCPSVD=y"
    assert lines.count("CONFIG_STATIC=y") == 1 and "# CONFIG_STATIC is not set" not in lines
    assert lines.count("# CONFIG_TC is not set") == 1 and "CONFIG_TC=y" not in lines
