"""Keys: whose secret it is, what a key may be made of, and that a revoked one never comes back."""

import asyncio
import re
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.auth.keys import Keys
from codellama_proxy.core.clock import iso
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import Key
from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.key_fields import KeyChange, apply, money, read, shown
from codellama_proxy.store.location import ServerAddress
from codellama_proxy.store.postgres.connections import Connections
from codellama_proxy.store.postgres.engine import PostgresEngine
from codellama_proxy.store.postgres.session import PostgresSession
from codellama_proxy.store.postgres.session import connect as connect_to_server
from codellama_proxy.store.postgres.stored_keys import StoredKeys as ServerKeys
from codellama_proxy.store.postgres.workers import Identity
from codellama_proxy.store.sql import keys as key_rows
from codellama_proxy.store.sqlite.connection import connect
from codellama_proxy.store.sqlite.migrations import prepare
from codellama_proxy.store.sqlite.reader import Reader
from codellama_proxy.store.sqlite.stored_keys import StoredKeys
from codellama_proxy.store.sqlite.writer import Writer
from codellama_proxy.store.write_queue import WriteQueue
from tests.support.cases import each
from tests.support.postgres_store import prepared_database

NOW = 1_800_000_000.0
PRIVILEGED = ("spent", "role", "admin", "id", "key_id", "secret_hash", "key", "prefix", "blocked", "project")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Store:
    """A real database with its keys, and a clock that stands still."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = Clock()
        self.writer = Writer(path)
        self.reader = Reader(path)
        self.keys = Keys(StoredKeys(self.writer, self.reader), clock=self.clock)

    def run(self, use: Callable[["Store"], Awaitable[None]]) -> None:
        async def main() -> None:
            await self.reader.open()
            try:
                await use(self)
            finally:
                await self.reader.close()

        asyncio.run(main())

    def elsewhere(self) -> closing[sqlite3.Connection]:
        """As the command line opens the file."""
        return closing(connect(self.path))


class ServerStore:
    """The same on a PostgreSQL server."""

    def __init__(self, address: ServerAddress) -> None:
        self.address = address
        self.clock = Clock()
        self.engine = PostgresEngine(address, Identity())
        self.queue: WriteQueue[PostgresSession] = WriteQueue(self.engine, "test")
        self.connections = Connections(address)
        stored = ServerKeys(self.connections, self.engine, lambda: self.queue.healthy)
        self.keys = Keys(stored, clock=self.clock)

    def run(self, use: Callable[[Any], Awaitable[None]]) -> None:
        async def main() -> None:
            await asyncio.to_thread(self.queue.start)
            try:
                await use(self)
            finally:
                await self.connections.close()
                await asyncio.to_thread(self.queue.close)

        asyncio.run(main())

    def elsewhere(self) -> closing[PostgresSession]:
        """As the command line connects."""
        return closing(connect_to_server(self.address))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test runs on both database systems, unless it is about one of them."""
    if "store" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("sqlite_only")
        metafunc.parametrize("store", ["sqlite"] if only else ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store | ServerStore]:
    if request.param == "postgres":
        yield ServerStore(prepared_database(request.getfixturevalue("postgres_databases")))
        return
    prepare(tmp_path / "proxy.db")
    one = Store(tmp_path / "proxy.db")
    one.writer.start()
    yield one
    one.writer.close()


async def refused(keys: Keys, secret: str | None) -> str:
    with pytest.raises(ProxyError) as caught:
        await keys.authenticate(secret)
    assert caught.value.status == 401
    return caught.value.code


# --- authentication ----------------------------------------------------------------------------------------


@pytest.mark.sqlite_only
def test_a_secret_authenticates_its_key_and_is_not_stored(store: Store) -> None:
    async def use(store: Store) -> None:
        key, secret = await store.keys.create(read({"key_alias": "web-team"}))
        assert re.fullmatch(r"sk-[0-9A-Za-z]{40,}", secret)
        assert re.fullmatch(r"key_[0-9A-Za-z]{12}", key.key_id)
        assert secret.startswith(key.prefix)
        assert await store.keys.authenticate(secret) == key
        assert store.keys.cached(secret) == key
        assert secret not in repr(key)
        for file in store.path.parent.iterdir():
            assert secret[len(key.prefix) :].encode() not in file.read_bytes()

    store.run(use)


