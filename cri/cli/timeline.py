# SPDX-License-Identifier: Apache-2.0
"""`clearpod timeline`: the phases of a pod's start as bars, in the terminal, as SVG or as a page of HTML."""

import argparse
import time

from cri import __version__
from cri.cli import bars, record, shown, svg, why
from cri.cli.daemon import connect
from cri.cli.parser import Parser
from cri.cli.record import Record

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
    form.add_argument("--html", action="store_true", help="print a page, with what `clearpod why` tells")
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Draw it on standard output. Raises NotFound, BadRequest."""
    with connect(args.config) as daemon:
        found = record.find(daemon, args.pod)
    drawn = bars.chart(found)
    if args.html:
        shown.say(page(found, drawn))
    elif drawn is None:
        shown.say(f"nothing of the start of {found.title} is recorded")
    elif args.svg:
        shown.say(svg.svg(drawn, shown.printable(found.title), source=source(found)))
    else:
        shown.say(f"pod {shown.printable(found.title)}\n{bars.text(drawn, shown.width() or PLAIN_COLUMNS)}")
    return 0


def page(found: Record, drawn: bars.Chart | None) -> str:
    """The page of HTML."""
    told = why.text(found, now_s=time.time()).splitlines()
    return svg.page(drawn, shown.printable(f"pod {found.title}"), source=source(found), story=told, console=[])


def source(found: Record) -> str:
    """Who measured what."""
    return f"measured by clearpod {__version__}" + (f" with {found.hypervisor}" if found.hypervisor else "")
