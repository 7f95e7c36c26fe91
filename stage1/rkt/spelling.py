# SPDX-License-Identifier: Apache-2.0
"""The syntax of rkt's names and numbers. Pure. Without `re`, whose import alone takes a quarter of `run`."""

_DIGITS = "0123456789"
_LOWER = "abcdefghijklmnopqrstuvwxyz"
_LETTERS = _LOWER + _LOWER.upper()
_UUID_LENGTHS = [8, 4, 4, 4, 12]
_MOST_DIGITS = 30


def has_only(text: str, characters: str) -> bool:
    """Whether every character of `text` is one of `characters`; true for an empty one."""
    return not text.strip(characters)


def is_uuid(text: str) -> bool:
    """8-4-4-4-12 lower-case hexadecimal digits."""
    parts = text.split("-")
    return [*map(len, parts)] == _UUID_LENGTHS and has_only("".join(parts), _DIGITS + "abcdef")


def is_name(text: str) -> bool:
    """An app's or a volume's: a-z, 0-9, and single '-' between them."""
    return all(part and has_only(part, _LOWER + _DIGITS) for part in text.split("-"))


def is_variable(text: str) -> bool:
    """The name of an environment variable as the App Container specification allows it."""
    return bool(text) and text[0] not in _DIGITS + ".-" and has_only(text, _LETTERS + _DIGITS + "_.-")


def is_number(text: str) -> bool:
    """Digits and nothing else, of the kind that int() and the kernel agree on."""
    return bool(text) and has_only(text, _DIGITS)


def is_hostname(text: str) -> bool:
    """Whether it is a valid host name for the kernel, and a single word in /etc/hosts."""
    return 0 < len(text) <= 64 and text[0] not in "-." and has_only(text, _LETTERS + _DIGITS + "_.-")


def is_octal(text: str) -> bool:
    """One to five octal digits."""
    return 1 <= len(text) <= 5 and has_only(text, "01234567")


def quantity(text: str) -> tuple[str, str, str, str] | None:
    """Sign, digits before and after the point, and suffix of a quantity; None when it is none."""
    sign = text[:1] if text[:1] in ("+", "-") else ""
    number = text[len(sign) :]
    digits = number[: len(number) - len(number.lstrip(_DIGITS + "."))]
    suffix = number[len(digits) :]
    whole, _, fraction = digits.partition(".")
    has_digits = bool(whole or fraction) and "." not in fraction and max(len(whole), len(fraction)) <= _MOST_DIGITS
    return (sign, whole, fraction, suffix) if has_digits and _is_suffix(suffix) else None


def _is_suffix(text: str) -> bool:
    """Letters, or an exponent of one or two digits."""
    if has_only(text, _LETTERS):
        return True
    digits = text[1:].removeprefix("+") if text[1:2] == "+" else text[1:].removeprefix("-")
    return text[0] in "eE" and 1 <= len(digits) <= 2 and has_only(digits, _DIGITS)
