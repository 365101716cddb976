"""`scripts/keys.py` as a person or a script uses it: a real process on a real file."""

import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from codellama_proxy.cli.keys import main
from codellama_proxy.store.sqlite.connection import connect
from codellama_proxy.store.sqlite.writer import Writer
from tests.support.forked import run_forked

ROOT = Path(__file__).resolve().parents[2]
SECRET = re.compile(r"sk-[0-9A-Za-z]{43}")


class Run:
    """What a command printed and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)

    def sentence(self) -> str:
        """The one line on stderr, when there is no answer."""
        assert self.out == ""
        assert self.err.startswith("keys.py")
        assert self.err.count("\n") == 1
        return self.err


def process(*arguments: str, database: Path | None = None, cwd: Path | None = None, **env: str) -> Run:
    inherited = {name: value for name, value in os.environ.items() if name != "PROXY_DATABASE"}
    place = ["--database", str(database)] if database else []
    command = [sys.executable, str(ROOT / "scripts/keys.py"), *arguments, *place]
    done = run_forked(command, env={**inherited, **env}, cwd=cwd or ROOT)
    return Run(done.returncode, done.stdout, done.stderr)


Keys = Callable[..., Run]


@pytest.fixture
def keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Keys:
    """The command in this process: the same `main`, without the start of an interpreter each time."""

    def run(*arguments: str) -> Run:
        try:
            code = main(["--database", str(tmp_path / "data" / "proxy.db"), *arguments])
        except SystemExit as left:
            code = int(left.code or 0)
        out, err = capsys.readouterr()
        return Run(code, out, err)

    return run


def test_create_creates_the_database_and_prints_only_the_secret(tmp_path: Path) -> None:
    database = tmp_path / "new" / "proxy.db"
    done = process("create", "web-team", database=database)
    assert done.code == 0
    assert SECRET.fullmatch(done.out.strip())
    assert done.out.strip() not in done.err
    assert "web-team" in done.err
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    assert stat.S_IMODE(database.parent.stat().st_mode) == 0o700
    assert done.out.strip()[12:].encode() not in b"".join(p.read_bytes() for p in database.parent.iterdir())


def test_the_database_is_taken_from_option_environment_or_dotenv(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PROXY_DATABASE=three.db\n")
    assert process("create", "c", cwd=tmp_path).code == 0
    assert process("create", "b", cwd=tmp_path, PROXY_DATABASE="two.db").code == 0
    assert (
        process("create", "a", cwd=tmp_path, database=tmp_path / "one.db", PROXY_DATABASE="two.db").code == 0
    )
    for name, project in (("one.db", "a"), ("two.db", "b"), ("three.db", "c")):
        with closing(sqlite3.connect(tmp_path / name)) as db:
            assert db.execute("select project from keys").fetchall() == [(project,)]


def test_create_accepts_every_option_and_json_shows_them(keys: Keys) -> None:
    made = keys(
        *("create", "web", "--json", "--name", "CI of web", "--expires", "30d", "--models", "a, b-*"),
        *(
            "--max-budget",
            "10.5",
            "--budget-duration",
            "month",
            "--rpm",
            "60",
            "--tpm",
            "1000",
            "--parallel",
            "2",
        ),
    ).json
    assert SECRET.fullmatch(made.pop("key"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", made["expires"])
    expected = {
        "project": "web",
        "name": "CI of web",
        "models": ["a", "b-*"],
        "max_budget": 10.5,
        "budget_duration": "month",
        "rpm_limit": 60,
        "tpm_limit": 1000,
        "max_parallel_requests": 2,
        "blocked": False,
    }
    assert {name: made[name] for name in expected} == expected
    assert keys("show", made["key_id"], "--json").json == made
    assert keys("show", made["prefix"], "--json").json == made
    assert keys("show", made["prefix"][:6], "--json").json == made
    assert keys("list", "--json").json == [made]


def test_names_that_allow_no_model_are_warned_of(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROXY_CONFIG", raising=False)
    (tmp_path / "proxy.yaml").write_text(
        "models:\n- {name: codellama, provider: mock}\n- {name: gpt-4, provider: openai, api_key: '${UNSET_KEY}'}\n"
        "aliases: {gpt-4o: gpt-4}\n"
    )
    known = keys("create", "web", "--models", "codellama,gpt-4,gpt-*,c*", "--json")
    assert (known.err, known.json["models"]) == ("", ["codellama", "gpt-4", "gpt-*", "c*"])
    unknown = keys("update", known.json["key_id"], "--models", "codelama,gpt-4o,nix*", "--json")
    assert unknown.json["models"] == ["codelama", "gpt-4o", "nix*"]
    assert unknown.err.splitlines() == [
        'warning: proxy.yaml: no model is named "codelama"; did you mean "codellama"?',
        'warning: proxy.yaml: "gpt-4o" is an alias; a key needs the name of its model, "gpt-4"',
        'warning: proxy.yaml: no model is named "nix*"',
    ]
    for broken in ("models: [", ""):
        (tmp_path / "proxy.yaml").write_text(broken)
        assert keys("create", "web", "--models", "nix", "--json").err == ""


def test_update_changes_given_fields_and_none_unsets_them(keys: Keys) -> None:
    key_id = keys("create", "web", "--rpm", "5", "--expires", "1h", "--json").json["key_id"]
    changed = keys("update", key_id, "--rpm", "none", "--tpm", "7", "--project", "other", "--json").json
    assert (changed["rpm_limit"], changed["tpm_limit"], changed["project"]) == (None, 7, "other")
    assert changed["expires"] is not None
    assert keys("update", key_id, "--expires", "none", "--json").json["expires"] is None
    assert "nothing to change" in keys("update", key_id).sentence()


def test_block_unblock_and_delete(keys: Keys) -> None:
    key_id = keys("create", "web", "--json").json["key_id"]
    assert keys("block", key_id, "--json").json["blocked"] is True
    assert "blocked" in keys("list").out
    assert keys("unblock", key_id).code == 0
    assert keys("show", key_id, "--json").json["blocked"] is False
    assert keys("delete", key_id, "--json").json == {"key_id": key_id, "deleted": True}
    assert keys("list", "--json").json == []
    gone = keys("show", key_id)
    assert (gone.code, "no such key" in gone.sentence()) == (1, True)


def test_rotate_prints_a_new_secret_for_the_same_key(keys: Keys) -> None:
    made = keys("create", "web", "--json").json
    rotated = keys("rotate", made["key_id"], "--overlap", "24h", "--json").json
    assert rotated["key_id"] == made["key_id"]
    assert rotated["key"] != made["key"]
    assert rotated["key"].startswith(rotated["prefix"])
    assert keys("show", made["prefix"], "--json").json["key_id"] == made["key_id"]  # the old secret's prefix
    plain = keys("rotate", made["key_id"])
    assert SECRET.fullmatch(plain.out.strip())
    assert "the old secret no longer works" in plain.err


def test_list_is_a_readable_table_without_secrets(keys: Keys) -> None:
    secret = keys("create", "web", "--name", "one", "--models", "a,b").out.strip()
    keys("create", "other", "--expires", "1h")
    lines = keys("list").out.splitlines()
    assert lines[0].split()[:5] == ["KEY_ID", "PREFIX", "PROJECT", "NAME", "STATE"]
    assert len(lines) == 3
    assert not any(secret[:12] in line for line in lines)
    assert len(keys("list", "--project", "web").out.splitlines()) == 2
    card = keys("show", secret[:11]).out
    assert re.search(r"^models +a, b$", card, re.MULTILINE)
    assert re.search(r"^state +active$", card, re.MULTILINE)


def test_an_ambiguous_prefix_is_refused(keys: Keys) -> None:
    keys("create", "web")
    keys("create", "web")
    refused = keys("block", "sk-")
    assert (refused.code, "several keys" in refused.sentence()) == (1, True)
    assert not any(key["blocked"] for key in keys("list", "--json").json)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("create", "a/b"), "PROJECT"),
        (("create", "web", "--expires", "soon"), "--expires"),
        (("create", "web", "--max-budget", "-1"), "--max-budget"),
        (("create", "web", "--max-budget", "NaN"), "--max-budget"),
        (("create", "web", "--max-budget", "1e999"), "--max-budget"),
        (("create", "web", "--max-budget", "ten"), "--max-budget"),
        (("create", "web", "--max-budget", "1_0"), "--max-budget"),
        (("create", "web", "--max-budget", "\N{FULLWIDTH DIGIT NINE}"), "--max-budget"),
        (("create", "web", "--max-budget", "1e-999999999"), "--max-budget"),
        (("create", "web", "--max-budget", "1e-99"), "--max-budget"),
        (("create", "web", "--rpm", "1_0"), "--rpm"),
        (("create", "web", "--rpm", "\N{FULLWIDTH DIGIT NINE}"), "--rpm"),
        (("logs", "--last", "1_0"), "--last"),
        (("audit", "--last", "\N{FULLWIDTH DIGIT NINE}"), "--last"),
        (("create", "web", "--budget-duration", "1y"), "--budget-duration"),
        (("create", "web", "--rpm", "1.5"), "--rpm"),
        (("create", "web", "--rpm", "-1"), "--rpm"),
        (("create", "web", "--models", ","), "--models"),
        (("create", "web", "--name", "a\nb"), "--name"),
        (("create", "web", "--admin"), "--admin"),
        (("create", "web", "--key-id", "key_a"), "--key-id"),
        (("create",), "PROJECT"),
        (("frobnicate",), "frobnicate"),
        ((), "command"),
    ],
)
def test_a_usage_error_prints_one_sentence_and_exits_with_2(
    keys: Keys, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    refused = keys(*arguments)
    assert refused.code == 2
    assert says in refused.sentence()
    assert not (tmp_path / "data").exists()


def test_abbreviated_options_are_refused(keys: Keys) -> None:
    assert keys("create", "web", "--max", "1").code == 2


def test_an_unusable_database_is_reported_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is not a database, whatever it is called\n" * 100)
    done = process("list", database=tmp_path / "text.db")
    assert (done.code, "text.db" in done.sentence()) == (1, True)
    done = process("list", PROXY_DATABASE="mysql://h/db")
    assert (done.code, "must be a file" in done.sentence()) == (1, True)


def test_a_locked_database_is_reported_in_one_sentence(tmp_path: Path, keys: Keys) -> None:
    keys("create", "web")
    with closing(connect(tmp_path / "data" / "proxy.db")) as other:
        other.execute("begin immediate")
        done = keys("create", "web")
    assert (done.code, "locked" in done.sentence()) == (1, True)
    assert len(keys("list", "--json").json) == 1


def test_it_never_checkpoints_the_database_of_a_running_server(tmp_path: Path) -> None:
    database = tmp_path / "proxy.db"
    assert process("create", "web", database=database).code == 0
    with closing(connect(database)) as server:
        server.execute("create table t as select zeroblob(100000) as b")
        wal = database.with_name("proxy.db-wal")
        # By its times: opening and closing the file here would drop the locks of our own connection.
        before, size = database.stat().st_mtime_ns, wal.stat().st_size
        for _ in range(3):
            assert process("create", "web", database=database).code == 0
        assert database.stat().st_mtime_ns == before
        assert wal.stat().st_size > size


def test_a_running_server_sees_the_change(tmp_path: Path, keys: Keys) -> None:
    key_id = keys("create", "web", "--json").json["key_id"]
    writer = Writer(tmp_path / "data" / "proxy.db")
    writer.start()
    try:
        keys("block", key_id)
        found = writer.submit(lambda db: db.execute("select key_id, blocked from keys").fetchall())
        assert found.result(30) == [(key_id, 1)]
    finally:
        writer.close()


def test_a_closed_pipe_is_not_an_error(tmp_path: Path) -> None:
    database = tmp_path / "proxy.db"
    process("create", "web", database=database)
    command = f"'{sys.executable}' '{ROOT}/scripts/keys.py' list --database '{database}' | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == ""


def test_without_the_package_the_script_runs_the_venvs_python(tmp_path: Path) -> None:
    """A copy of the script beside a `.venv` whose interpreter is a recorder."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    script = tmp_path / "scripts" / "keys.py"
    script.write_bytes((ROOT / "scripts" / "keys.py").read_bytes())
    python = tmp_path / ".venv/bin/python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(script), "list", "--json"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.splitlines() == [str(script), "list", "--json"]
