"""The log on stdout: JSON for collectors, text for people.

No call blocks: a thread writes the lines in batches. When stdout is not read in time, the oldest lines are dropped
and counted, because a stalled log must not stall requests. `tracking/lines.py` formats the lines.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, Protocol

from codellama_proxy.core.clock import shown_ms
from codellama_proxy.tracking import lines

MAX_QUEUED_BYTES = 8 << 20
"""Of lines in the queue; as many more may be in the batch that is being written."""
BATCH_SECONDS = 0.02
"""Between a line and the write of its batch: bounds how often the thread wakes."""

Format = Literal["json", "text"]


class Output(Protocol):
    """Where lines go: an unbuffered binary file."""

    def write(self, data: memoryview, /) -> int | None: ...


class Log:
    """Writes lines to `out` from a thread that runs from `start` to `stop`; `stop` writes the rest.

    `out` is unbuffered: the end of the process would wait for the lock of a buffer that the thread cannot write.
    """

    def __init__(self, out: Output, form: Format) -> None:
        self.form = form
        self.dropped = 0
        self._out = out
        self._lines: collections.deque[bytes] = collections.deque()
        self._queued_bytes = 0
        self._reported = 0
        """How many of `dropped` the log has reported."""
        self._not_empty = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._not_empty.set()
        self._thread.join(timeout=2)

    def line(self, text: str, level: str = "info", **fields: Any) -> None:
        """Log one event. In JSON, `fields` follow the message; text shows the message only."""
        self._put(self._line(text, level, fields))

    def request(self, record: Mapping[str, Any]) -> None:
        """Log one finished request: exactly the fields of the record, which has no content and no secret."""
        if self.form == "json":
            self._put(lines.request_as_json(record))
        else:
            self._put(lines.as_text(readable(lines.bounded(record))))

    def _put(self, line: bytes) -> None:
        self._lines.append(line)
        self._queued_bytes += len(line)
        while self._queued_bytes > MAX_QUEUED_BYTES and self._lines:
            self._queued_bytes -= len(self._lines.popleft())
            self.dropped += 1
        if not self._not_empty.is_set():
            self._not_empty.set()

    def _take(self) -> list[bytes]:
        batch = []
        with contextlib.suppress(IndexError):
            while True:
                batch.append(self._lines.popleft())
        self._queued_bytes = 0
        return batch

    def _dropped_line(self, count: int) -> bytes:
        were = "log line was" if count == 1 else "log lines were"
        text = f"{count} {were} dropped: stdout was not read in time."
        return self._line(text, "warning", {})

    def _line(self, text: str, level: str, fields: Mapping[str, Any]) -> bytes:
        return lines.as_json(fields, text, level) if self.form == "json" else lines.as_text(text, level)

    def _run(self) -> None:
        while True:
            self._not_empty.wait()
            if not self._stopping:
                time.sleep(BATCH_SECONDS)
            self._not_empty.clear()
            self._write()
            if self._stopping and not self._lines:
                return

    def _write(self) -> None:
        batch = self._take()
        if self.dropped > self._reported:
            batch.append(self._dropped_line(self.dropped - self._reported))
            self._reported = self.dropped
        try:
            left = memoryview(b"\n".join(batch) + b"\n" if batch else b"")
            while left:
                # An unbuffered file takes a part, or nothing where it does not block.
                if written := self._out.write(left):
                    left = left[written:]
                elif self._stopping:
                    return
                else:
                    time.sleep(BATCH_SECONDS)
        except (OSError, ValueError):
            self.dropped += len(batch)  # the reader of stdout is gone


class Handler(logging.Handler):
    """Writes the records of Python's `logging`, the proxy's and its libraries', to the same log."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            location = _location(error)
            text = f"{text}: {type(error).__name__} at {location}"  # without its text, which may hold content
        self._log.line(text, record.levelname.lower(), logger=record.name)


def _location(error: BaseException) -> str:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return "an unknown place"
    return f"{traceback.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{traceback.tb_lineno}"


def readable(record: Mapping[str, Any]) -> str:
    """A request as one line of text."""
    if "attempts" not in record:
        return _readable_other(record)
    served = record.get("model") or "-"
    requested = record.get("model_requested")
    model = served if requested in (None, served) else f"{requested} -> {served}"
    tokens = f"{record.get('prompt_tokens', 0)}+{record.get('completion_tokens', 0)} tokens"
    cost = record.get("cost_usd")
    failed = [
        f"{a['deployment']} {a.get('reason') or a['class']}"
        for a in record.get("attempts", ())
        if a["class"] != "ok"
    ]
    detail = record.get("error_detail")
    parts = [
        datetime.now().astimezone().strftime("%H:%M:%S"),
        str(record.get("http_status")),
        record.get("endpoint", ""),
        record.get("project") or "-",
        model,
        tokens,
        "unpriced" if cost is None else f"${cost:.6f}",
        shown_ms(record.get("total_ms", 0)),
        _cached(record.get("cache")),
        record.get("request_id", ""),
        record.get("error") or "",
        f"({detail})" if detail else "",
        f"(after {', '.join(failed)})" if failed else "",
    ]
    return " ".join(part for part in parts if part)


def _cached(result: Any) -> str:
    """How the cache answered; empty if it did not."""
    return {"hit": "cache hit", "semantic": "cache hit (similar)"}.get(result, "")


def _readable_other(record: Mapping[str, Any]) -> str:
    """A request that did not reach the gateway: refused, or to an admin endpoint."""
    parts = [
        datetime.now().astimezone().strftime("%H:%M:%S"),
        str(record.get("http_status")),
        record.get("method") or "-",
        record.get("path") or record.get("endpoint") or "-",
        record.get("project") or "",
        shown_ms(record["total_ms"]) if "total_ms" in record else "",
        record.get("request_id") or "",
        record.get("error") or "",
    ]
    return " ".join(part for part in parts if part)
