# SPDX-License-Identifier: Apache-2.0
"""The program that stands in QEMU's place: a copy of it named `qemu-system-x86_64` is first on the daemon's PATH.

It reads QEMU's command line. The pod's hostname selects its role: the name of an attack on the link, `compromised` for
everything that a hypervisor could try in its jail, `memory-bomb`, `console-bomb`, else a well-behaved guest. Its
results go to its output, which is the pod's console, as a line that begins with MARK.
"""

import os
import re
import socket
import sys

MARK = "clearpod-hostile: "


def main() -> None:
    """Play the role that the hostname selects until the host ends it."""
    arguments = sys.argv[1:]
    volumes = share(arguments, "volumes")
    with open(f"{volumes}/pod/hostname", encoding="utf-8") as file:
        what = file.read().strip()
    if what == "memory-bomb":
        memory_bomb()
    if what == "console-bomb":
        console_bomb()
    from tests.hostile.file_attacks import FILES
    from tests.hostile.link_attacks import ATTACKS
    from tests.hostile.monitor import Monitor
    from tests.hostile.phantom import Phantom
    from tests.hostile.save_attacks import SAVE_ATTACKS

    guest = (ATTACKS | SAVE_ATTACKS | FILES).get(what, Phantom)(listener(arguments, "link"))
    if what == "compromised" and os.fork() == 0:
        tell(arguments, volumes=volumes, layers=share(arguments, "layers"))
        os._exit(0)
    if any(word.startswith("socket,id=qmp") for word in arguments):
        if "-incoming" in arguments:
            guest.runs.clear()
        Monitor(listener(arguments, "qmp"), guest).start()
    guest.run()


def share(arguments: list[str], tag: str) -> str:
    """The directory that is exported under this tag."""
    result = next(word for word in arguments if word.startswith("local,") and f"id={tag}," in word)
    return re.search(r"path=([^,]+)", result)[1]  # type: ignore[index]


def listener(arguments: list[str], name: str) -> socket.socket:
    """Of the link or the monitor: the descriptor that QEMU was given, or the path where it would listen."""
    result = next(word for word in arguments if word.startswith(f"socket,id={name}"))
    if given := re.search(r",fd=(\d+)", result):
        return socket.socket(fileno=int(given[1]))
    made = socket.socket(socket.AF_UNIX)
    made.bind(re.search(r"path=([^,]+)", result)[1])  # type: ignore[index]
    made.listen(1)
    return made


def tell(arguments: list[str], *, volumes: str, layers: str) -> None:
    """Try everything, and print the results."""
    from tests.hostile import jail_attacks

    directory = os.path.dirname(os.path.dirname(volumes))
    run_dir = os.path.dirname(os.path.dirname(directory))
    files = [arguments[arguments.index(option) + 1] for option in ("-kernel", "-initrd")]
    target = jail_attacks.Target(
        directory, volumes, layers, f"{os.path.dirname(run_dir)}/canary", f"{run_dir}/clearpod.sock", tuple(files)
    )
    print(f"\n{MARK}{jail_attacks.report(target)}", flush=True)


def memory_bomb() -> None:
    """All the memory that there is."""
    kept = []
    while True:
        kept.append(b"x" * (16 << 20))


def console_bomb() -> None:
    """Output without end."""
    block = b"x" * 65535 + b"\n"
    while True:
        os.write(1, block)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + "/lib")
    main()
