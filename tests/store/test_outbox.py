"""The outbox and its sender: nothing is lost but what does not fit, and an outage costs almost nothing."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from codellama_proxy.core.clock import Time
from codellama_proxy.core.snapshot import Secret
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.store.interfaces import Outbox
from codellama_proxy.store.postgres.connections import Connections
from codellama_proxy.store.postgres.outbox import Outbox as ServerOutbox
from codellama_proxy.store.sqlite.migrations import shipped
from codellama_proxy.store.sqlite.outbox import MAX_BYTES, MAX_RECORDS, put
from codellama_proxy.store.sqlite.outbox import Outbox as FileOutbox
from codellama_proxy.store.sqlite.reader import Reader
from codellama_proxy.tracking.promptlayer.sender import (
    BATCH_SIZE,
    MAX_PAUSE_SECONDS,
    POLL_SECONDS,
    PromptLayerSender,
    backoff,
)
from codellama_proxy.upstream.dial import DialError
from codellama_proxy.upstream.http import BytesBody, Response
from tests.support.ledger_fixtures import NOW, Store, ask, end
from tests.support.postgres_store import PostgresStore, prepared_database

KEY = Secret("pl_0123456789")
Answer = tuple[int, dict[str, Any]] | None


class Clock:
    def __init__(self) -> None:
        self.now = NOW
        self.time = Time(monotonic=lambda: self.now, wall=lambda: self.now, jitter=lambda: 1.0)


class Service:
    """A transport to a tracking service; `answer` says what it answers next."""

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, Any]], Answer] = lambda _: (201, {"id": 7})
        self.content: bytes | None = None
        """Sent instead of the answer's content."""
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.tries = 0

    async def send(self, request: HttpRequest, connect_seconds: float) -> Response:
        del connect_seconds
        self.tries += 1
        body = orjson.loads(request.body)
        answer = self.answer(body)
        if answer is None:
            raise DialError("nobody is there")
        status, content = answer
        if status < 300:
            self.got.append((urlsplit(request.url).path, body))
        headers = {"retry-after": str(content["retry_after"])} if "retry_after" in content else {}
        return Response(
            status, headers, BytesBody(orjson.dumps(content) if self.content is None else self.content)
        )

    async def aclose(self) -> None:
        return


AnyStore = Store | PostgresStore
Use = Callable[[AnyStore, Outbox, PromptLayerSender, Service, Clock], Awaitable[None]]


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> AnyStore:
    """Of both database systems: what is promised of an outbox holds for either."""
    if request.param == "sqlite":
        return Store(tmp_path / "proxy.db")
    return PostgresStore(prepared_database(request.getfixturevalue("postgres_databases")))


@asynccontextmanager
async def opened(store: AnyStore) -> AsyncIterator[Outbox]:
    async with store.open():
        if isinstance(store, PostgresStore):
            connections = Connections(store.address)
            try:
                yield ServerOutbox(connections)
            finally:
                await connections.close()
            return
        reader = Reader(store.path)
        await reader.open()
        try:
            yield FileOutbox(store.writer, reader)
        finally:
            await reader.close()


def run(store: AnyStore, use: Use, key: Callable[[], Secret | None] = lambda: KEY) -> None:
    async def main() -> None:
        clock, service = Clock(), Service()
        async with opened(store) as outbox:
            await use(store, outbox, PromptLayerSender(outbox, service, key, clock.time), service, clock)

    asyncio.run(main())


def waiting(store: AnyStore) -> int:
    return int(store.value("select count(*) from outbox"))


def numbered(number: int) -> bytes:
    return orjson.dumps({"n": number})


async def fill(outbox: Outbox, count: int) -> None:
    for number in range(count):
        await outbox.add("request", f"req_{number}", numbered(number))


async def pass_time(delivery: PromptLayerSender, clock: Clock, seconds: float) -> None:
    """As the running sender would, on a clock that jumps."""
    until = clock.now + seconds
    while clock.now < until:
        clock.now += await delivery.round()


# --- the box -----------------------------------------------------------------------------------------------


def a_box() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    (migration,) = [one for one in shipped() if one.name == "0003_outbox"]
    db.executescript(migration.sql)
    return db


