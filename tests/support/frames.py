"""Server-sent events, read one after another."""

from __future__ import annotations

from codellama_proxy.core.sse import Frame, frame_at


def frames(events: bytes) -> list[Frame]:
    """The frames in the bytes of whole events."""
    found: list[Frame] = []
    at = 0
    while at < len(events):
        frame, at = frame_at(events, at)
        if frame is not None:
            found.append(frame)
    return found
