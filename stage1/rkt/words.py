# SPDX-License-Identifier: Apache-2.0
"""The shapes of words in rkt's contract. Pure. Without `re`, which would cost each program a quarter of its start."""

_LOWER, _DIGITS = frozenset("abcdefghijklmnopqrstuvwxyz"), frozenset("0123456789")
_HEX, _OCTAL = frozenset("0123456789abcdef"), frozenset("01234567")
_NAME = _LOWER | _DIGITS
_VARIABLE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_UUID = (8, 4, 4, 4, 12)


def is_name(text: str) -> bool:
    """Of an app, a volume, a port (appc's ACName): a-z, 0-9 and single '-' between them."""
    return all(part and _NAME.issuperset(part) for part in text.split("-"))


def is_uuid(text: str) -> bool:
    """In lower case, with its dashes."""
    parts = text.split("-")
    return tuple(map(len, parts)) == _UUID and all(map(_HEX.issuperset, parts))


def is_variable(text: str) -> bool:
    """The name of an environment variable."""
    return bool(text) and text[0] in _VARIABLE and (_VARIABLE | _DIGITS | {".", "-"}).issuperset(text)


def is_number(text: str) -> bool:
    """Digits and nothing else, of the kind that int() and the kernel agree on."""
    return bool(text) and _DIGITS.issuperset(text)


def is_hostname(text: str) -> bool:
    """What the kernel takes for a name, and /etc/hosts for one word."""
    return (
        0 < len(text) <= 64 and text[0] in _VARIABLE | _DIGITS and (_VARIABLE | _DIGITS | {".", "-"}).issuperset(text)
    )


def is_mode(text: str) -> bool:
    """Permission bits as an octal number."""
    return 0 < len(text) <= 5 and _OCTAL.issuperset(text) and int(text, 8) <= 0o7777
