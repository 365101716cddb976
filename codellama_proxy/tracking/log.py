"""Log lines on stdout: JSON for collectors, text for people. What may be said is decided by who calls.

Nothing here ever waits: lines are handed to a thread that writes them in batches, and when stdout is not read
the oldest are dropped and counted, because a stalled log must not stall an answer. Lines are bounded in length
(`tracking/lines.py`).
"""

from __future__ import annotations

import collections
import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, BinaryIO, Literal

from codellama_proxy.tracking import lines

MAX_HELD = 8 << 20
"""Bytes of lines that wait to be written; as many may be with the thread that writes."""
GATHER = 0.02  # seconds a batch is gathered: bounds how often the thread wakes

Format = Literal["json", "text"]


class Log:
    """Writes lines to `out`. `start` and `stop` bracket its thread; `stop` writes what is left."""

    def __init__(self, out: BinaryIO, form: Format) -> None:
        self.form = form
        self.dropped = 0
        self._out = out
        self._lines: collections.deque[bytes] = collections.deque()
        self._held = 0
        self._told = 0
        """Of `dropped`, how many a line has told of."""
        self._some = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._some.set()
        self._thread.join(timeout=2)

    def line(self, text: str, level: str = "info", **fields: Any) -> None:
        """One event in words."""
        said = {"level": level, "message": text, **fields}
        self._put(lines.as_json(said) if self.form == "json" else lines.as_text(text, level))

    def request(self, record: Mapping[str, Any]) -> None:
        """One finished request: exactly the record's fields, which hold no content and no secret."""
        if self.form == "json":
            self._put(lines.as_json({"level": "info", "message": "request", **record}))
        else:
            self._put(lines.as_text(readable(lines.bounded(record))))

    def _put(self, line: bytes) -> None:
        self._lines.append(line)
        self._held += len(line)
        while self._held > MAX_HELD and self._lines:
            self._held -= len(self._lines.popleft())
            self.dropped += 1
        if not self._some.is_set():
            self._some.set()

    def _take(self) -> list[bytes]:
        batch = []
        with contextlib.suppress(IndexError):
            while True:
                batch.append(self._lines.popleft())
        self._held = 0
        return batch

    def _lost(self, count: int) -> bytes:
        text = f"{count} log lines were dropped: stdout was not read in time."
        said = {"level": "warning", "message": text}
        return lines.as_json(said) if self.form == "json" else lines.as_text(text, "warning")

    def _run(self) -> None:
        while True:
            self._some.wait()
            if not self._stopping:
                time.sleep(GATHER)
            self._some.clear()
            self._write()
            if self._stopping and not self._lines:
                return

    def _write(self) -> None:
        batch = self._take()
        if self.dropped > self._told:
            batch.append(self._lost(self.dropped - self._told))
            self._told = self.dropped
        try:
            self._out.write(b"\n".join(batch) + b"\n" if batch else b"")
            self._out.flush()
        except (OSError, ValueError):
            self.dropped += len(batch)  # the reader is gone: there is nobody left to tell


class Handler(logging.Handler):
    """Carries the records of Python's logging (ours and the libraries') into the same lines."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            place = _place(error)
            text = f"{text}: {type(error).__name__} at {place}"  # never its text: that may hold anything
        self._log.line(text, record.levelname.lower(), logger=record.name)


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "an unknown place"
    return f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}"


def readable(record: Mapping[str, Any]) -> str:
    """A request in the words of one line, for a person at a terminal."""
    if "attempts" not in record:
        return _refused_or_administered(record)
    served = record.get("model") or "-"
    asked = record.get("model_requested")
    model = served if asked in (None, served) else f"{asked} -> {served}"
    tokens = f"{record.get('prompt_tokens', 0)}+{record.get('completion_tokens', 0)} tokens"
    cost = record.get("cost_usd")
    failed = [
        f"{a['deployment']} {a.get('reason') or a['class']}"
        for a in record.get("attempts", ())
        if a["class"] != "ok"
    ]
    parts = [
        datetime.now().astimezone().strftime("%H:%M:%S"),
        str(record.get("http_status")),
        record.get("endpoint", ""),
        record.get("project") or "-",
        model,
        tokens,
        "unpriced" if cost is None else f"${cost:.6f}",
        f"{record.get('total_ms', 0):.0f} ms",
        record.get("request_id", ""),
        record.get("error") or "",
        f"(after {', '.join(failed)})" if failed else "",
    ]
    return " ".join(part for part in parts if part)


def _refused_or_administered(record: Mapping[str, Any]) -> str:
    """A request that never reached the gateway."""
    parts = [
        datetime.now().astimezone().strftime("%H:%M:%S"),
        str(record.get("http_status")),
        record.get("method") or "-",
        record.get("path") or record.get("endpoint") or "-",
        record.get("project") or "",
        f"{record['total_ms']:.0f} ms" if "total_ms" in record else "",
        record.get("request_id") or "",
        record.get("error") or "",
    ]
    return " ".join(part for part in parts if part)
