"""A database address that is not known is refused in one sentence, without its password, and nothing is made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
)
COMMANDS = (
    ["-m", "codellama_proxy", "serve", "--port", "0", "--database", ADDRESSES[0]],
    ["-m", "codellama_proxy", "serve", "--port", "0", "--databse", ADDRESSES[0]],
    ["-m", "codellama_proxy", "explain", "--project", "a", "--database", ADDRESSES[0]],
    ["-m", "codellama_proxy", "cache", "stats", "--database", ADDRESSES[0]],
    ["-m", "codellama_proxy", "backup", "copy.db", "--database", ADDRESSES[0]],
    ["-m", "codellama_proxy", "backup", ADDRESSES[0]],
    ["-m", "codellama_proxy", "restore", ADDRESSES[0]],
    [str(ROOT / "scripts" / "keys.py"), "list", "--database", ADDRESSES[0]],
    [str(ROOT / "scripts" / "keys.py"), "list", "--databse", ADDRESSES[0]],
)


@each("given_", ADDRESSES)
def test_an_address_is_no_path(given_: str) -> None:
    with pytest.raises(StoreError) as refused:
        database_file(given_)
    said = str(refused.value)
    assert said.startswith("the database must be a file")
    assert "\n" not in said
    assert PASSWORD not in said


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
def test_a_path_is_one(path: str) -> None:
    assert database_file(path) == Path(path)


@given(
    st.text(min_size=4, max_size=12, alphabet=st.characters(exclude_characters="/@:")), st.text(max_size=9)
)
def test_no_part_of_what_is_refused_is_repeated(password: str, rest: str) -> None:
    with pytest.raises(StoreError) as refused:
        database_file(f"scheme://u:{password}@{rest}")
    assert str(refused.value) == (
        "the database must be a file: addresses are not supported (a path such as data/proxy.db)"
    )


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[1:4]))
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_every_command_refuses_it(tmp_path: Path, command: list[str], by: str) -> None:
    (tmp_path / "proxy.yaml").write_text("models: [{name: m, provider: mock}]\n")
    env = {"PYTHONPATH": str(ROOT)}
    if by == "environment":
        if "--database" not in command:
            return
        place = command.index("--database")
        command = [*command[:place], *command[place + 2 :]]
        env["PROXY_DATABASE"] = ADDRESSES[0]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode in (1, 2), said
    assert said.strip()
    assert PASSWORD not in said
    assert "Traceback" not in said
    assert [one.name for one in tmp_path.iterdir()] == ["proxy.yaml"]
