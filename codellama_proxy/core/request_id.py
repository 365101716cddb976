"""The id of a request: in its row, its log line and the `x-request-id` header."""

from __future__ import annotations

import random


def new_request_id(wall: float) -> str:
    """A unique id that sorts by time, so that a ledger's index of ids grows at its end only. `wall`: Unix seconds."""
    milliseconds = int(wall * 1000)  # 44 bits
    return "req_" + (milliseconds << 52 | random.getrandbits(52)).to_bytes(12).hex()
