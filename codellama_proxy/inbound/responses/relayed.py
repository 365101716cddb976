"""A stream that is passed on as the upstream sent it, and its end if the upstream cannot complete it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from codellama_proxy.core.sse import EventTooLargeError, frame_at


class RelayedStream:
    """Keeps what a final event of ours must repeat: the answer's id, and the number of the last event."""

    def __init__(self) -> None:
        self._first = b""
        self._last = b""

    def note(self, raw: bytes) -> None:
        """Keeps the first and the last frames."""
        self._first = self._first or raw
        self._last = raw

    def failed(self, failure: Mapping[str, str]) -> bytes:
        """`response.failed` as the next event of the stream."""
        begun = (_json(self._first) or [{}])[0].get("response")
        sequence = (_json(self._last) or [{}])[-1].get("sequence_number")
        response = {
            **(begun if isinstance(begun, dict) else {"object": "response", "output": []}),
            "status": "failed",
            "error": failure,
        }
        data = {
            "type": "response.failed",
            "sequence_number": sequence + 1 if type(sequence) is int else 0,
            "response": response,
        }
        return b"event: response.failed\ndata: " + orjson.dumps(data) + b"\n\n"


def _json(frames: bytes) -> list[dict[str, Any]]:
    """The data of the events in these bytes, those that are JSON objects."""
    found: list[dict[str, Any]] = []
    at = 0
    while at < len(frames):
        try:
            frame, at = frame_at(frames, at)
            value = orjson.loads(frame.data) if frame is not None else None
        except (EventTooLargeError, orjson.JSONDecodeError):
            break
        if isinstance(value, dict):
            found.append(value)
    return found
