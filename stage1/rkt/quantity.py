# SPDX-License-Identifier: Apache-2.0
"""Quantities of resources as the App Container specification writes them: 1500m, 100M, 64Mi, 1e3. Pure."""

from stage1.errors import BadRequest
from stage1.rkt import spelling

_DECIMAL = {"": 0, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_MOST = (1 << 63) - 1


def parse(text: str, *, where: str, parts: int = 1) -> int:
    """The quantity in `parts` of its unit (1000 for thousandths), rounded up. Raises BadRequest."""
    spelled = spelling.quantity(text)
    if not spelled:
        raise BadRequest(f"{where}: {text!r} is not a quantity, such as 500m, 2, 100M or 64Mi")
    sign, whole, fraction, suffix = spelled
    digits, tens, twos = int(f"{sign}{whole}{fraction}") * parts, -len(fraction), _BINARY.get(suffix, 0)
    tens += 0 if twos else _exponent(suffix, text, where=where)
    upper, lower = int(10 ** max(tens, 0)) << twos, int(10 ** max(-tens, 0))
    value = -(-digits * upper // lower)
    if not 0 <= value <= _MOST:
        raise BadRequest(f"{where}: {text!r} is out of range; it must be from 0 to {_MOST // parts}")
    return value


def _exponent(suffix: str, text: str, *, where: str) -> int:
    if suffix in _DECIMAL:
        return _DECIMAL[suffix]
    if suffix[1:].lstrip("+-").isdigit():
        return int(suffix[1:])
    known = " ".join([*list(_DECIMAL)[1:], *_BINARY])
    raise BadRequest(f"{where}: {text!r} has a suffix that is not one of {known}")
