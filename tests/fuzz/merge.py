# SPDX-License-Identifier: Apache-2.0
"""Takes what a fuzzer has found into the repository's corpus: `python -m tests.fuzz.merge NAME`, for scripts/fuzz.

libFuzzer's merge keeps, smallest first, each input that reaches something which those before it do not.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.run import CHECKOUT, HERE, OUT

MOST_INPUTS, MOST_BYTES = 40, 16 << 10
"""Of a corpus: everybody clones it."""


def main() -> None:
    """Add to the corpus what reaches more than it does, the smallest inputs first, as far as there is budget."""
    name = sys.argv[1]
    kept = HERE / "corpus" / name
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as merged:
        for path in kept.iterdir():
            shutil.copy(path, merged)
        arguments = [sys.executable, "-m", "tests.fuzz.run", name, "0", "-merge=1", merged]
        subprocess.run(arguments, cwd=CHECKOUT, check=True)
        result = [path for path in Path(merged).iterdir() if not (kept / path.name).exists()]
        budget = MOST_BYTES
        for path in sorted(result, key=lambda one: one.stat().st_size)[: MOST_INPUTS - len(list(kept.iterdir()))]:
            budget -= path.stat().st_size
            if budget > 0:
                shutil.copy(path, kept / path.name[:16])
    print(f"{kept}: {len(list(kept.iterdir()))} inputs, from {len(list((OUT / name).iterdir()))} in {OUT / name}")


if __name__ == "__main__":
    main()
