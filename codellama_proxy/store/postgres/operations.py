"""What the ledger's queue carries instead of functions: one batch reads and writes for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from codellama_proxy.limits.admission import AdmissionRequest, Extension, Settlement
from codellama_proxy.limits.rates import scope_ids
from codellama_proxy.store.postgres.session import PostgresSession
from codellama_proxy.store.queued_write import QueuedWrite, Write


@dataclass(slots=True)
class Admit:
    """Admit a request; the result is an `Admission`."""

    ask: AdmissionRequest
    passing: bool = False
    """Settlements wait that are not in the transaction: `NoRoomError` unless every scope has room without them."""


@dataclass(slots=True)
class Extend:
    """Record a further attempt and hold more for it; the result is the nano-USD added."""

    more: Extension


@dataclass(slots=True)
class Note:
    """Record a further attempt that needs no money held."""

    more: Extension


@dataclass(slots=True)
class Settle:
    """End a request; the result is whether it was held."""

    end: Settlement


@dataclass(slots=True)
class HoldAgain:
    """Insert a held row again that a failover lost."""

    row: dict[str, Any]
    """The columns of `held`."""


class NoRoomError(Exception):
    """An admission has to be decided after the settlements that it passed. Nothing was changed."""


Operation = Admit | Extend | Note | Settle | HoldAgain


def as_write(operation: Operation) -> Write[PostgresSession, Any]:
    """What the queue carries to `PostgresEngine`, which knows operations besides functions."""
    return cast("Write[PostgresSession, Any]", operation)


def operation_of(item: QueuedWrite) -> Operation:
    """What the item carries; `chunks` has put functions apart."""
    return cast("Operation", item.fn)


def end_of(item: QueuedWrite) -> Settlement:
    """The settlement of an item that carries one."""
    return cast("Settle", item.fn).end


def request_id(operation: Operation) -> str:
    match operation:
        case Admit():
            return operation.ask.request_id
        case Settle():
            return operation.end.request_id
        case HoldAgain():
            return str(operation.row["request_id"])
        case _:
            return operation.more.request_id


def ids_of_row(row: dict[str, Any]) -> tuple[str, ...]:
    """The scopes of a held row."""
    return scope_ids(row["project"], row["key_id"], row["user"])


def chunks(items: Sequence[QueuedWrite]) -> Iterator[list[QueuedWrite]]:
    """Items that may share a transaction, in order: a function alone, or operations on different requests.

    A note about a request that ends in the same transaction is left out: the settlement has all attempts.
    """
    chunk: dict[str, QueuedWrite] = {}
    for item in items:
        if not isinstance(item.fn, Operation):
            if chunk:
                yield list(chunk.values())
            yield [item]
            chunk = {}
            continue
        name = request_id(item.fn)
        if name in chunk and not (isinstance(item.fn, Settle) and isinstance(chunk[name].fn, Note)):
            yield list(chunk.values())
            chunk = {}
        chunk[name] = item
    if chunk:
        yield list(chunk.values())
