# SPDX-License-Identifier: Apache-2.0
"""`clearpod serve` with fault points: `python -m tests.faults.daemon ROOT ARGUMENTS`. Started by tests.soak.node."""

import sys
from pathlib import Path

from cri.__main__ import main
from tests.faults import points

if __name__ == "__main__":
    points.install(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
