# SPDX-License-Identifier: Apache-2.0
"""The guest's real agent, changed so that it lies, hangs or ends when its guest is saved, as its hostname selects.

`guest_of` makes the directory of a guest's files with it; needs what the guest is built with.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.fakes.command import CHECKOUT

EVIL = {
    "static int on_shares(const clearpod_agent_Shares *shares, struct fault *why)\n{\n": r"""
    char who[65] = "";
    gethostname(who, sizeof who - 1);
    if (!strcmp(who, "evil-claims") && !shares->mount)
        return 0; /* they are still mounted */
""",
    "static int on_freeze(const clearpod_agent_Freeze *freeze, struct fault *why)\n{\n": r"""
    char who[65] = "";
    gethostname(who, sizeof who - 1);
    if (!strcmp(who, "evil-runs"))
        return 0; /* its containers run on */
    if (!strcmp(who, "evil-holds") && freeze->thaw)
        for (;;)
            pause();
    if (!strcmp(who, "evil-dies"))
        _exit(1);
""",
}
"""By the head of the agent's function before whose lines it stands."""
KINDS = ("claims", "runs", "holds", "dies")


def guest_of(guest_dir: Path, place: Path) -> Path:
    """The files of the guest with an agent that is built in `place`."""
    for name in ("images/agent", "proto/agent"):
        shutil.copytree(CHECKOUT / name, place / "src" / name)
    source = place / "src/images/agent/loop/requests.c"
    text = source.read_text(encoding="utf-8")
    for head, evil in EVIL.items():
        assert text.count(head) == 1, "the agent's function has another head now"
        text = text.replace(head, head + evil)
    source.write_text(text, encoding="utf-8")
    target = f"{place}/out/agent"
    argv = ["make", "-C", str(source.parent.parent), f"OUT={place}/out", "LIMIT=1000000", target]
    subprocess.run(argv, check=True, timeout=300, stdout=subprocess.DEVNULL)
    made = place / "guest"
    made.mkdir()
    for path in guest_dir.iterdir():
        if path.name != "initramfs":
            (made / path.name).symlink_to(path.resolve())
    code = "import sys; from pathlib import Path; from initramfs.build import pack; pack(*map(Path, sys.argv[1:]))"
    env = os.environ | {"PYTHONPATH": str(CHECKOUT / "images")}
    subprocess.run([sys.executable, "-c", code, target, str(made / "initramfs")], check=True, timeout=60, env=env)
    return made
