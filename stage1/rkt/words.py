# SPDX-License-Identifier: Apache-2.0
"""Numbers and host names in what rkt says; names and the rest are in spelling. Pure."""

from stage1.rkt.spelling import has_only

_DIGITS = "0123456789"
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def is_number(text: str) -> bool:
    """Digits and nothing else, of the kind that int() and the kernel agree on."""
    return bool(text) and has_only(text, _DIGITS)


def is_hostname(text: str) -> bool:
    """What the kernel takes for a name, and /etc/hosts for one word."""
    return 0 < len(text) <= 64 and text[0] not in "-." and has_only(text, _LETTERS + _DIGITS + "_.-")
