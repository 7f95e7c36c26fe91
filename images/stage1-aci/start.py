# SPDX-License-Identifier: Apache-2.0
"""What the launcher runs with the bundled Python: `start.pyc NAME ARGUMENT...`, NAME being an entry point's.

A file and not `-m` or `-c`, for which the interpreter imports modules worth a third of its start.
"""

import sys

if __name__ == "__main__":
    entry = __import__(f"stage1.entry.{sys.argv[1]}", fromlist=("main",))
    sys.exit(entry.main(sys.argv[2:]))
