# SPDX-License-Identifier: Apache-2.0
"""Translation between the CRI's protobuf messages and our records and models. The only place that knows both.

`sandbox` and `container` read requests, `security` reads the security context, `replies` makes answers. Pure,
but for the resolution of a volume's symbolic link on the host. What cannot be done is refused here with a
sentence, never ignored.
"""