def test_malformed_and_unknown_secrets_get_the_same_error(store: Store) -> None:
    async def use(store: Store) -> None:
        key, secret = await store.keys.create(read({}))
        await store.keys.authenticate(secret)
        stored = key_rows.digest(secret)
        wrong = "x" if secret[-1] != "x" else "y"
        bodies = set()
        for presented in (
            *(
                "",
                "sk-",
                "Bearer",
                "' OR '1'='1",
                "sk-" + "a" * 43,
                "s" * 1_000_000,
                stored,
                "sk-" + stored,
            ),
            *(
                secret[:-1],
                secret + "x",
                secret[:-1] + wrong,
                secret.lower(),
                secret[:-1] + "é",
                " " + secret,
            ),
            *(secret[:-1] + "\0", secret[:-1] + "\udcff", key.key_id, key.prefix),
        ):
            for _ in range(2):  # the second time from memory
                with pytest.raises(ProxyError) as caught:
                    await store.keys.authenticate(presented)
                assert caught.value.status == 401
                bodies.add(caught.value.body())
        assert [orjson.loads(body)["error"]["code"] for body in bodies] == ["invalid_api_key"]
        assert await store.keys.authenticate(secret) == key

    store.run(use)


def test_a_key_expires_on_time_when_it_is_cached(store: Store) -> None:
    async def use(store: Store) -> None:
        key, secret = await store.keys.create(read({"duration": "1h"}))
        assert key.expires_at == NOW + 3600
        store.clock.now = NOW + 3599.9
        assert await store.keys.authenticate(secret) == key
        store.clock.now = NOW + 3600
        assert await refused(store.keys, secret) == "key_expired"
        store.keys.forget()
        assert await refused(store.keys, secret) == "key_expired"

    store.run(use)


@pytest.mark.parametrize("change", ["update", "block", "unblock", "rotate", "delete", "create"])
def test_a_change_of_one_key_removes_no_other_key_from_the_cache(store: Store, change: str) -> None:
    async def use(store: Store) -> None:
        keys = store.keys
        changed, changed_secret = await keys.create(read({}))
        other, other_secret = await keys.create(read({}))
        for secret in (changed_secret, other_secret):
            await keys.authenticate(secret)
        if change == "create":
            await keys.create(read({}))
        elif change == "update":
            await keys.update(changed.key_id, read({"rpm_limit": 5}))
        else:
            await getattr(keys, change)(changed.key_id)
        assert keys.cached(other_secret) == other
        assert keys.cached(changed_secret) == (changed if change == "create" else None)

    store.run(use)


def test_a_blocked_key_is_reported_as_blocked_and_works_when_unblocked(store: Store) -> None:
    async def use(store: Store) -> None:
        key, secret = await store.keys.create(read({"duration": "1h"}))
        await store.keys.authenticate(secret)
        assert (await store.keys.block(key.key_id)).blocked
        assert await refused(store.keys, secret) == "key_blocked"
        assert await store.keys.unblock(key.key_id) == key
        assert await store.keys.authenticate(secret) == key

    store.run(use)


def test_a_deleted_key_is_unknown(store: Store) -> None:
    async def use(store: Store) -> None:
        key, secret = await store.keys.create(read({}))
        await store.keys.authenticate(secret)
        assert (await store.keys.delete(key.key_id)).key_id == key.key_id
        assert await refused(store.keys, secret) == "invalid_api_key"
        with pytest.raises(ProxyError, match="no such key"):
            await store.keys.get(key.key_id)
        with store.elsewhere() as db:
            assert db.execute("select count(*) from key_secrets").fetchone() == (0,)

    store.run(use)


def test_rotation_replaces_the_secret_and_keeps_the_key(store: Store) -> None:
    async def use(store: Store) -> None:
        key, old = await store.keys.create(read({"rpm_limit": 5}))
        await store.keys.authenticate(old)
        rotated, new = await store.keys.rotate(key.key_id)
        assert (rotated.key_id, rotated.limits) == (key.key_id, key.limits)
        assert new.startswith(rotated.prefix)
        assert new != old
        assert await store.keys.authenticate(new) == rotated
        assert await refused(store.keys, old) == "invalid_api_key"
        store.clock.now -= 7200  # a clock that is set back revives nothing
        assert await refused(store.keys, old) == "invalid_api_key"

    store.run(use)


