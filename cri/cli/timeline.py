# SPDX-License-Identifier: Apache-2.0
"""`clearpod timeline`: the phases of a pod's start as bars, in the terminal, as SVG or as a page of HTML."""

import argparse
import time

from cri import __version__
from cri.cli import bars, shown, svg, why
from cri.cli.daemon import connect
from cri.cli.parser import Parser
from cri.cli.record import Record, find

EXAMPLES = (
    ("clearpod timeline default/web", "the phases of the start of the pod web"),
    ("clearpod timeline default/web --html > web.html", "a page for a browser, which needs no other file"),
)
PLAIN_COLUMNS = 100


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod timeline`."""
    parser.take_pod()
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--svg", action="store_true", help="print a picture")
    form.add_argument(
        "--html", action="store_true", help="print an HTML page, with the history that `clearpod why` shows"
    )
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Draw a pod's start on standard output. Raises NotFound, BadRequest."""
    with connect(args.config) as daemon:
        record = find(daemon, args.pod)
    drawn = bars.chart(record)
    if args.html:
        shown.write(page(record, drawn))
    elif drawn is None:
        shown.write(f"nothing of the start of {record.title} is recorded")
    elif args.svg:
        shown.write(svg.svg(drawn, shown.printable(record.title), source=source(record)))
    else:
        shown.write(f"pod {shown.printable(record.title)}\n{bars.text(drawn, shown.width() or PLAIN_COLUMNS)}")
    return 0


def page(record: Record, drawn: bars.Chart | None) -> str:
    """Return the timeline as a page of HTML."""
    story = why.text(record, now_s=time.time()).splitlines()
    return svg.page(drawn, shown.printable(f"pod {record.title}"), source=source(record), story=story, console=[])


def source(record: Record) -> str:
    """Return which version of clearpod measured the phases, and with which hypervisor."""
    return f"measured by clearpod {__version__}" + (f" with {record.hypervisor}" if record.hypervisor else "")
