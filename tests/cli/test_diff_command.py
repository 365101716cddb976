"""The command `diff`: two files in, what changes out, never a secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codellama_proxy.__main__ import main

OLD = "models:\n- {name: a, provider: mock}\n- {name: b, provider: openai, api_key: sk-planted-1}\n"
NEW = (
    "models:\n- {name: a, provider: mock}\n- {name: b, provider: openai, api_key: sk-planted-2, weight: 2}\n"
)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(OLD)
    new.write_text(NEW + "timeouts: {idle: 90s}\n")
    return str(old), str(new)


def test_a_change_is_printed_as_a_reload_logs_it(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "a.timeouts.idle 60s → 90s",
        "b.api_key changed",
        "b.weight 1 → 2",
        "b.timeouts.idle 60s → 90s",
    ]
    assert main(["diff", *files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"changes": lines}


def test_comments_and_key_order_are_not_changes(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("# hello\n" + OLD.replace("name: a, provider: mock", "provider: mock, name: a"))
    assert main(["diff", files[0], str(other)]) == 0
    assert capsys.readouterr().out == "no effective changes\n"


def test_an_invalid_file_is_named(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("models: []\nroutng: {}\n")
    assert main(["diff", files[0], str(bad)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert f'{bad}:2:1: routng: unknown key "routng"' in output.err