def test_at_most_two_secrets_work_during_a_rotation_overlap(store: Store) -> None:
    async def use(store: Store) -> None:
        key, first = await store.keys.create(read({}))
        await store.keys.authenticate(first)
        _, second = await store.keys.rotate(key.key_id, 60.0)
        assert await store.keys.authenticate(first) == await store.keys.authenticate(second)
        _, third = await store.keys.rotate(key.key_id, 60.0)
        assert await refused(store.keys, first) == "invalid_api_key"
        assert (await store.keys.authenticate(second)).key_id == key.key_id
        store.clock.now += 60
        assert await refused(store.keys, second) == "key_expired"
        assert (await store.keys.authenticate(third)).key_id == key.key_id

    store.run(use)


@pytest.mark.sqlite_only
def test_the_key_cache_is_bounded_and_unknown_secrets_evict_no_key(store: Store) -> None:
    async def use(store: Store) -> None:
        keys = Keys(StoredKeys(store.writer, store.reader), clock=store.clock, cached=2, cached_unknown=2)
        secrets = [(await keys.create(read({})))[1] for _ in range(3)]
        for secret in secrets[:2]:
            await keys.authenticate(secret)
        for letter in "abcdef":
            assert await refused(keys, "sk-" + letter * 43) == "invalid_api_key"
        assert keys.cached(secrets[0]) is not None  # and it is the one used last now
        await keys.authenticate(secrets[2])
        assert keys.cached(secrets[0]) is not None
        assert keys.cached(secrets[1]) is None

    store.run(use)


# --- changes from outside ----------------------------------------------------------------------------------


@pytest.mark.sqlite_only
def test_a_change_by_another_process_is_seen_at_the_next_check(store: Store) -> None:
    async def use(store: Store) -> None:
        key, secret = await store.keys.create(read({}))
        looks: asyncio.Queue[None] = asyncio.Queue()
        looked = asyncio.Event()

        async def sleep(_: float) -> None:
            looked.set()
            await looks.get()

        async def look() -> None:
            looked.clear()
            looks.put_nowait(None)
            await looked.wait()

        watching = asyncio.create_task(store.keys.watch(sleep=sleep))
        await looked.wait()
        await store.keys.authenticate(secret)
        await store.writer.run(lambda db: db.execute("create table ours (a)"))
        await look()
        assert store.keys.cached(secret) == key  # our own writes do not empty the memory
        with store.elsewhere() as db:
            key_rows.block(db, key.key_id, True)
        assert store.keys.cached(secret) == key
        await look()
        assert await refused(store.keys, secret) == "key_blocked"
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    store.run(use)


def test_a_revocation_takes_effect_within_a_second(store: Store) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(seconds)

    async def use(store: Store) -> None:
        key, secret = await store.keys.create(read({}))
        watching = asyncio.create_task(store.keys.watch(sleep=sleep))
        await store.keys.authenticate(secret)
        with store.elsewhere() as db:
            key_rows.delete(db, key.key_id)
        async with asyncio.timeout(20):
            while True:
                try:
                    await store.keys.authenticate(secret)
                except ProxyError:
                    break
                await asyncio.sleep(0.01)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    store.run(use)
    assert max(pauses) <= 0.5, "the machine may be slow, but the pause between two checks is short"


