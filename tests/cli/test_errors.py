"""How commands end: whatever is in the place of a file, in one sentence, and reading makes nothing."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from codellama_proxy.__main__ import main
from codellama_proxy.cache import file as answer_file
from codellama_proxy.cli import keys as key_commands
from codellama_proxy.cli.app import COMMANDS
from codellama_proxy.store.sqlite.migrations import prepare
from codellama_proxy.store.sqlite.ownership import owned
from tests.support.processes import ROOT, environment
from tests.support.proxy_process import config

READING: Mapping[str, tuple[str, ...]] = {
    "keys list": ("keys", "list"),
    "keys show": ("keys", "show", "key_a"),
    "keys spend": ("keys", "spend"),
    "keys logs": ("keys", "logs"),
    "keys reconcile": ("keys", "reconcile"),
    "keys audit": ("keys", "audit"),
    "cache stats": ("cache", "stats"),
    "explain": ("explain", "--project", "web"),
    "backup": ("backup", "copy.db"),
    "database check": ("database", "check"),
}
CHANGING: Mapping[str, tuple[str, ...]] = {
    "keys update": ("keys", "update", "key_a", "--rpm", "1"),
    "keys block": ("keys", "block", "key_a"),
    "keys unblock": ("keys", "unblock", "key_a"),
    "keys rotate": ("keys", "rotate", "key_a"),
    "keys delete": ("keys", "delete", "key_a"),
    "cache purge": ("cache", "purge"),
}
MAKING: Mapping[str, tuple[str, ...]] = {
    "keys create": ("keys", "create", "web"),
    "restore": ("restore", "no-copy.db"),
    "serve": ("serve", "--host", "127.0.0.1"),
}
EVERY = {**READING, **CHANGING, **MAKING}
NO_DATABASE = {"init", "check", "diff", "import", "schema"}


def test_the_table_covers_every_command() -> None:
    words = [name.split() for name in EVERY]
    assert {first[0] for first in words} == set(COMMANDS) - NO_DATABASE
    assert {second for first, *rest in words for second in rest if first == "keys"} == {
        *key_commands.keys.commands
    }


# --- what is in the place of the database ----------------------------------------------------------------


def directory(path: Path) -> None:
    path.mkdir()


def text(path: Path) -> None:
    path.write_text("this is no database\n" * 300)


def half_a_database(path: Path) -> None:
    prepare(path)
    path.write_bytes(path.read_bytes()[:5000])


def garbled(path: Path) -> None:
    prepare(path)
    path.write_bytes(path.read_bytes()[:100] + b"\xff" * 60_000)


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("create table photos (a)")
        db.execute("create table _migrations (id integer)")


def foreign_with_an_id(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("pragma application_id = 7")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listener(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path.name)


def loop(path: Path) -> None:
    path.symlink_to(path)


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere") / "else.db")


PLACES = (
    *(directory, text, half_a_database, garbled, foreign, foreign_with_an_id),
    *(pipe, listener, loop, dangling),
)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "proxy.yaml").write_text(config({"name": "mock", "provider": "mock"}))
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PROXY_")]:
        monkeypatch.delenv(name)
    return tmp_path


def contents(place: Path) -> dict[str, tuple[int, bytes]]:
    """Every name, and what is in it."""
    found = place.rglob("*")
    return {str(path): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"") for path in found}


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that is in use: a server that starts though it should not, ends there."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


def run(name: str, database: str, taken: int) -> int:
    more = ["--port", str(taken)] if name == "serve" else []
    return main([*EVERY[name], "--database", database, *more])


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert "internal error" not in err
    assert "in use" not in err, "the port was not what was wrong"
    return err


@pytest.mark.parametrize("make", PLACES)
@pytest.mark.parametrize("name", EVERY)
def test_an_unusable_database_is_not_modified_and_reported_in_one_sentence(
    place: Path, capsys: pytest.CaptureFixture[str], taken: int, name: str, make: Callable[[Path], None]
) -> None:
    make(place / "proxy.db")
    before = contents(place)
    assert run(name, "proxy.db", taken) == 1
    sentence(capsys)
    assert contents(place) == before


@pytest.mark.parametrize("beside_a_database", [False, True])
@pytest.mark.parametrize("make", PLACES)
@pytest.mark.parametrize("name", ["cache stats", "cache purge"])
def test_a_file_that_is_not_a_cache_is_not_modified_and_reported_in_one_sentence(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    taken: int,
    name: str,
    make: Callable[[Path], None],
    beside_a_database: bool,
) -> None:
    path = place / "proxy.db"
    if beside_a_database:
        prepare(path)
    make(answer_file.beside(path))
    before = contents(place)
    assert run(name, "proxy.db", taken) == 1
    sentence(capsys)
    assert contents(place) == before


@pytest.mark.parametrize("name", {**READING, **CHANGING})
def test_only_writing_commands_create_a_database(
    place: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    before = contents(place)
    code = main([*EVERY[name], "--database", "new/place/proxy.db"])
    if name in {"cache stats", "cache purge", "explain"}:
        assert code == 0
    else:
        assert code == 1
        sentence(capsys)
    assert contents(place) == before


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("url", ["mysql://root:hunter2@db/x", "postgresqll://root:hunter2@db/x"])
def test_a_database_url_is_refused_without_repeating_its_password(
    place: Path, capsys: pytest.CaptureFixture[str], taken: int, name: str, url: str
) -> None:
    before = contents(place)
    assert run(name, url, taken) != 0
    assert "hunter2" not in sentence(capsys)
    assert contents(place) == before


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("backup", "restore")])
def test_control_characters_in_a_path_are_escaped(
    place: Path, capsys: pytest.CaptureFixture[str], taken: int, name: str
) -> None:
    text(place / "a\x1b[31m\x9b.db")
    assert run(name, "a\x1b[31m\x9b.db", taken) == 1
    assert r"a\x1b[31m\x9b.db" in sentence(capsys)


def test_an_unreadable_dotenv_is_reported_in_one_sentence(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / ".env").write_bytes(b"PROXY_DATABASE=\xff\xfe\n")
    for name, command in EVERY.items():
        if name != "serve":
            assert main(command) != 0
            sentence(capsys)


@pytest.mark.parametrize("command", [("check", "X"), ("diff", "X", "X"), ("import", "litellm", "X")])
@pytest.mark.parametrize("make", [directory, pipe, loop, dangling, listener])
def test_commands_on_unsuitable_files_report_the_problem(
    place: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], make: Callable[[Path], None]
) -> None:
    make(place / "X")
    assert main(command) != 0
    output = "".join(capsys.readouterr())
    assert "X" in output
    assert "internal error" not in output


def test_a_database_without_an_application_id_is_adopted(place: Path) -> None:
    path = place / "proxy.db"
    prepare(path)
    with closing(sqlite3.connect(path)) as db:
        (ours,) = db.execute("pragma application_id").fetchone()
        db.execute("pragma application_id = 0")
    assert main(["keys", "list", "--database", "proxy.db"]) == 0
    assert main(["keys", "create", "web", "--database", "proxy.db"]) == 0
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("pragma application_id").fetchone() == (ours,)


def test_a_hard_link_to_a_database_in_use_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "b").mkdir()
    prepare(place / "a.db")
    (place / "b/a.db").hardlink_to(place / "a.db")
    with owned(place / "a.db"), closing(sqlite3.connect(place / "a.db")) as server:
        server.execute("insert into keys values ('key_a', 'web', null, 0, null, 0, null, '{}', '{}')")
        server.commit()
        assert main(["keys", "create", "web", "--database", "b/a.db"]) == 1
        assert "under another name" in sentence(capsys)


# --- standard streams, and interruptions -----------------------------------------------------------------


def shell(line: str, **env: str) -> subprocess.CompletedProcess[str]:
    line = line.replace("PROXY", f"'{sys.executable}' -m codellama_proxy")
    given = environment(PYTHONPATH=str(ROOT), **env)
    return subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, timeout=30, check=False, env=given
    )


@pytest.mark.parametrize(
    "line",
    [
        "PROXY schema >&-",
        "PROXY schema <&- | head -1",
        "PROXY schema | true",
        "PROXY --help | true",
        "PROXY keys create web >/dev/full",
        "PROXY keys create web <&- >&- 2>&-; PROXY keys list",
        "PROXY keys list 2>&- >&-",
        "PYTHONIOENCODING=ascii PROXY keys create web --name Grüße && PYTHONIOENCODING=ascii PROXY keys list",
        "PROXY explain - --project web <&-",
        "PROXY explain /dev/zero --project web",
    ],
)
def test_closed_standard_streams_cause_no_traceback(place: Path, line: str) -> None:
    prepare(place / "data" / "proxy.db")
    done = shell(line)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert "internal error" not in done.stderr
    with closing(sqlite3.connect(place / "data" / "proxy.db")) as db:
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)


def test_an_interrupted_command_prints_nothing(place: Path) -> None:
    os.mkfifo(place / "body")
    command = [sys.executable, "-m", "codellama_proxy", "explain", "body", "--project", "web"]
    with (
        subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=environment(PYTHONPATH=str(ROOT))
        ) as one,
        (place / "body").open("wb"),
    ):  # open once it waits for the body
        one.send_signal(signal.SIGINT)
        _, output = one.communicate(timeout=20)
    assert (output, one.returncode) == ("", 130)


def test_both_names_of_the_keys_command_run_the_same_code(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "create", "web", "--json"]) == 0
    assert key_commands.main(["list", "--json"]) == 0
    made, listed = capsys.readouterr().out.splitlines()
    assert made[:6] == '{"key"'
    assert listed.startswith("[")
    assert main(["keys", "frobnicate"]) == 2
    assert capsys.readouterr().err.startswith("codellama-proxy keys: ")
