"""Kept answers: found again after a restart, bounded, and gone rather than wrong when their file is not well."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from codellama_proxy.cache import file as answer_file
from codellama_proxy.cache.key import CachedAnswer, CacheScope
from codellama_proxy.cache.memory import ENTRY_OVERHEAD_BYTES, LruCache
from codellama_proxy.cache.storage import DELETE_BATCH_ROWS, MAX_QUEUED_WRITES, CacheStorage
from codellama_proxy.openai_format.completion import whole_event
from codellama_proxy.openai_format.folding import as_stream

TEAM = CacheScope("project", "team", "team")
OTHER = CacheScope("project", "other", "other")


def answer(text: str = "hi", created_at: float = 1000.0, expires_at: float = 2000.0) -> CachedAnswer:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    body = orjson.dumps({"model": "m", "choices": [choice], "usage": usage})
    return CachedAnswer(whole_event(body), "a#1", ("logprobs",), created_at, expires_at)


def key(number: int = 0) -> bytes:
    return number.to_bytes(32, "big")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def play(path: Path, use: Callable[[CacheStorage], Awaitable[None]], **options: Any) -> CacheStorage:
    """Opens, uses, closes."""
    answers = CacheStorage(path, options.pop("clock", Clock()), **options)

    async def main() -> None:
        await answers.open()
        try:
            await use(answers)
        finally:
            await answers.close()

    asyncio.run(main())
    return answers


def keep(path: Path, *kept: CachedAnswer) -> None:
    async def use(answers: CacheStorage) -> None:
        for number, one in enumerate(kept):
            answers.put(key(number), one, TEAM, "a", 1000)

    play(path, use)


def rows(path: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("select key, scope, completion from answers order by key").fetchall()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "proxy-cache.db"


def test_an_answer_is_read_back_unchanged_after_a_restart(path: Path) -> None:
    keep(path, answer("ünï 🎉"))

    async def use(answers: CacheStorage) -> None:
        assert len(answers.memory) == 0
        assert await answers.find(key(), TEAM) == answer("ünï 🎉")
        assert len(answers.memory) == 1
        assert await answers.find(key(7), TEAM) is None

    assert play(path, use).troubles == {}


def test_an_answer_in_memory_is_not_read_from_disk(path: Path) -> None:
    async def use(answers: CacheStorage) -> None:
        answers.put(key(), answer(), TEAM, "a", 10)
        assert await answers.find(key(), TEAM) == answer()

    play(path, use)
    (row,) = rows(path)
    assert row[1] == "project:team"


def test_the_number_of_answers_on_disk_is_bounded(path: Path) -> None:
    async def use(answers: CacheStorage) -> None:
        for number in range(30):
            answers.put(key(number), answer(created_at=1000.0 + number), TEAM, "a", 10)
        assert len(answers.memory) == 10

    play(path, use)
    assert [row[0] for row in rows(path)] == [key(number) for number in range(20, 30)]


def test_an_answer_stored_again_is_no_longer_the_oldest(path: Path) -> None:
    async def use(answers: CacheStorage) -> None:
        for number in (0, 1, 2, 0, 3):
            answers.put(key(number), answer(), TEAM, "a", 3)
            await answers.read(lambda _: None)

    for _ in range(2):
        play(path, use)
        assert [row[0] for row in rows(path)] == [key(0), key(2), key(3)]


def test_writes_between_answers_keep_their_order(path: Path) -> None:
    async def use(answers: CacheStorage) -> None:
        answers.put(key(0), answer(), TEAM, "a", 10)
        answers.drop(key(0))
        answers.put(key(1), answer(), TEAM, "a", 10)
        answers.drop(key(1))
        answers.put(key(1), answer("again"), TEAM, "a", 10)

    play(path, use)
    assert [(row[0], b"again" in row[2]) for row in rows(path)] == [(key(1), True)]


def test_a_reduced_bound_is_applied_in_steps(path: Path) -> None:
    keep(path, *[answer(created_at=float(number)) for number in range(DELETE_BATCH_ROWS + 50)])

    async def use(answers: CacheStorage) -> None:
        await answers.maintain(1500.0, 10)
        assert len(rows(path)) == 50
        await answers.maintain(1500.0, 10)
        assert len(rows(path)) == 10

    play(path, use)


def test_old_answers_are_deleted_a_few_at_a_time(path: Path) -> None:
    keep(path, *[answer(expires_at=1200.0)] * (DELETE_BATCH_ROWS + 5), answer())

    async def use(answers: CacheStorage) -> None:
        await answers.maintain(1100.0, 1000)
        assert len(rows(path)) == DELETE_BATCH_ROWS + 6
        await answers.maintain(1200.0, 1000)
        assert len(rows(path)) == 6
        await answers.maintain(1200.0, 1000)
        assert [row[0] for row in rows(path)] == [key(DELETE_BATCH_ROWS + 5)]

    play(path, use)


def test_memory_evicts_the_least_recently_used_answer() -> None:
    memory = LruCache()
    for number in range(3):
        memory.put(key(number), answer(), 3)
    memory.get(key(0))
    memory.put(key(3), answer(), 3)
    assert [number for number in range(4) if memory.get(key(number))] == [0, 2, 3]


def test_memory_is_bounded_by_the_bytes_of_answers_and_their_chunks() -> None:
    one = answer("x" * 1000)
    chunked = one._replace(chunks=as_stream(one.event))
    memory = LruCache(2 * (one.size + ENTRY_OVERHEAD_BYTES) + chunked.size)
    for number in range(3):
        memory.put(key(number), one, 100)
    memory.replace(key(2), one, chunked)
    assert [number for number in range(3) if key(number) in memory] == [1, 2]
    assert memory.bytes == one.size + chunked.size + 2 * ENTRY_OVERHEAD_BYTES
    memory.replace(key(1), chunked, one)
    assert memory.get(key(1)) is one, "only an answer that is still there is replaced"


def test_memory_is_bounded_by_bytes() -> None:
    one = answer("x" * 1000)
    memory = LruCache(3 * (one.size + ENTRY_OVERHEAD_BYTES))
    for number in range(10):
        memory.put(key(number), one, 100)
    assert len(memory) == 3
    memory.put(key(0), answer("x" * 100_000), 100)
    assert len(memory) == 3, "what has no room at all drives nothing out"
    memory.clear()
    assert memory.bytes == 0


def test_storing_a_key_again_replaces_its_answer(path: Path) -> None:
    async def use(answers: CacheStorage) -> None:
        answers.put(key(), answer("old"), TEAM, "a", 10)
        answers.put(key(), answer("new"), TEAM, "a", 10)

    play(path, use)
    assert b"new" in rows(path)[0][2]


def test_an_answer_stored_during_a_read_of_an_older_one_is_kept(path: Path) -> None:
    keep(path, answer("old"))

    async def use(answers: CacheStorage) -> None:
        reading = asyncio.create_task(answers.find(key(), TEAM))
        await asyncio.sleep(0)  # the read has begun
        answers.put(key(), answer("new", created_at=1500.0), TEAM, "a", 1000)
        await reading
        found = await answers.find(key(), TEAM)
        assert found is not None
        assert found.event.text == "new"

    play(path, use)


def test_a_row_of_another_scope_is_not_read(path: Path) -> None:
    keep(path, answer())

    async def use(answers: CacheStorage) -> None:
        assert await answers.find(key(), OTHER) is None

    assert play(path, use).troubles["corrupt"] == 1


@pytest.mark.parametrize(
    "damage",
    [
        "update answers set completion = x'00ff'",
        "update answers set completion = cast('{}' as blob)",
        "update answers set completion = cast('[1, 2]' as blob)",
        "update answers set dropped = '{'",
        "update answers set dropped = '3'",
    ],
)
def test_an_unreadable_row_is_a_miss_and_is_deleted(path: Path, damage: str) -> None:
    keep(path, answer())
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(damage)

    async def use(answers: CacheStorage) -> None:
        assert await answers.find(key(), TEAM) is None

    assert play(path, use).troubles["corrupt"] == 1
    assert rows(path) == []


def spoiled(path: Path, how: str) -> None:
    if how == "garbage":
        path.write_bytes(b"not a database at all" * 100)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "missing":
        path.unlink()
    else:
        with closing(sqlite3.connect(path)) as db, db:
            db.executescript(how)


SPOILS = [
    "garbage",
    "empty",
    "missing",
    "drop table answers",
    "drop table vectors",
    "pragma user_version = 99",
    "alter table answers rename column completion to body",
]


@pytest.mark.parametrize("how", SPOILS)
def test_an_unusable_cache_file_is_recreated_at_start(path: Path, how: str) -> None:
    keep(path, answer())
    spoiled(path, how)

    async def use(answers: CacheStorage) -> None:
        assert await answers.find(key(), TEAM) is None
        answers.put(key(1), answer(), TEAM, "a", 10)

    play(path, use)
    assert [row[0] for row in rows(path)] == [key(1)]


@pytest.mark.parametrize("table", ["answers", "vectors"])
def test_tables_deleted_at_runtime_are_misses_and_are_recreated(path: Path, table: str) -> None:
    keep(path, answer())

    async def use(answers: CacheStorage) -> None:
        spoiled(path, f"drop table {table}")
        answers.put(key(5), answer(), TEAM, "a", 10)
        await answers.find(key(), TEAM)
        await answers.maintain(1000.0, 10)
        answers.memory.clear()
        answers.put(key(1), answer(), TEAM, "a", 10)

    play(path, use)
    assert key(1) in [row[0] for row in rows(path)]


def test_a_locked_file_is_a_miss_and_is_skipped_for_a_while(path: Path) -> None:
    keep(path, answer())
    clock = Clock()

    async def use(answers: CacheStorage) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("begin exclusive")
            answers.put(key(1), answer(), TEAM, "a", 10)
            await answers.read(lambda _: None)
            assert answers.troubles == {"unavailable": 1}
            assert await answers.find(key(1), TEAM) == answer(), "memory goes on"
            db.execute("rollback")
        assert await answers.find(key(), TEAM) is None, "it is at rest"
        clock.now = 60.0
        await answers.open()
        assert await answers.find(key(), TEAM) == answer()

    play(path, use, clock=clock)


def test_without_its_directory_the_cache_works_in_memory(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")

    async def use(answers: CacheStorage) -> None:
        answers.put(key(), answer(), TEAM, "a", 10)
        assert await answers.find(key(), TEAM) == answer()

    assert play(blocker / "cache.db", use).troubles["unavailable"] >= 1


def test_a_purge_by_another_process_takes_effect(path: Path) -> None:
    keep(path, answer(), answer())

    async def use(answers: CacheStorage) -> None:
        assert await answers.find(key(), TEAM) is not None
        await answers.maintain(1000.0, 10)
        assert len(answers.memory) == 1, "our own writes purge nothing"
        with closing(answer_file.open_file(path)) as db:
            assert answer_file.purge(db, "other", None) == 0
            assert answer_file.purge(db, "team", "a") == 2
        await answers.maintain(1000.0, 10)
        assert await answers.find(key(), TEAM) is None

    play(path, use)


@pytest.mark.parametrize("project", ["team", None])
def test_a_purge_by_another_process_includes_an_answer_that_is_not_written_yet(
    path: Path, project: str | None
) -> None:
    async def use(answers: CacheStorage) -> None:
        answers.put(key(), answer(), TEAM, "a", 10)
        with closing(answer_file.open_file(path)) as db:
            assert answer_file.purge(db, project, None) == 0
        await answers.maintain(1000.0, 10)
        assert await answers.find(key(), TEAM) is None
        answers.put(key(1), answer(), TEAM, "a", 10)

    play(path, use)
    assert [row[0] for row in rows(path)] == [key(1)]


def test_a_row_that_has_become_another_keys_is_not_read(path: Path) -> None:
    keep(path, answer())

    async def use(answers: CacheStorage) -> None:
        await answers.read(lambda db: db.execute("update answers set key = x'ff'"))
        assert await answers.find(key(), TEAM) is None
        assert not answers.may_have(key())

    play(path, use)


def test_a_file_with_other_ids_is_written_on(path: Path) -> None:
    async def use(answers: CacheStorage) -> None:
        answers.put(key(1), answer(), TEAM, "a", 10)
        await answers.read(lambda db: db.execute("update answers set id = id + 10"))
        answers.put(key(2), answer(), TEAM, "a", 10)
        answers.put(key(1), answer("new"), TEAM, "a", 10)

    async def restarted(answers: CacheStorage) -> None:
        assert await answers.find(key(1), TEAM) == answer("new")
        assert await answers.find(key(2), TEAM) == answer()

    play(path, use)
    assert not play(path, restarted).troubles


def test_writes_beyond_the_queue_limit_are_dropped(path: Path) -> None:
    async def use(answers: CacheStorage) -> None:
        for number in range(3000):
            answers.put(key(number), answer(), TEAM, "a", 10_000)

    found = play(path, use)
    assert len(rows(path)) + found.troubles["slow"] == 3000


def test_an_answer_beyond_the_queue_limit_is_kept_in_memory(path: Path) -> None:
    async def use(answers: CacheStorage) -> None:
        for _ in range(MAX_QUEUED_WRITES):
            answers.write(lambda db: None)
        answers.put(key(), answer(), TEAM, "a", 10)
        assert await answers.find(key(), TEAM) == answer()

    assert play(path, use).troubles == {"slow": 1}