class SlowReader(Reader):
    """Was locked for a moment, then has read its row, and waits before it hands it over."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.has_read = asyncio.Event()
        self.may_return = asyncio.Event()

    def at_once(self, sql: str, parameters: Any) -> tuple[Any, ...] | None:
        raise StoreUnavailableError("database is locked")

    async def all(self, sql: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        rows = await super().all(sql, parameters)
        self.has_read.set()
        await self.may_return.wait()
        return rows


@pytest.mark.sqlite_only
def test_a_lookup_started_before_a_revocation_does_not_cache_the_old_row(store: Store) -> None:
    async def use(store: Store) -> None:
        key, secret = await store.keys.create(read({}))
        reader = SlowReader(store.path)
        await reader.open()
        keys = Keys(StoredKeys(store.writer, reader), clock=store.clock)
        lookup = asyncio.create_task(keys.authenticate(secret))
        await reader.has_read.wait()
        await keys.block(key.key_id)
        reader.may_return.set()
        await lookup  # it began before; only it may still see the old row
        assert keys.cached(secret) is None
        assert await refused(keys, secret) == "key_blocked"
        await reader.close()

    store.run(use)


@pytest.mark.sqlite_only
def test_requests_are_refused_and_not_cached_while_the_store_is_unavailable(store: Store) -> None:
    async def use(store: Store) -> None:
        _, secret = await store.keys.create(read({}))
        await store.reader.close()
        with pytest.raises(ProxyError) as caught:
            await store.keys.authenticate(secret)
        assert (caught.value.status, caught.value.code) == (503, "accounting_unavailable")
        await store.reader.open()
        await store.keys.authenticate(secret)

    store.run(use)


@pytest.mark.sqlite_only
def test_the_reader_cannot_write(store: Store) -> None:
    async def use(store: Store) -> None:
        with pytest.raises(StoreUnavailableError, match="readonly"):
            await store.reader.all("delete from keys")

    store.run(use)


# --- administration ----------------------------------------------------------------------------------------


def test_every_field_of_a_created_key_is_read_back(store: Store) -> None:
    body = {
        "key_alias": "web-team",
        "duration": "30d",
        "models": ["codellama", "gpt-*"],
        "max_budget": 0.000000001,
        "budget_duration": "month",
        "rpm_limit": 60,
        "tpm_limit": 0,
        "max_parallel_requests": 4,
        "metadata": {"team": "Wörk", "n": 1.5, "on": True, "off": None},
    }

    async def use(store: Store) -> None:
        key, secret = await store.keys.create(read(body))
        assert await store.keys.get(key.key_id) == key
        assert await store.keys.find(secret) == key
        assert key.limits.max_budget == 1
        assert key.limits.given == set(body) & {
            f for f in body if "limit" in f or "budget" in f or "parallel" in f
        }
        assert shown(key) == {
            **{name: value for name, value in body.items() if name != "duration"},
            "key_id": key.key_id,
            "project": "web-team",
            "name": None,
            "prefix": key.prefix,
            "created_at": iso(NOW),
            "expires": iso(NOW + 30 * 86400),
            "blocked": False,
        }

    store.run(use)


def test_an_update_changes_only_named_fields_and_null_unsets_them(store: Store) -> None:
    async def use(store: Store) -> None:
        key, _ = await store.keys.create(
            read({"rpm_limit": 5, "max_budget": 1, "models": ["a"], "duration": "1h"})
        )
        changed = await store.keys.update(
            key.key_id, read({"rpm_limit": None, "tpm_limit": 9, "models": None})
        )
        assert changed.limits.given == {"max_budget", "tpm_limit"}
        assert (changed.limits.rpm_limit, changed.limits.tpm_limit) == (None, 9)
        assert (changed.limits.max_budget, changed.models) == (10**9, None)
        assert changed.expires_at == key.expires_at
        store.clock.now += 10
        later = await store.keys.update(key.key_id, read({"duration": "1h", "key_alias": "other"}))
        assert (later.expires_at, later.project) == (NOW + 3610, "other")
        assert (await store.keys.update(key.key_id, read({"duration": None}))).expires_at is None
        assert await store.keys.update(key.key_id, read({})) == await store.keys.get(key.key_id)

    store.run(use)


def test_pages_list_every_key_once_newest_first(store: Store) -> None:
    async def use(store: Store) -> None:
        made = []
        for n in range(7):
            store.clock.now += n % 3  # some are made at the same moment
            made.append((await store.keys.create(read({"key_alias": "a" if n % 2 else "b"})))[0])
        pages = [await store.keys.page(page, 3) for page in (1, 2, 3, 4)]
        assert [len(keys) for keys, _ in pages] == [3, 3, 1, 0]
        assert {total for _, total in pages} == {7}
        seen = [key for keys, _ in pages for key in keys]
        assert sorted(seen, key=lambda key: key.key_id) == sorted(made, key=lambda key: key.key_id)
        assert [key.created_at for key in seen] == sorted((key.created_at for key in made), reverse=True)
        assert (await store.keys.page(1, 10, "a"))[1] == 3

    store.run(use)


@pytest.mark.sqlite_only
@pytest.mark.parametrize("verb", ["update", "block", "unblock", "rotate", "delete"])
def test_an_operation_on_an_unknown_key_is_not_found(store: Store, verb: str) -> None:
    async def use(store: Store) -> None:
        await store.keys.create(read({}))
        with store.elsewhere() as db:
            before = list(db.iterdump())
        arguments = ("key_nope", read({"rpm_limit": 1})) if verb == "update" else ("key_nope",)
        with pytest.raises(ProxyError) as caught:
            await getattr(store.keys, verb)(*arguments)
        assert caught.value.code == "not_found"
        with store.elsewhere() as db:
            assert list(db.iterdump()) == before

    store.run(use)


# --- values ------------------------------------------------------------------------------------------------


@each(
    ("body", "code", "param"),
    [
        *(({field: 1}, "unsupported_parameter", field) for field in PRIVILEGED),
        ({"key_alias": ""}, "invalid_value", "key_alias"),
        ({"key_alias": "a/b"}, "invalid_value", "key_alias"),
        ({"key_alias": "a\n"}, "invalid_value", "key_alias"),
        ({"key_alias": "a" * 65}, "invalid_value", "key_alias"),
        ({"key_alias": None}, "invalid_type", "key_alias"),
        ({"duration": 30}, "invalid_type", "duration"),
        ({"duration": "0s"}, "invalid_value", "duration"),
        ({"duration": "-1h"}, "invalid_value", "duration"),
        ({"duration": "1y"}, "invalid_value", "duration"),
        ({"duration": "1h "}, "invalid_value", "duration"),
        ({"duration": "9999999999d"}, "invalid_value", "duration"),
        ({"duration": "१h"}, "invalid_value", "duration"),
        ({"models": "a"}, "invalid_type", "models"),
        ({"models": [1]}, "invalid_type", "models"),
        ({"models": [""]}, "invalid_value", "models"),
        ({"models": ["a"] * 257}, "invalid_value", "models"),
        ({"max_budget": -0.01}, "invalid_value", "max_budget"),
        ({"max_budget": float("inf")}, "invalid_value", "max_budget"),
        ({"max_budget": float("nan")}, "invalid_value", "max_budget"),
        ({"max_budget": 1e10}, "invalid_value", "max_budget"),
        ({"max_budget": 1e-10}, "invalid_value", "max_budget"),
        ({"max_budget": "10"}, "invalid_type", "max_budget"),
        ({"max_budget": True}, "invalid_type", "max_budget"),
        ({"budget_duration": "year"}, "invalid_value", "budget_duration"),
        ({"budget_duration": "0d"}, "invalid_value", "budget_duration"),
        ({"budget_duration": "30m"}, "invalid_value", "budget_duration"),
        ({"budget_duration": 30}, "invalid_type", "budget_duration"),
        *(
            ({field: -1}, "invalid_value", field)
            for field in ("rpm_limit", "tpm_limit", "max_parallel_requests")
        ),
        ({"rpm_limit": 10**12 + 1}, "invalid_value", "rpm_limit"),
        ({"rpm_limit": 1.0}, "invalid_type", "rpm_limit"),
        ({"rpm_limit": False}, "invalid_type", "rpm_limit"),
        ({"metadata": []}, "invalid_type", "metadata"),
        ({"metadata": {"a": {}}}, "invalid_value", "metadata"),
        ({"metadata": {"a": "é" * 2048}}, "invalid_value", "metadata"),
    ],
)
def test_an_invalid_value_is_refused_and_its_field_named(body: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(ProxyError) as caught:
        read(body)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


@given(st.integers(0, 10**18))
def test_budgets_are_exact_to_a_nano_dollar(nanos: int) -> None:
    assert money("max_budget", Decimal(nanos) / 10**9) == nanos


@given(st.integers(0, 10**15))
def test_budgets_survive_a_json_round_trip(nanos: int) -> None:
    key = apply(Key("key_a", "p"), KeyChange({"max_budget": nanos}), NOW)
    again = orjson.loads(orjson.dumps(shown(key)))["max_budget"]
    assert money("max_budget", again) == nanos


def test_an_empty_list_of_models_means_all_as_in_litellm() -> None:
    assert read({"models": []}).values == {"models": None}
