"""Every command on a database server: what it does, and that no output shows the password, whatever fails."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from codellama_proxy.__main__ import main
from codellama_proxy.store.location import ServerAddress
from codellama_proxy.store.postgres.migrations import migrate
from codellama_proxy.store.postgres.session import connect
from tests.cli.test_errors import EVERY
from tests.support.ledger_fixtures import ask, end, of_project
from tests.support.password_server import ENCODED, PASSWORD, ROLE, PasswordServer, password_server
from tests.support.postgres_store import address_of
from tests.support.postgres_worker import Worker
from tests.support.processes import ROOT, environment

WRONG = "another-Secret-9Qx"
CONFIG = "models:\n  - {name: mock, provider: mock, price: {input: 1, output: 1}}\n"
REFUSED = {
    "backup": "use pg_dump and pg_restore, or database copy",
    "restore": "use pg_dump and pg_restore, or database copy",
    "cache stats": "each process has a cache of its own",
}
"""Commands that are for a file only, and what they say."""
COMMANDS: Mapping[str, tuple[str, ...]] = {
    **{name: words for name, words in EVERY.items() if name != "serve"},
    "database migrate": ("database", "migrate"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[PasswordServer]:
    with password_server() as opened:
        yield opened


@pytest.fixture
def database(server: PasswordServer, request: pytest.FixtureRequest) -> str:
    """The name of a migrated database with the key `key_a` and two requests."""
    name = f"d{abs(hash(request.node.name))}"
    server.run(f"create database {name} owner {ROLE}")
    address = address_of(server.address(name))
    with closing(connect(address)) as session:
        migrate(session, address)
        session.script(
            "insert into keys (key_id, project, created_at, limits, metadata) values ('key_a', 'web', 0, '{}', '{}');"
            "insert into key_secrets (hash, key_id, prefix) values ('0', 'key_a', 'sk-0');"
        )
    asyncio.run(requests(address, 2))
    return name


async def requests(address: ServerAddress, count: int) -> None:
    worker = Worker(address)
    await asyncio.to_thread(worker.queue.start)
    for number in range(count):
        await worker.ledger.admit(request := ask(of_project(max_budget=1000)))
        worker.ledger.settle(end(request, number + 1))
    await worker.stop()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "proxy.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    for name in ("PROXY_DATABASE_PASSWORD_FILE", "PGPASSFILE", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


class Said(NamedTuple):
    code: int
    text: str


class Runner:
    """Runs commands with an address in the environment, and looks for the password in all that they say."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self._caplog = caplog

    def __call__(self, address: str, *words: str) -> Said:
        self._monkeypatch.setenv("PROXY_DATABASE", address)
        code = main(list(words))
        printed = self._capsys.readouterr()
        text = printed.out + printed.err
        everything = text + self._caplog.text
        assert not [one for one in (PASSWORD, ENCODED, WRONG) if one in everything], everything
        assert "Traceback" not in everything
        self._caplog.clear()
        return Said(code, text)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Runner:
    return Runner(monkeypatch, capsys, caplog)


def test_every_command_takes_an_address_or_says_what_to_use_instead(
    server: PasswordServer, database: str, place: Path, run: Runner
) -> None:
    address = server.address(database)
    for name, words in COMMANDS.items():
        code, text = run(address, *words)
        if name in REFUSED:
            assert (code, REFUSED[name] in text) == (1, True), (name, text)
        else:
            assert code == 0, (name, text)
        assert not list(place.glob("*.db*")), name
    assert f"{database} on 127.0.0.1:{server.port} can be used" in run(address, "database", "check").text
    assert json.loads(run(address, "keys", "spend", "--json").text)["total_requests"] == 2
    assert json.loads(run(address, "keys", "reconcile", "--json").text)["differences"] == []
    audit = json.loads(run(address, "keys", "audit", "--json").text)
    assert {one["action"] for one in audit} == {"create", "update", "block", "unblock", "rotate", "delete"}


