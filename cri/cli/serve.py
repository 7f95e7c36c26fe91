# SPDX-License-Identifier: Apache-2.0
"""`clearpod serve`: the daemon. Wires the node together, serves until SIGTERM or SIGINT, and leaves the pods
running. `service` has the part for systemd.

Called by `cri.__main__`. Logging is set up here and nowhere else.
"""

import argparse
import asyncio
import json
import logging
import os
import re
import resource
import signal
import sys
import time

from cri import notify
from cri.cli.parser import Command, Parser
from cri.config import Config, load
from stage1.linux.heap import use_one_heap

EXAMPLES = (
    ("clearpod serve", "serve kubelet and crictl on /run/clearpod/clearpod.sock"),
    ("clearpod serve --check-config --config new.toml", "check a configuration file and print it with all defaults"),
)
THREADS = min(32, (os.cpu_count() or 1) + 4)
"""How many threads there are for blocking work: as many as asyncio would start eventually."""
_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def add_arguments(parser: Parser) -> None:
    """Arguments of `clearpod serve`."""
    parser.take_config()
    parser.add_argument(
        "--check-config", action="store_true", help="only check the configuration and print the settings in force"
    )


def main(args: argparse.Namespace) -> int:
    """Run the daemon until it is stopped by a signal."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it has a meaning, and until we serve none
    if args.check_config:
        print(json.dumps(load(args.config).values(), indent=2))
        return 0
    use_one_heap()
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # only ever fork and exec at once; see docs of grpc
    config = load(args.config)
    _set_up_logging(config)
    raise_descriptors()
    return asyncio.run(serve(config, args.config))


def raise_descriptors() -> None:
    """Let this process have as many descriptors as it may: pods and streams need some each."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def serve(config: Config, path: str | None = None) -> int:
    """Serve until a signal; `path` is where `config` came from. Raises PodError when the daemon can't start."""
    from cri import server
    from cri.cli.service import Service, Signals
    from cri.node import Node
    from cri.notify import Notifier
    from cri.owner import outlives_a_boot, own
    from cri.threads import started
    from cri.translate.sandbox import plain

    asyncio.get_running_loop().set_default_executor(started(THREADS, "daemon"))
    log = logging.getLogger("clearpod")
    signals, notifier = Signals(), Notifier(os.environ)
    with own(config):
        if lack := outlives_a_boot(config.run_dir):
            log.warning("run_dir", extra={"warning": lack})
        node = Node.of_this_machine(config)
        listener = server.Listener(node, config)
        try:
            await listener.start()
        except BaseException:
            node.images.close()
            raise
        try:
            await node.open(plain(config))
            log.info("serving", extra={"socket": config.socket_path, "hypervisor": node.hypervisor})
            await Service(node, notifier, path=path, set_up_logging=_set_up_logging).run(signals)
        finally:
            log.info("ending")
            await listener.stop(grace_s=2)
            await node.close()
    return 0


_ODD = re.compile(r'[\s"=]')


class TextFormat(logging.Formatter):
    """`TIME LEVEL event key=value ...`, one line per event."""

    _last = (-1.0, "")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """The time as by default, whose text is kept for as long as the second lasts."""
        second = record.created // 1
        if self._last[0] != second:
            self._last = second, time.strftime(self.default_time_format, self.converter(record.created))
        return f"{self._last[1]},{int(record.msecs):03d}"

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback when there is one."""
        fields = " ".join(f"{key}={_word(value)}" for key, value in _fields(record).items())
        line = f"{self.formatTime(record)} {record.levelname:<7} {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormat(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The event as JSON: its time, level and name, and its fields."""
        head = {"time": record.created, "level": record.levelname.lower(), "event": record.getMessage()}
        trace = {"traceback": self.formatException(record.exc_info)} if record.exc_info else {}
        return json.dumps({**head, **_fields(record), **trace}, default=str)


class JournalFormat(logging.Formatter):
    """What `inner` makes, each line with its priority for the journal, so that `journalctl -p warning` finds it."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """The lines."""
        return notify.with_priority(self._inner.format(record), record.levelno)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _word(value: object) -> str:
    text = str(value)
    return json.dumps(text) if not text or _ODD.search(text) else text


def _set_up_logging(config: Config) -> None:
    handler = logging.StreamHandler(sys.stderr)
    formatter = JsonFormat() if config.log.format == "json" else TextFormat()
    handler.setFormatter(JournalFormat(formatter) if notify.is_journal(sys.stderr, os.environ) else formatter)
    logging.basicConfig(level=config.log.level.upper(), handlers=[handler], force=True)


COMMANDS = {"serve": Command(EXAMPLES, add_arguments, main)}
