# SPDX-License-Identifier: Apache-2.0
"""The error for image content that does not match its digest or format. Raised by rootfs and the pull."""

from stage1.errors import PodError


class Corrupt(PodError):
    """Bytes do not match their digest, or are no layer at all. Trying again helps if the transfer was at
    fault.
    """

    grpc_code = "DATA_LOSS"
