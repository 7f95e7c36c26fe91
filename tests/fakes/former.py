# SPDX-License-Identifier: Apache-2.0
"""The version of clearpod that pods and images must be adopted from: commit e7710e6, out of the repository's history.

Used by the tests of upgrades. What is generated from proto/ is this version's, as its contracts have only grown.
"""

import shutil
import subprocess
import sys
from pathlib import Path

COMMIT = "e7710e6"
REPO = Path(__file__).parents[2]
LACKS_IT = f"commit {COMMIT} is not in this clone; fetch the whole history"
_PULL = """
import sys; from cri.config import Config; from cri.image.pull import pull_blocking
from cri.store.images import ImageStore
store = ImageStore(sys.argv[1]); print(pull_blocking(store, sys.argv[2], config=Config()).id); store.close()
"""


def is_here() -> bool:
    """Whether this clone has it."""
    asked = ["git", "cat-file", "-e", f"{COMMIT}^{{commit}}"]
    return not subprocess.run(asked, cwd=REPO, check=False, stderr=subprocess.DEVNULL).returncode


def tree(place: Path) -> Path:
    """Its files, in `place`."""
    archive = subprocess.run(["git", "archive", COMMIT], cwd=REPO, check=True, stdout=subprocess.PIPE).stdout
    subprocess.run(["tar", "-x", "-C", place], input=archive, check=True)
    shutil.copytree(REPO / "cri/pb", place / "cri/pb", dirs_exist_ok=True)
    return place


def guest(former: Path, kernels: Path) -> Path:
    """Its guest, built in its tree, with the kernels from the directory `kernels`: these are the same."""
    made = former / "build/guest"
    made.mkdir(parents=True)
    for name in ("vmlinux", "bzImage", "kernel.release"):
        shutil.copyfile(kernels / name, made / name)
    for part in ("agent", "initramfs", "guest"):
        subprocess.run(["images/build", part, "--cache", f"{former}/build/cache"], cwd=former, check=True)
    return made


def pull(former: Path, state_dir: str, reference: str) -> str:
    """Have it pull an image into a state directory of its own; the image's id."""
    argv = [sys.executable, "-c", _PULL, state_dir, reference]
    return subprocess.run(argv, cwd=former, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
