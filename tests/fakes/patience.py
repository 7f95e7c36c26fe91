# SPDX-License-Identifier: Apache-2.0
"""How much longer things may take here. Used by everything in the tests that waits with a limit.

In the lab a virtual machine is emulated in an emulated one. Everywhere else two tests share two processors.
"""

import os

PACE = 20 if os.environ.get("LAB") else 1
"""What a test waits out is multiplied by this: a limit that is meant to pass. tests/lab/init.sh sets the variable."""
PATIENCE = PACE if PACE > 1 else 3
"""Limits in seconds are multiplied by this. A limit is there to end what hangs; it is no measure."""
