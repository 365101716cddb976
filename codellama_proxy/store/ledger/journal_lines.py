"""The lines of the ledger's journal: a checksum, and a JSON array that begins with its kind. Pure.

The first line of a file names the journal (`header`). Every other line is an event of a request, with all that its
row needs, so that the rows can be written later.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple
from zlib import crc32

import orjson

from codellama_proxy.store.ledger.rows import ExtendedRow, HeldRow, SettledRow

FORMAT = 1
"""To be raised when the columns of a row change: files of another format are not read."""
FILLER = b" " * 4095 + b"\n"
"""A line without an event, larger than most events."""
_HEADER, _ADMITTED, _EXTENDED, _SETTLED = "journal", "a", "e", "s"


class Header(NamedTuple):
    """The first line of a file."""

    version: int
    """Lines can be read if it is `FORMAT`."""
    journal_id: str


class Admitted(NamedTuple):
    """A request was admitted."""

    seq: int
    row: HeldRow


class Extended(NamedTuple):
    """A further attempt of a request begins."""

    request_id: str
    hold_nanos: int
    """Everything that is held for the request now."""
    row: ExtendedRow


class Settled(NamedTuple):
    """A request ended."""

    request_id: str
    row: SettledRow
    content: str | None = None
    """JSON with the prompt and the answer, if they are stored."""
    record: str | None = None
    """The record for a tracking service."""


Event = Admitted | Extended | Settled


def header(journal_id: str) -> bytes:
    """The first line of a file. `journal_id`: of the database's present journal."""
    return _line((_HEADER, FORMAT, journal_id))


def line(event: Event) -> bytes:
    """An event as a line. Raises `TypeError` for a text that is not Unicode."""
    if isinstance(event, Admitted):
        return admitted_line(*event)
    if isinstance(event, Settled):
        return settled_line(event)
    return _line((_EXTENDED, event.request_id, event.hold_nanos, *event.row))


def admitted_line(seq: int, row: HeldRow) -> bytes:
    """The line of an `Admitted`. Raises `TypeError` as `line`."""
    return _line((_ADMITTED, seq, *row))


def settled_line(event: Settled) -> bytes:
    """The same of a `Settled`."""
    request_id, row, content, record = event
    return _line((_SETTLED, request_id, content, record, *row))


def header_of(first: bytes) -> Header | None:
    """The journal that a file belongs to, by its first line; `None` if that is not a header."""
    match _parsed(first.rstrip(b"\n")):
        case [str(kind), int(version), str(journal_id), *_] if kind == _HEADER:
            return Header(version, journal_id)
    return None


def damaged(data: bytes) -> int:
    """Number of lines that `events` leaves out, without fillers."""
    return sum([_parsed(text) is None for text in data.split(b"\n") if text.strip(b" ")])


def events(data: bytes) -> Iterator[Event]:
    """The events of a file in order. Incomplete or damaged lines are left out: a crash may cut the last one."""
    for text in data.split(b"\n"):
        match _parsed(text):
            case ["a", seq, *columns]:
                yield Admitted(seq, HeldRow(*columns))
            case ["e", request_id, hold_nanos, *columns]:
                yield Extended(request_id, hold_nanos, ExtendedRow(*columns))
            case ["s", request_id, content, record, *columns]:
                yield Settled(request_id, SettledRow(*columns), content, record)


def _line(values: tuple[Any, ...]) -> bytes:
    data = orjson.dumps(values)
    return b"%08x %b\n" % (crc32(data), data)


def _parsed(text: bytes) -> Any:
    checksum, _, data = text.partition(b" ")
    if len(checksum) != 8 or checksum != b"%08x" % crc32(data):
        return None
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:  # the checksum of nothing is 00000000
        return None