FAILURES: Mapping[str, tuple[dict[str, Any], str]] = {
    "wrong password": ({"password": WRONG}, "password authentication failed"),
    "wrong port": ({"port": 1}, "onnection refused"),
    "no such host": ({"host": "db.invalid"}, "cannot connect to the database"),
    "no TLS": ({"sslmode": "require"}, "server does not support SSL"),
    "no such database": ({"database": "absent"}, 'database "absent" does not exist'),
    "no tables": ({"database": "template1"}, "is not prepared: run codellama-proxy database migrate"),
    "an unknown option": ({"favourite": WRONG}, "has an option that is not known"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_command_that_fails_says_why_in_a_sentence(
    server: PasswordServer, database: str, place: Path, run: Runner, failure: str
) -> None:
    given, reason = FAILURES[failure]
    more = {**given}
    name = more.pop("database", database)
    address = server.address(name, more.pop("password", ENCODED))
    address = address.replace("@127.0.0.1:", f"@{more.pop('host', '127.0.0.1')}:")
    address = address.replace(f":{server.port}/", f":{more.pop('port', server.port)}/")
    address += "&".join(f"{option}={value}" for option, value in more.items())
    for command, words in COMMANDS.items():
        if failure == "no tables" and command in {"keys create", "database migrate", "explain"}:
            continue  # they make them, or need none
        code, text = run(address, *words)
        assert code == 1, (command, text)
        assert command in REFUSED or reason in text, (command, text)
        assert len(text.splitlines()) == 1, (command, text)


def test_a_statement_that_is_refused_is_reported_in_a_sentence(
    server: PasswordServer, database: str, place: Path, run: Runner
) -> None:
    server.run(f"revoke all on all tables in schema public from {ROLE}", database)
    server.run(f"grant select on _migrations to {ROLE}", database)
    for command, words in COMMANDS.items():
        if command in {"database migrate", *REFUSED}:
            continue
        code, text = run(server.address(database), *words)
        assert (code, len(text.splitlines())) == (1, 1), (command, text)
        assert f"cannot use the database {database} on 127.0.0.1:{server.port}: " in text, (command, text)


@pytest.mark.parametrize("how", ["option", "passfile", "PGPASSFILE", "PROXY_DATABASE_PASSWORD_FILE"])
def test_the_password_may_come_from_elsewhere(
    server: PasswordServer, database: str, place: Path, run: Runner, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    address = server.address(database).replace(f":{ENCODED}", "")
    file = place / "secret"
    file.write_text(PASSWORD if how.startswith("PROXY") else f"127.0.0.1:*:*:{ROLE}:{PASSWORD}\n")
    file.chmod(0o600)
    match how:
        case "option":
            address += f"password={ENCODED}"
        case "passfile":
            address += f"passfile={file}"
        case _:
            monkeypatch.setenv(how, str(file))
    assert run(address, "keys", "list").code == 0
    code, text = run(address, "database", "copy", address, "copy.db")
    assert code == 0, text
    assert run(address, "database", "check", "--database", "copy.db").code == 0


def test_a_copy_there_and_back_says_no_password(
    server: PasswordServer, database: str, place: Path, run: Runner
) -> None:
    server.run(f"create database {database}_back owner {ROLE}")
    there, back = server.address(database), server.address(f"{database}_back")
    assert run("unused.db", "database", "copy", there, "copy.db").code == 0
    assert run("unused.db", "database", "copy", "copy.db", back).code == 0
    assert json.loads(run(back, "keys", "spend", "--json").text)["total_requests"] == 2
    again = run("unused.db", "database", "copy", "copy.db", back)
    assert (again.code, "is not empty" in again.text) == (1, True)
    wrong = run("unused.db", "database", "copy", "copy.db", server.address(database, WRONG))
    assert (wrong.code, "password authentication failed" in wrong.text) == (1, True)


def test_following_the_log_shows_each_request_once(server: PasswordServer, database: str) -> None:
    address = server.address(database)
    command = [sys.executable, "-m", "codellama_proxy", "keys", "logs", "--follow", "--json"]
    given = environment(PROXY_DATABASE=address)
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=given
    ) as follower:
        assert follower.stdout is not None
        seen = [json.loads(follower.stdout.readline())["request_id"] for _ in range(2)]
        asyncio.run(requests(address_of(address), 3))
        seen += [json.loads(follower.stdout.readline())["request_id"] for _ in range(3)]
        shown = Path(f"/proc/{follower.pid}/cmdline").read_bytes()
        follower.send_signal(signal.SIGINT)
        rest, errors = follower.communicate(timeout=20)
    assert (rest, errors, follower.returncode) == ("", "", 0)
    assert len(set(seen)) == 5
    assert os.fsencode(PASSWORD) not in shown


def test_a_followed_log_ends_in_a_sentence_when_the_server_goes_away(
    server: PasswordServer, database: str
) -> None:
    command = [sys.executable, "-m", "codellama_proxy", "keys", "logs", "--follow", "--json"]
    given = environment(PROXY_DATABASE=server.address(database))
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=given
    ) as follower:
        assert follower.stdout is not None
        follower.stdout.readline()
        server.run(
            f"select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = '{database}'"
        )
        _, errors = follower.communicate(timeout=20)
    assert follower.returncode == 1
    assert len(errors.splitlines()) == 1
    assert f"cannot use the database {database} on 127.0.0.1:{server.port}: " in errors
    assert PASSWORD not in errors
