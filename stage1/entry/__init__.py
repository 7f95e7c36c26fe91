# SPDX-License-Identifier: Apache-2.0
"""The programs that rkt calls; each is a list of what happens. See dispatch.py for how they are called."""
