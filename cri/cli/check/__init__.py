# SPDX-License-Identifier: Apache-2.0
"""The commands about this host: `check`, and `init`, which writes a configuration and starts the daemon."""
