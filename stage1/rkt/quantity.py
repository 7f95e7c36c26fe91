# SPDX-License-Identifier: Apache-2.0
"""Quantities of resources as the App Container specification writes them: 1500m, 100M, 64Mi, 1e3. Pure."""

from stage1.errors import BadRequest
from stage1.rkt.words import is_number

_DECIMAL = {"": 0, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_MOST = (1 << 63) - 1
_MOST_DIGITS, _MOST_EXPONENT = 30, 99


def parse(text: str, *, where: str, parts: int = 1) -> int:
    """The quantity in `parts` of its unit (1000 for thousandths), rounded up. Raises BadRequest."""
    number = text.lstrip("+-")
    mantissa = number[: len(number) - len(number.lstrip("0123456789."))]
    whole, _, fraction = mantissa.partition(".")
    digits = whole + fraction
    if len(text) - len(number) > 1 or not is_number(digits) or len(digits) > 2 * _MOST_DIGITS:
        raise BadRequest(f"{where}: {text!r} is not a quantity, such as 500m, 2, 100M or 64Mi")
    tens, twos = _scale(number[len(mantissa) :], text, where=where)
    tens -= len(fraction)
    count = int(digits) * parts * (-1 if text.startswith("-") else 1)
    value = -((-count * int(10 ** max(tens, 0)) << twos) // int(10 ** max(-tens, 0)))
    if not 0 <= value <= _MOST:
        raise BadRequest(f"{where}: {text!r} is out of range; it must be from 0 to {_MOST // parts}")
    return value


def _scale(suffix: str, text: str, *, where: str) -> tuple[int, int]:
    """Powers of ten and of two."""
    if suffix in _DECIMAL:
        return _DECIMAL[suffix], 0
    if suffix in _BINARY:
        return 0, _BINARY[suffix]
    exponent = suffix[2:] if suffix[1:2] in ("+", "-") else suffix[1:]
    if suffix[0] in "eE" and is_number(exponent) and int(exponent) <= _MOST_EXPONENT:
        return int(exponent) * (-1 if suffix[1] == "-" else 1), 0
    known = " ".join([*list(_DECIMAL)[1:], *_BINARY])
    raise BadRequest(
        f"{where}: {text!r} has a suffix that is not one of {known}, and no exponent up to {_MOST_EXPONENT}"
    )
