# SPDX-License-Identifier: Apache-2.0
"""rkt's stage1 interface, version 6: arguments, manifests, files. Knows no VMM and no agent."""
