"""Addresses of databases: read without showing a password; others are refused in one sentence, and nothing is made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from codellama_proxy.__main__ import main
from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.location import ServerAddress, database_file, database_location
from codellama_proxy.store.postgres.session import connect, wait_for
from tests.support.cases import each
from tests.support.processes import ROOT, environment

PASSWORD = "hunter2-Zq81"
POSTGRES = f"postgresql://me:{PASSWORD}@127.0.0.1:1/proxy"
ADDRESSES = (
    f"mysql://me:{PASSWORD}@db.example/proxy",
    f"postgresql+asyncpg://me:{PASSWORD}@db/proxy",
    f"postgresql:/me:{PASSWORD}@db/proxy",
    f" MYSQL://me:{PASSWORD}@db/proxy",
    f"{PASSWORD}://x",
    f"me:{PASSWORD}@db.example/proxy",
    f"host=db user=me password={PASSWORD} dbname=proxy",
    "sqlite:proxy.db",
    "file:proxy.db?mode=ro",
    "FILE:proxy.db",
)
COMMANDS = (
    ["serve", "--port", "0", "--database", ADDRESSES[0]],
    ["serve", "--port", "0", "--databse", ADDRESSES[0]],
    ["explain", "--project", "a", "--database", ADDRESSES[0]],
    ["cache", "stats", "--database", ADDRESSES[0]],
    ["backup", "copy.db", "--database", ADDRESSES[0]],
    ["backup", ADDRESSES[0]],
    ["restore", ADDRESSES[0]],
    ["keys", "list", "--database", ADDRESSES[0]],
    ["keys", "list", "--databse", ADDRESSES[0]],
)
UNREACHABLE = (
    ["explain", "--project", "a", "--database", POSTGRES],
    ["cache", "stats", "--database", POSTGRES],
    ["backup", "copy.db", "--database", POSTGRES],
    ["backup", POSTGRES],
    ["keys", "list", "--database", POSTGRES],
    ["keys", "create", "a", "--database", POSTGRES],
    ["serve", "--port", "0", "--on-invalid", "last-good", "--database", POSTGRES],
)
MALFORMED = (
    f"postgresql://me:{PASSWORD}@db.example",
    f"postgresql://me:{PASSWORD}@db.example/a/b",
    f"postgresql://me:{PASSWORD}@[::1/proxy",
    f"postgresql://me:{PASSWORD}/proxy",
    f"postgresql://me:a/{PASSWORD}@db.example",
    f"postgresql://me:12/{PASSWORD}@db.example?sslmode=require",
    f"postgresql://me:12/{PASSWORD}@db.example/proxy",
    f"postgresql://me:a@{PASSWORD}@db.example/proxy",
    f"postgresql://db.example/proxy;password={PASSWORD}",
    f"postgresql://me:{PASSWORD}@db/proxy?password",
    f"postgresql://me:{PASSWORD}@db/proxy?nonsense={PASSWORD}",
)


@each("given_", ADDRESSES)
def test_a_url_is_not_a_path(given_: str) -> None:
    with pytest.raises(StoreError) as refused:
        database_location(given_)
    message = str(refused.value)
    assert message.startswith("the database must be a file or a postgresql:// address")
    assert "\n" not in message
    assert PASSWORD not in message


@pytest.mark.parametrize(
    "path",
    [
        "data/proxy.db",
        "/var/lib/x/proxy.db",
        "./a b.db",
        "proxy@home.db",
        "a:b.db",
        ":memory:",
        "../x=1/p.db",
    ],
)
def test_a_path_is_accepted(path: str) -> None:
    assert database_location(path) == database_file(path) == Path(path)


@pytest.mark.parametrize(
    ("address", "path"),
    [("sqlite:///data/proxy.db", "data/proxy.db"), ("sqlite:////var/a%20b.db", "/var/a b.db")],
)
def test_a_sqlite_address_is_a_path(address: str, path: str) -> None:
    assert database_location(address) == Path(path)


@pytest.mark.parametrize(
    ("address", "label"),
    [
        (POSTGRES, "proxy on 127.0.0.1:1"),
        (f"postgres://me:{PASSWORD}@a,b:5433/proxy?target_session_attrs=read-write", "proxy on a,b:5433"),
        (f"postgresql:///proxy?host=/run/postgresql&password={PASSWORD}", "proxy on local socket"),
        (f"postgresql://me@%2Frun%2Fpostgresql/proxy?password={PASSWORD}", "proxy on local socket"),
        (f"POSTGRESQL://db.example/my%40db?sslpassword={PASSWORD}", "my@db on db.example"),
        (f"postgresql://me:{PASSWORD}@[::1]:5432,[::2]/proxy", "proxy on [::1]:5432,[::2]"),
    ],
)
def test_an_address_is_shown_as_host_and_database(address: str, label: str) -> None:
    found = database_location(address)
    assert isinstance(found, ServerAddress)
    assert (str(found), PASSWORD in repr(found)) == (label, False)
    assert found.masked(f"password {PASSWORD} failed") == "password *** failed"


def test_prepared_statements_are_switched_off_by_an_option_of_ours() -> None:
    found = database_location("postgresql://db/proxy?prepare=off&sslmode=require")
    assert isinstance(found, ServerAddress)
    assert (found.prepare, found.url) == (False, "postgresql://db/proxy?sslmode=require")


@pytest.mark.parametrize(
    ("query", "option", "value"),
    [
        ("options=-c%20search_path%3Dours", "options", "-c search_path=ours"),
        ("password=a%20b", "password", "a b"),
        ("password=a+b", "password", "a+b"),
        ("password=a%2Bb%26c", "password", "a+b&c"),
    ],
)
def test_options_reach_the_driver_as_it_would_read_them(query: str, option: str, value: str) -> None:
    found = database_location(f"postgresql://db/proxy?{query}")
    assert isinstance(found, ServerAddress)
    assert conninfo_to_dict(found.url)[option] == value
    assert (value in found.masked(value)) == (option != "password")


@each("address", MALFORMED[:-2])
def test_a_malformed_address_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(StoreError) as refused:
        database_location(address)
    assert PASSWORD not in str(refused.value)


@each("address", MALFORMED[-2:])
def test_unknown_options_of_an_address_are_refused_without_repeating_them(address: str) -> None:
    with pytest.raises(StoreError) as refused:
        connect(cast("ServerAddress", database_location(address)))
    assert PASSWORD not in str(refused.value)


def test_a_start_waits_for_the_server_and_says_so_once_without_the_password() -> None:
    said: list[str] = []
    clock = iter(range(1000))
    address = database_location(POSTGRES)
    assert isinstance(address, ServerAddress)
    with pytest.raises(StoreError) as refused:
        wait_for(address, said.append, sleep=lambda _: None, clock=lambda: float(next(clock)), within=5)
    assert len(said) == 1
    assert "waiting up to 5 s" in said[0]
    assert "127.0.0.1" in said[0]
    assert PASSWORD not in said[0] + str(refused.value)


@pytest.mark.parametrize("command", UNREACHABLE, ids=lambda command: " ".join(command[:3]))
def test_no_command_shows_the_password_of_a_server_that_cannot_be_reached(
    directory: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    refused_in_words(directory, capsys, command)


@given(
    st.text(min_size=4, max_size=12, alphabet=st.characters(exclude_characters="/@:")), st.text(max_size=9)
)
def test_the_error_does_not_repeat_the_url(password: str, rest: str) -> None:
    with pytest.raises(StoreError) as refused:
        database_location(f"scheme://u:{password}@{rest}")
    assert str(refused.value) == (
        "the database must be a file or a postgresql:// address: addresses are not supported "
        "(a path such as data/proxy.db)"
    )


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a configuration, and no settings in the environment."""
    (tmp_path / "proxy.yaml").write_text("models: [{name: m, provider: mock}]\n")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PROXY_")]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:3]))
