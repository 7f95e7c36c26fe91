# SPDX-License-Identifier: Apache-2.0
"""What the nested benchmark's machine writes becomes figures: counters are mapped, phases found, promises held."""

import pytest

from tests.bench.nested import plan, report, trace

CONSOLE = """\
[    1.0] kvm: something\r
bench.mark lkvm.warm pid1 1 900000000\r
bench.mark lkvm.warm ready 2 901000000\r
bench.run lkvm.warm 100000000 990000000 0 7\r
bench.mark lkvm.0 pid1 20716367 71000000\r
bench.mark lkvm.0 ready 23825746 74000000\r
bench.run lkvm.0 4000000000 4080000000 -4006000000 2208\r
bench.mark lkvm.1 pid1 20716367 71000000\r
bench.mark lkvm.1 ready 23825746 78000000\r
bench.run lkvm.1 5000000000 5090000000 -5006000000 2210\r
bench.mark lkvm.trace pid1 20716367 70000000\r
bench.mark lkvm.trace ready 23825746 75000000\r
bench.run lkvm.trace 6000000000 6090000000 -6000000000 2209\r
bench.failed microvm.0 256\r
qemu: no such file\r
bench.end\r
"""
EXIT = "kvm_exit: vcpu 0 reason {} rip {} info1 {} info2 0x0 intr_info 0x0 error_code 0x0"
TRACES = "\n".join(
    [
        "bench.trace other.trace",
        "   x-1 [000] d.... 5900000000: " + EXIT.format("npf", "0xfff0", "0x4"),
        "bench.trace lkvm.trace",
        "# tracer: nop",
        "   lkvm-9 [000] d.... 6007000000: " + EXIT.format("npf", "0x200", "0x4"),
        "   lkvm-9 [000] d.... 6007500000: " + EXIT.format("npf", "0x100017", "0x4"),
        "   lkvm-9 [000] d.... 6020000000: " + EXIT.format("io", "0xffffffff81000000", "0xcf80241"),
        "   lkvm-9 [000] d.... 6021000000: " + EXIT.format("io", "0xffffffff81000000", "0x3f80241"),
    ]
)


def the_run(number: str) -> trace.Run:
    return next(run for run in trace.runs(CONSOLE) if run.number == number)


def test_the_guests_counter_is_mapped_to_the_time_since_the_exec():
    run = the_run("0")
    assert (run.init_ms, run.ready_ms, run.seen_ms, run.exits) == (77.0, 80.0, 80.0, 2208)


def test_phases_end_where_the_next_begin_and_add_up():
    run = the_run("trace")
    result = trace.phases(trace.exits(TRACES, run), run)
    assert result == [7.0, 0.5, 12.5, 50.0, 5.0] and sum(result) == run.ready_ms


def test_a_trace_of_another_run_shows_nothing():
    run = the_run("0")
    assert trace.exits(TRACES, run) == [] and trace.phases([], run) == []


def test_exits_are_counted_by_what_they_were_for():
    assert trace.exit_counts(trace.exits(TRACES, the_run("trace"))) == {"npf": 2, "io: PCI": 1, "io: serial port": 1}


def test_the_warm_up_and_the_trace_do_not_count():
    figures = report.figures(CONSOLE, TRACES)
    assert figures["lkvm_exec_to_ready_ms"] == 82.0
    assert (figures["lkvm_exec_to_ready_ms_min"], figures["lkvm_exec_to_ready_ms_max"]) == (80.0, 84.0)


def test_a_vm_that_did_not_start_is_reported_with_its_message():
    (failure,) = report.figures(CONSOLE, TRACES)["failures"]
    assert all(word in failure for word in ("microvm.0", "256", "qemu: no such file"))
    assert "bench." not in failure


@pytest.mark.parametrize(
    ("ours", "microvm", "q35", "told"),
    [
        (80.0, 160.0, 2000.0, 0),
        (100.1, 300.0, 9000.0, 1),
        (80.1, 160.0, 2002.5, 1),
        (80.0, 160.0, 1999.0, 1),
        (120.0, 200.0, 2000.0, 3),
        (80.0, None, None, 0),
        (None, 160.0, 2000.0, 0),
    ],
)
def test_an_exceeded_budget_is_reported(ours, microvm, q35, told):
    values = {"lkvm": ours, "microvm": microvm, "q35_debian": q35}
    result = {f"{name}_exec_to_ready_ms": value for name, value in values.items() if value}
    assert len(report.broken(result)) == told


def test_a_round_starts_each_variant_once_but_the_long_one_and_only_the_last_is_traced():
    kinds = plan.variants(1 << 21, 1 << 21, kernel_bytes=9 << 20, with_lkvm=True)
    texts = list(plan.files(kinds, 2, 1).values())
    names = [text.splitlines()[0].decode().removeprefix("name ") for text in texts]
    rounds = [f"{kind.name}.{number}" for number in ("0", "1") for kind in kinds if not kind.is_long or number == "0"]
    assert names == ["lkvm.warm", *rounds, "q35_debian.1", *(f"{kind.name}.trace" for kind in kinds)]
    assert [name for name, text in zip(names, texts, strict=True) if b"\nuntil 1\n" in text] == ["q35_debian.1"]
    traced = [b"trace kvm/kvm_exit" in text.splitlines() for text in texts]
    assert traced == [name.endswith(".trace") for name in names]


def test_a_kind_with_too_few_starts_is_reported():
    result = report.figures(CONSOLE, TRACES)
    assert report.lacking(result, {"lkvm": 2}) == []
    assert report.lacking(result, {"lkvm": 3, "q35_debian": 1}) == [
        "lkvm came up 2 times of 3", "q35_debian came up 0 times of 1"
    ]  # fmt: skip


def test_without_kvmtool_the_others_are_started():
    kinds = plan.variants(1 << 21, 1 << 21, kernel_bytes=9 << 20, with_lkvm=False)
    assert [kind.name for kind in kinds] == ["microvm", "q35_debian"]
