# SPDX-License-Identifier: Apache-2.0
"""Makes docs/reference from the code. Run by `scripts/gen-reference`; a unit test holds the pages to the code."""
