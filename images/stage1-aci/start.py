# SPDX-License-Identifier: Apache-2.0
"""What the launcher runs with the bundled Python: `start.pyc NAME ARGUMENT...`, NAME being an entry point's.

A file and not `-m` or `-c`, for which the interpreter imports modules worth a third of its start.
"""

import sys

from stage1.entry import door

if __name__ == "__main__":
    sys.exit(door.enter(sys.argv[1], sys.argv[2:]))
