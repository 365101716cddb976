"""`codellama-proxy cache stats|purge`, as an operator runs it."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from codellama_proxy.__main__ import main
from codellama_proxy.cache import file as answer_file
from codellama_proxy.cache.key import CacheScope
from tests.cache.test_storage import answer, key, play

Say = pytest.CaptureFixture[str]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Of a server that kept three answers."""
    path = tmp_path / "proxy.db"

    async def use(answers: Any) -> None:
        for number, (project, model) in enumerate([("web", "a"), ("web", "b"), ("app", "a")]):
            answers.put(key(number), answer(), CacheScope("project", project, project), model, 10)

    play(answer_file.beside(path), use)
    return path


def run(database: Path, *words: str) -> int:
    return main(["cache", *words, "--database", str(database)])


def asked(database: Path, capsys: Say, *words: str) -> Any:
    assert run(database, *words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_stats_show_the_answers_of_each_scope(database: Path, capsys: Say) -> None:
    found = asked(database, capsys, "stats")
    assert [(row["project"], row["model"], row["answers"]) for row in found["data"]] == [
        ("app", "a", 1),
        ("web", "a", 1),
        ("web", "b", 1),
    ]
    assert found["answers"] == 3
    assert found["bytes"] == sum(row["bytes"] for row in found["data"]) > 0


def test_stats_are_printed_as_a_table(database: Path, capsys: Say) -> None:
    assert run(database, "stats", "--project", "web") == 0
    out = capsys.readouterr().out
    assert "PROJECT" in out
    assert "2 answers" in out


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ((), 0),
        (("--project", "web"), 1),
        (("--model", "a"), 1),
        (("--project", "web", "--model", "a"), 2),
        (("--project", "nobody"), 3),
    ],
)
def test_purge_deletes_the_selected_answers(
    database: Path, capsys: Say, words: tuple[str, ...], left: int
) -> None:
    assert asked(database, capsys, "purge", *words) == {"purged": 3 - left}
    assert asked(database, capsys, "stats")["answers"] == left


def test_an_empty_cache_is_not_an_error(tmp_path: Path, capsys: Say) -> None:
    assert run(tmp_path / "proxy.db", "stats") == 0
    assert run(tmp_path / "proxy.db", "purge") == 0
    assert capsys.readouterr().out == "The cache is empty.\nPurged 0 answers.\n"
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_a_cache_is_an_error_and_is_not_modified(database: Path, capsys: Say) -> None:
    path = answer_file.beside(database)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("drop table answers")
    assert run(database, "stats") == 1
    assert "cannot use the cache" in capsys.readouterr().err
    assert path.exists()
