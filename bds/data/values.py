"""Plain values, as JSON has them: their name in a message, and bytes that are equal where the values are."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces and ASCII only: equal values, equal bytes. Dates and the like as text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode("ascii")


def kind_of(value: Any) -> str:
    """What a value is, in a user's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return "a list"
    return type(value).__name__


def one_line(error: Exception) -> str:
    """An error's message on one line, without a full stop; its class where it has none."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
