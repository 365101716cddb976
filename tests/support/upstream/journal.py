"""The record of what really happened on the wire: one JSON line an event, flushed at once, times monotonic.

`CLOCK_MONOTONIC` is one clock for all processes of a machine, so a test may compare these times with its own.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


class Journal:
    """Events: `request`, `sent` (one token), `finished`, `closed` (the peer hung up), `bad_script`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def write(self, event: str, **facts: Any) -> None:
        self._file.write(json.dumps({"at": time.monotonic(), "event": event, **facts}) + "\n")
        self._file.flush()
