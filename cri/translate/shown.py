# SPDX-License-Identifier: Apache-2.0
"""What verbose answers show for people to read: a message of the CRI as `config`, and text. Called by `replies`,
and for text by the plugins' messages. Pure.

As containerd has it: the names of the fields, numbers for enumerations, and nothing that is not set.
"""

from typing import Any


def message(shown: Any) -> dict[str, Any]:
    """A protobuf message as an object of JSON."""
    return {field.name: _field(field, value) for field, value in shown.ListFields()}


def text(value: str) -> str:
    """The text as valid UTF-8, which a protobuf string must be: other bytes (PEP 383) are replaced."""
    return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _field(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {str(key): _value(held) for key, held in value.items()}
    return [_value(one) for one in value] if field.is_repeated else _value(value)


def _value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return message(value) if hasattr(value, "ListFields") else value
