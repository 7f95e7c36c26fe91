# SPDX-License-Identifier: Apache-2.0
"""How much longer things may take here. Used by everything in the tests that waits with a limit.

In the lab a virtual machine is emulated in an emulated one. A limit is there to end what hangs; it is no measure.
"""

import os

PATIENCE = 20 if os.environ.get("LAB") else 1
"""Limits in seconds are multiplied by this. tests/lab/init.sh sets the variable."""
