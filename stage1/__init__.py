# SPDX-License-Identifier: Apache-2.0
"""clearpod's engine: turns one pod into one VM. Standard library only; never imports `cri`."""
