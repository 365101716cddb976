"""Any arguments end in an exit code and at most a few sentences, never in a traceback."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codellama_proxy.__main__ import main
from codellama_proxy.cli.app import COMMANDS

OPTIONS = (
    "--help --json --database --config --port --since --last --by --models --rpm --max-budget --expires --project "
    "--key --model --simulate --body --output --name --format --markdown --overlap --action --actor --host "
    "--on-invalid -- - -x"
)
VALUES = (
    "create list show update block rotate delete spend logs reconcile audit stats purge litellm web key_a sk-abc "
    "proxy.yaml proxy.db absent . postgresql://u:hunter2@h/d x://u:hunter2@h json 7d -1 1e999 none nan a,b month "
    "file/below \x1b[31m \udc80 999999999999999999999999999999"
)
WORDS = st.one_of(
    st.sampled_from(OPTIONS.split()),
    st.sampled_from([*VALUES.split(" "), "mock: 429; mock: ok", ""]),
    st.text(st.characters(exclude_categories=(), exclude_characters="\0/"), max_size=12),
)


def is_harmless(word: str) -> bool:
    """Whether the word stays in the directory of the test, and neither waits nor calls the network."""
    return not word.startswith(("/", "--f", "--on")) and ".." not in word and "~" not in word


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PROXY_")]:
        monkeypatch.delenv(name)
    (tmp_path / "proxy.yaml").write_text("models:\n  - {name: mock, provider: mock}\n")
    (tmp_path / "file").write_text("x")
    return tmp_path


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(command=st.sampled_from(COMMANDS), words=st.lists(WORDS, max_size=6))
def test_any_arguments_end_in_an_exit_code(
    here: Path, capsys: pytest.CaptureFixture[str], command: str, words: list[str]
) -> None:
    if command == "serve":  # it must not start
        words = [word for word in words if word != "--"] + ["--port", "none"]
    arguments = [command, *filter(is_harmless, words)]
    code = main(arguments)
    out, err = capsys.readouterr()
    assert code in (0, 1, 2)
    assert "Traceback" not in out + err
    assert "internal error" not in err
    assert "hunter2" not in out + err
    assert "\x1b" not in err
    assert code == 0 or err or command in ("check", "keys")
