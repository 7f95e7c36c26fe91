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

EVIL = r"""
    char who[65] = "";
    gethostname(who, sizeof who - 1);
    bool is_shares = !strcmp(tune->file, "shares"), is_begin = is_shares ? !*tune->text : *tune->text == '1';
    if (!strcmp(who, "evil-claims") && is_shares && is_begin)
        return 0; /* they are still mounted */
    if (!strcmp(who, "evil-runs") && !is_shares)
        return 0; /* its containers run on */
    if (!strcmp(who, "evil-holds") && !is_shares && !is_begin)
        for (;;)
            pause();
    if (!strcmp(who, "evil-dies") && !is_shares)
        _exit(1);
"""
KINDS = ("claims", "runs", "holds", "dies")
_AT = "static int on_tune(const clearpod_agent_Tune *tune, const struct asker *asker, struct fault *why)\n{\n"


def guest_of(guest_dir: Path, place: Path) -> Path:
    """The files of the guest with an agent that is built in `place`."""
    for name in ("images/agent", "proto/agent"):
        shutil.copytree(CHECKOUT / name, place / "src" / name)
    source = place / "src/images/agent/loop/requests.c"
    text = source.read_text(encoding="utf-8")
    assert text.count(_AT) == 1, "the agent's function has another head now"
    source.write_text(text.replace(_AT, _AT + EVIL), encoding="utf-8")
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