def test_a_full_outbox_drops_its_oldest_records() -> None:
    with closing(a_box()) as db:
        dropped = sum(put(db, "request", f"r{n}", b"{}") for n in range(MAX_RECORDS + 5))
        assert dropped == 5
        assert db.execute("select count(*), min(request_id) from outbox").fetchone()[0] == MAX_RECORDS
        assert db.execute("select request_id from outbox order by id limit 1").fetchone() == ("r5",)


def test_an_outbox_is_bounded_by_bytes() -> None:
    with closing(a_box()) as db:
        large = b"x" * (MAX_BYTES // 4)
        assert sum(put(db, "request", f"r{n}", large) for n in range(6)) == 2
        assert db.execute("select sum(length(body)) from outbox").fetchone() == (MAX_BYTES,)


def test_a_record_larger_than_the_limit_is_kept_alone() -> None:
    with closing(a_box()) as db:
        put(db, "request", "small", b"x")
        assert put(db, "request", "huge", b"x" * (MAX_BYTES + 1)) == 1
        assert put(db, "request", "next", b"x") == 1
        assert db.execute("select request_id from outbox").fetchall() == [("next",)]


def test_an_emptied_outbox_starts_over() -> None:
    with closing(a_box()) as db:
        for n in range(3):
            put(db, "request", f"r{n}", b"x" * (MAX_BYTES // 2))
            db.execute("delete from outbox")
        assert put(db, "request", "last", b"x" * (MAX_BYTES // 2)) == 0


def test_a_record_is_written_with_its_settlement_or_not_at_all(store: AnyStore) -> None:
    async def use(store: AnyStore, outbox: Outbox, *_: Any) -> None:
        async with store.open() as ledger:
            request = ask()
            ledger.settle(end("req_never_admitted", record=b"{}"))
            await ledger.admit(request)
            assert waiting(store) == 0
            ledger.settle(end(request, record=b'{"first": 1}'))
            ledger.settle(end(request, record=b'{"second": 1}'))
            await ledger.request(request.request_id)
        (record,) = await outbox.due(NOW, 10)
        assert (record.request_id, record.body) == (request.request_id, b'{"first": 1}')

    run(store, use)


# --- the sender --------------------------------------------------------------------------------------------


def test_everything_is_sent_in_order_and_removed(store: AnyStore) -> None:
    async def use(
        store: AnyStore, outbox: Outbox, delivery: PromptLayerSender, service: Service, clock: Clock
    ) -> None:
        await fill(outbox, BATCH_SIZE * 2 + 1)
        pauses = [await delivery.round() for _ in range(4)]
        assert pauses == [0, 0, 0, POLL_SECONDS]
        assert [body["n"] for _, body in service.got] == list(range(BATCH_SIZE * 2 + 1))
        assert waiting(store) == 0

    run(store, use)


def test_after_an_hour_of_outage_every_record_is_sent_with_few_attempts(store: AnyStore) -> None:
    async def use(
        store: AnyStore, outbox: Outbox, delivery: PromptLayerSender, service: Service, clock: Clock
    ) -> None:
        await fill(outbox, 50)
        service.answer = lambda _: None
        await pass_time(delivery, clock, 3600)
        assert service.tries < 3600 / MAX_PAUSE_SECONDS + 20
        assert waiting(store) == 50
        service.answer = lambda body: (201, {"id": body["n"] + 1})
        await pass_time(delivery, clock, 600)
        assert sorted(body["n"] for _, body in service.got) == list(range(50))

    run(store, use)


def test_a_failing_record_does_not_block_others(store: AnyStore) -> None:
    async def use(
        store: AnyStore, outbox: Outbox, delivery: PromptLayerSender, service: Service, clock: Clock
    ) -> None:
        service.answer = lambda body: (500, {}) if body["n"] == 0 else (201, {"id": body["n"]})
        await fill(outbox, 40)
        await pass_time(delivery, clock, 60)
        assert len(service.got) == 39
        assert waiting(store) == 1

    run(store, use)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_rejected_record_is_dropped_immediately(store: AnyStore, status: int) -> None:
    async def use(
        store: AnyStore, outbox: Outbox, delivery: PromptLayerSender, service: Service, clock: Clock
    ) -> None:
        service.answer = lambda _: (status, {})
        await fill(outbox, 3)
        assert await delivery.round() == 0
        assert (delivery.dropped, waiting(store)) == (3, 0)

    run(store, use)


@pytest.mark.parametrize("status", [301, 401, 403, 404, 408, 429, 500, 503])
def test_other_failures_keep_the_record(store: AnyStore, status: int) -> None:
    async def use(
        store: AnyStore, outbox: Outbox, delivery: PromptLayerSender, service: Service, clock: Clock
    ) -> None:
        service.answer = lambda _: (status, {})
        await fill(outbox, 3)
        await pass_time(delivery, clock, 7200)
        assert (delivery.dropped, waiting(store)) == (0, 3)

    run(store, use)


def test_retry_after_of_the_service_is_respected(store: AnyStore) -> None:
    async def use(
        store: AnyStore, outbox: Outbox, delivery: PromptLayerSender, service: Service, clock: Clock
    ) -> None:
        service.answer = lambda _: (429, {"retry_after": 120})
        await fill(outbox, 1)
        assert await delivery.round() == 120

    run(store, use)


def test_a_clock_set_back_delays_no_record(store: AnyStore) -> None:
    async def use(
        store: AnyStore, outbox: Outbox, delivery: PromptLayerSender, service: Service, clock: Clock
    ) -> None:
        service.answer = lambda _: (500, {})
        await fill(outbox, 1)
        await delivery.round()
        service.answer = lambda _: (201, {"id": 1})
        clock.now -= 1e6
        await delivery.round()
        assert len(service.got) == 1

    run(store, use)


def test_without_a_key_records_wait(store: AnyStore) -> None:
    async def use(
        store: AnyStore, outbox: Outbox, delivery: PromptLayerSender, service: Service, clock: Clock
    ) -> None:
        await fill(outbox, 1)
        assert await delivery.round() == POLL_SECONDS
        assert (service.tries, waiting(store)) == (0, 1)

    run(store, use, key=lambda: None)


def test_a_score_is_sent_after_its_request_with_its_id(store: AnyStore) -> None:
    async def use(
        store: AnyStore, outbox: Outbox, delivery: PromptLayerSender, service: Service, clock: Clock
    ) -> None:
        await outbox.add("request", "req_a", numbered(1))
        await outbox.add("score", "req_a", b'{"score": 90}')
        await outbox.add("score", "req_given_up", b'{"score": 1}')
        service.answer = lambda _: (500, {})
        await delivery.round()
        assert waiting(store) == 2
        assert delivery.dropped == 1
        service.answer = lambda _: (201, {"id": 41})
        await pass_time(delivery, clock, 60)
        paths = [path for path, _ in service.got]
        assert paths == ["/log-request", "/rest/track-score"]
        assert service.got[1][1] == {"score": 90, "request_id": 41, "api_key": KEY.reveal()}
        assert await outbox.knows("req_a")
        assert not await outbox.knows("req_given_up")
        await outbox.forget(clock.now + 1)
        assert not await outbox.knows("req_a")

    run(store, use)


@pytest.mark.parametrize("answer", [b"", b"no json", b"[]", b'{"id": "x"}', b'{"id": true}'])
def test_a_response_without_an_id_is_a_success(store: AnyStore, answer: bytes) -> None:
    async def use(
        store: AnyStore, outbox: Outbox, delivery: PromptLayerSender, service: Service, clock: Clock
    ) -> None:
        service.content = answer
        await fill(outbox, 1)
        await delivery.round()
        assert waiting(store) == 0

    run(store, use)


def test_stopping_delivers_waiting_records_within_its_time(store: AnyStore) -> None:
    async def use(
        store: AnyStore, outbox: Outbox, delivery: PromptLayerSender, service: Service, clock: Clock
    ) -> None:
        delivery.start()
        await fill(outbox, 30)
        await delivery.stop(5)
        assert len(service.got) == 30

    run(store, use)


def test_stopping_does_not_wait_for_an_unreachable_service(store: AnyStore) -> None:
    async def use(
        store: AnyStore, outbox: Outbox, delivery: PromptLayerSender, service: Service, clock: Clock
    ) -> None:
        service.answer = lambda _: None
        await fill(outbox, 30)
        delivery.start()
        async with asyncio.timeout(30):
            await delivery.stop(60)
        assert waiting(store) == 30

    run(store, use)


def test_backoff_doubles_up_to_a_maximum() -> None:
    assert [backoff(n, 60, 1.0) for n in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff(3, 60, 0.0) == 4
    assert backoff(10**9, 60, 1.0) == 60
