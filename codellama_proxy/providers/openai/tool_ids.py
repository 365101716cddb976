"""Ids of tool calls for providers that take only short ones."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Mapping
from typing import Any

LENGTH = 9
LETTERS = string.digits + string.ascii_letters
SHORT = re.compile(rf"[a-zA-Z0-9]{{{LENGTH}}}", re.ASCII)


def short(call_id: str) -> str:
    """Nine letters and digits: the id itself if it is so, else the same ones for it every time."""
    if SHORT.fullmatch(call_id):
        return call_id
    number = int.from_bytes(hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).digest())
    return "".join(LETTERS[number // len(LETTERS) ** place % len(LETTERS)] for place in range(LENGTH))


def shortened(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message whose calls, or the call it answers, go by their short ids."""
    changed = dict(message)
    if isinstance(answered := message.get("tool_call_id"), str):
        changed["tool_call_id"] = short(answered)
    if calls := message.get("tool_calls"):
        changed["tool_calls"] = [{**call, "id": short(str(call.get("id") or ""))} for call in calls]
    return changed
