# SPDX-License-Identifier: Apache-2.0
"""What stage1 uses of `json`, on the interpreter's own scanner and encoder; goes into the stage1 image as `json`.

The library's module compiles regular expressions, with whose engine come `enum`, `functools` and `collections`: as much
as the interpreter itself. Text is UTF-8 here.
"""

from _json import encode_basestring, encode_basestring_ascii, make_encoder, make_scanner

_BLANK = " \t\n\r"


class JSONDecoder:
    """Makes values of texts. Its attributes are what the scanner asks for."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int = float, int
    parse_constant = {"-Infinity": float("-inf"), "Infinity": float("inf"), "NaN": float("nan")}.__getitem__

    def __init__(self):
        self.memo = {}
        self._scan = make_scanner(self)

    def decode(self, text):
        """The value that `text` is, blanks around it."""
        at = len(text) - len(text.lstrip(_BLANK))
        value, end = self.raw_decode(text, at)
        if text[end:].strip(_BLANK):
            end = len(text) - len(text[end:].lstrip(_BLANK))
            raise _error("Extra data", text, end)
        return value

    def raw_decode(self, text, idx=0):
        """The value that begins at `idx`, and where it ends."""
        try:
            return self._scan(text, idx)
        except StopIteration as end:
            raise _error("Expecting value", text, end.value) from None


def loads(text):
    """The value that `text` is. Raises JSONDecodeError, a ValueError."""
    if isinstance(text, bytes | bytearray):
        text = text.decode("utf-8")
    return JSONDecoder().decode(text)


def dumps(value, *, ensure_ascii=True, separators=(", ", ": "), sort_keys=False, indent=None):
    """The text of `value`, in one line or with `indent` blanks a level, and then ASCII. Raises TypeError for what is no
    JSON.
    """
    if indent is not None:
        return _indented(value, " " * indent, "\n")
    item, key = separators
    strings = encode_basestring_ascii if ensure_ascii else encode_basestring
    encode = make_encoder({}, _refuse, strings, None, key, item, sort_keys, False, True)
    return "".join(encode(value, 0))


def _indented(value, step, line):
    """Of dictionaries and lists; `line` begins a line where `value` is."""
    inner = line + step
    if isinstance(value, dict) and value:
        parts = [f"{dumps(str(key))}: {_indented(part, step, inner)}" for key, part in value.items()]
    elif isinstance(value, list | tuple) and value:
        parts = [_indented(part, step, inner) for part in value]
    else:
        return dumps(value)
    first, last = "{}" if isinstance(value, dict) else "[]"
    return f"{first}{inner}{f',{inner}'.join(parts)}{line}{last}"


def _refuse(value):
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _error(message, text, at):
    from json.decoder import JSONDecodeError

    return JSONDecodeError(message, text, at)