def test_every_command_refuses_a_url(
    directory: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    refused_in_words(directory, capsys, command)


@pytest.mark.parametrize(
    "command", [one for one in COMMANDS if "--database" in one], ids=lambda command: " ".join(command[:3])
)
def test_every_command_refuses_a_url_from_the_environment(
    directory: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
) -> None:
    monkeypatch.setenv("PROXY_DATABASE", ADDRESSES[0])
    refused_in_words(directory, capsys, command[: command.index("--database")])


def refused_in_words(directory: Path, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    try:
        code: object = main(command)
    except SystemExit as left:
        code = left.code
    assert code in (1, 2)
    check_words("".join(capsys.readouterr()), directory)


def check_words(message: str, directory: Path) -> None:
    assert message.strip()
    assert PASSWORD not in message
    assert "Traceback" not in message
    assert [one.name for one in directory.iterdir()] == ["proxy.yaml"]


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "codellama_proxy", "serve", "--port", "0", "--database", ADDRESSES[0]],
        [str(ROOT / "scripts" / "keys.py"), "list", "--database", ADDRESSES[0]],
    ],
    ids=["serve", "keys.py"],
)
def test_real_processes_refuse_a_url(directory: Path, command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=directory,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (1, 2)
    check_words(done.stdout + done.stderr, directory)


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["keys", "list"], ["database", "migrate"]])
def test_a_server_without_the_driver_is_refused_with_the_command_that_installs_it(
    directory: Path, command: list[str]
) -> None:
    done = without_driver(directory, *command, "--database", POSTGRES)
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'codellama-proxy[postgres]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert PASSWORD not in done.stderr


def test_a_file_needs_no_driver(directory: Path) -> None:
    done = without_driver(directory, "keys", "create", "a", "--database", "proxy.db")
    assert (done.returncode, done.stdout[:3]) == (0, "sk-"), done.stderr


def without_driver(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command in an environment without psycopg."""
    (directory / "psycopg.py").write_text("raise ImportError\n")
    return subprocess.run(
        [sys.executable, "-m", "codellama_proxy", *command],
        cwd=directory,
        env=environment(PYTHONPATH=str(directory)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
