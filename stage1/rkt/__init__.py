# SPDX-License-Identifier: Apache-2.0
"""What rkt's contract says, interface version 6: arguments, manifests, files. Knows no VMM and no agent."""
