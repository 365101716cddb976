"""A database address that is not known is refused in one sentence, without its password, and nothing is made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.__main__ import main
from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.location import database_file
from tests.support.cases import each
from tests.support.processes import ROOT, environment

PASSWORD = "hunter2-Zq81"
ADDRESSES = (
    f"postgresql://me:{PASSWORD}@db.example/proxy",
    f"postgres://me:{PASSWORD}@db.example:5432/proxy?sslmode=require",
    f"postgresql+asyncpg://me:{PASSWORD}@db/proxy",
    f"postgresql:/me:{PASSWORD}@db/proxy",
    f"'postgresql://me:{PASSWORD}@db/proxy'",
    f" MYSQL://me:{PASSWORD}@db/proxy",
    f"{PASSWORD}://x",
    f"me:{PASSWORD}@db.example/proxy",
    f"host=db user=me password={PASSWORD} dbname=proxy",
    "sqlite:///data/proxy.db",
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


@each("given_", ADDRESSES)
def test_a_url_is_not_a_path(given_: str) -> None:
    with pytest.raises(StoreError) as refused:
        database_file(given_)
    message = str(refused.value)
    assert message.startswith("the database must be a file")
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
    assert database_file(path) == Path(path)


@given(
    st.text(min_size=4, max_size=12, alphabet=st.characters(exclude_characters="/@:")), st.text(max_size=9)
)
def test_the_error_does_not_repeat_the_url(password: str, rest: str) -> None:
    with pytest.raises(StoreError) as refused:
        database_file(f"scheme://u:{password}@{rest}")
    assert str(refused.value) == (
        "the database must be a file: addresses are not supported (a path such as data/proxy.db)"
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
