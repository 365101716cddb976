"""Log lines: bounded in length, in memory and in what they can do to a terminal or a collector."""

from __future__ import annotations

import contextlib
import io
import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama_proxy.tracking.lines import (
    MAX_LINE_BYTES,
    SHORT_LINE_BYTES,
    as_json,
    as_text,
    bounded,
    request_as_json,
)
from codellama_proxy.tracking.log import MAX_QUEUED_BYTES, Format, Log, readable
from tests.support.processes import until

ODD = st.text(st.characters() | st.sampled_from("\x00\x1b\x7f\x9b\u2028\u202e\n\r\t\ud800"), max_size=40)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | ODD | ODD.map(lambda t: t * 500),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ODD, inner, max_size=4),
    max_leaves=12,
)
CONTROL = {chr(code) for code in (*range(32), *range(127, 160), 0x2028, 0x2029, 0x202E)}


@given(
    fields=st.dictionaries(st.sampled_from(["model", "path", "attempts", "error"]), VALUES),
    message=ODD | ODD.map(lambda text: text * 500),
)
@settings(max_examples=150, deadline=None)
def test_every_record_is_one_bounded_json_line(fields: dict[str, Any], message: str) -> None:
    line = as_json(fields, message)
    assert len(line) <= MAX_LINE_BYTES
    assert isinstance(json.loads(line), dict)
    assert not CONTROL & set(line.decode())


@given(
    st.dictionaries(st.sampled_from(["model", "path", "attempts", "error"]), VALUES, min_size=1),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_lines_of_requests_are_those_of_other_messages(fields: dict[str, Any], long: bool) -> None:
    record = {**fields, "project": "p" * (SHORT_LINE_BYTES if long else 1)}
    line, other = json.loads(request_as_json(record)), json.loads(as_json(record, "request"))
    assert {**line, "time": other["time"]} == other


@given(text=ODD | ODD.map(lambda text: text * 5000))
@settings(max_examples=100, deadline=None)
def test_every_record_is_one_bounded_text_line(text: str) -> None:
    line = as_text(text, "warning")
    assert len(line) <= MAX_LINE_BYTES
    assert not CONTROL & set(line.decode("utf-8", "replace"))


def test_the_detail_of_an_error_is_in_the_text_line() -> None:
    record = {"attempts": [], "error": "model_not_found", "error_detail": "disabled: NO_KEY is not set"}
    assert readable(record).endswith("model_not_found (disabled: NO_KEY is not set)")


def test_short_records_are_unchanged() -> None:
    record = {"model": "m" * 256, "attempts": [{"deployment": "a#1", "ms": 1.5}] * 64, "cost_usd": None}
    assert bounded(record) == record
    record = json.loads(as_json({"é": "ü"}, "x" * 3000))
    assert (record["message"], record["é"]) == ("x" * 3000, "ü")


LENGTHS = st.integers(254, 258).map("x".__mul__) | st.integers(0, 9).map("é".__mul__)
ITEMS = st.integers(62, 66).map([None].__mul__) | st.lists(st.tuples(LENGTHS), max_size=2)
ALIKE = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | LENGTHS | ITEMS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=6,
)


@given(fields=st.dictionaries(st.sampled_from("abc"), ALIKE, max_size=3))
def test_a_line_has_the_bounded_fields(fields: dict[str, Any]) -> None:
    long = ["x" * 200] * 6
    shown = json.loads(as_json({**fields, "long": long}, "request"))
    assert {name: shown[name] for name in fields} == bounded(fields)


def test_external_texts_are_cut_to_256_characters() -> None:
    record = json.loads(as_json({"model": "m" * 9_000_000, "nested": [{"x": "y" * 300}]}, "request"))
    assert record["model"] == "m" * 253 + "..."
    assert len(record["nested"][0]["x"]) == 256


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_client_cannot_start_a_log_line(form: Format) -> None:
    out = io.BytesIO()
    log = Log(out, form)
    log.start()
    log.request({"model_requested": "a\nfake\r\x1b[2J\x9b1m", "http_status": 404, "attempts": []})
    log.request({"path": "/a\n/b", "http_status": 404, "method": "GET", "total_ms": 1.0})
    log.line("said\nsomething\x1b[0m")
    log.stop()
    written = out.getvalue()
    assert written.count(b"\n") == 3
    assert not {"\x1b", "\r", "\x9b"} & set(written.decode())


@pytest.fixture
def piped() -> Iterator[tuple[Log, int]]:
    """A running log and the end of the pipe it writes to."""
    read, write = os.pipe()
    with contextlib.suppress(BrokenPipeError), os.fdopen(write, "wb", buffering=0) as out:
        log = Log(out, "json")
        log.start()
        yield log, read


def test_an_unread_log_is_bounded_and_reports_dropped_lines(piped: tuple[Log, int]) -> None:
    log, read = piped
    record = {"model": "m" * 250, "more": ["x" * 250] * 30}
    count = 3 * MAX_QUEUED_BYTES // len(as_json(record, "request"))
    started = time.monotonic()
    for _ in range(count):
        log.request(record)
    assert time.monotonic() - started < 20, "nothing waits for the reader"
    assert count // 4 < log.dropped < count
    got: list[bytes] = []

    def drain() -> None:
        while not got or b"goes on" not in got[-1]:
            got.append(os.read(read, 1 << 20))

    reader = threading.Thread(target=drain)
    reader.start()
    until(lambda: b"were dropped" in b"".join(got[-2:]), "the line about the lost ones", within=20)
    log.line("and it goes on")
    reader.join(timeout=5)
    log.stop()
    os.close(read)
    record = [json.loads(line)["message"] for line in b"".join(got).splitlines()]
    told = [int(message.split()[0]) for message in record if "were dropped" in message]
    assert sum(told) == log.dropped
    assert record.count("request") == count - log.dropped


def test_a_closed_stdout_loses_only_its_lines(piped: tuple[Log, int]) -> None:
    log, read = piped
    os.close(read)
    log.line("nobody reads this")
    until(lambda: log.dropped, "the lost line")
    log.stop()


def readable_request(**fields: Any) -> str:
    row = {
        "attempts": [],
        "http_status": 200,
        "endpoint": "chat",
        "model": "m",
        "cost_usd": 0.0,
        "total_ms": 0.42,
    }
    return readable({**row, **fields})


@pytest.mark.parametrize(
    ("result", "shown"),
    [("hit", "cache hit"), ("semantic", "cache hit (similar)"), ("miss", ""), ("off", ""), (None, "")],
)
def test_a_text_line_shows_a_cache_hit(result: str | None, shown: str) -> None:
    line = readable_request(cache=result)
    assert (shown in line) if shown else ("cache" not in line)


@pytest.mark.parametrize(
    ("ms", "shown"), [(0.42, "0.4 ms"), (9.94, "9.9 ms"), (9.96, "10 ms"), (1387.44, "1387 ms")]
)
def test_a_text_line_rounds_milliseconds(ms: float, shown: str) -> None:
    assert f" {shown}" in readable_request(total_ms=ms)
