# SPDX-License-Identifier: Apache-2.0
"""Many pods as a service: the Container Runtime Interface over gRPC, and the `clearpod` command.

Called by kubelet, crictl and people. It may import `stage1`, except `stage1.rkt` and `stage1.entry`. This
file must stay empty of imports, so that asking for the version costs nothing.
"""

__version__ = "0.1.0"
