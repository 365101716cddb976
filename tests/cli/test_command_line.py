"""The command line itself: help, usage errors, settings, completion, and what a start imports."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from codellama_proxy.__main__ import main
from codellama_proxy.cli.app import COMMANDS
from tests.support.processes import ROOT, environment


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PROXY_")]:
        monkeypatch.delenv(name)
    return tmp_path


def test_no_arguments_print_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["keys"], ["cache"]):
        assert main(arguments) == 2
        assert "Commands:" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main([name, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: codellama-proxy {name}")
    assert err == ""


def test_the_usage_of_a_command_shows_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    main(["serve", "--help"])
    usage = " ".join(capsys.readouterr().out.partition("\n\n")[0].split())
    assert usage == (
        "Usage: codellama-proxy serve [--config FILE] [--database FILE] [--host TEXT] [--port PORT] "
        "[--workers COUNT] [--on-invalid [refuse|last-good]]"
    )


@pytest.mark.parametrize("arguments", [["keys", "create"], ["explain"]])
def test_a_usage_breaks_between_options_only(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    main([*arguments, "--help"])
    lines = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    assert len(lines) > 1
    assert all(line.count("[") == line.count("]") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "--bogus"], "codellama-proxy serve: No such option '--bogus'."),
        (["frobnicate"], "codellama-proxy: No such command 'frobnicate'."),
        (["chekc"], "codellama-proxy: No such command 'chekc'. (Did you mean one of: 'cache', 'check'?)"),
        (["keys", "crate"], "codellama-proxy keys: No such command 'crate'."),
        (["diff", "a"], "codellama-proxy diff: Missing argument 'NEW'."),
        (["keys", "logs", "--last", "x"], "codellama-proxy keys logs: Invalid value for '--last'"),
        (
            ["explain", "--key", "key_a", "--project", "web"],
            "codellama-proxy explain: give either --key or --project",
        ),
    ],
)
def test_a_usage_error_is_one_sentence_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(message)


def test_an_invalid_setting_names_the_option_and_the_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["serve", "--port", "http"]) == 1
    assert capsys.readouterr().err.startswith("codellama-proxy serve: --port (PROXY_PORT): ")
    monkeypatch.setenv("PROXY_MASTER_KEY", "short")
    assert main(["serve"]) == 1
    assert capsys.readouterr().err.startswith("codellama-proxy serve: PROXY_MASTER_KEY: ")


def test_the_option_wins_over_the_environment_and_that_over_dotenv(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / ".env").write_text("PROXY_CONFIG=dotenv.yaml\n")
    assert main(["check"]) == 1
    assert "dotenv.yaml: 1 error" in capsys.readouterr().out
    monkeypatch.setenv("PROXY_CONFIG", "variable.yaml")
    assert main(["check"]) == 1
    assert "variable.yaml: 1 error" in capsys.readouterr().out
    assert main(["check", "argument.yaml"]) == 1
    assert "argument.yaml: 1 error" in capsys.readouterr().out


def test_keys_takes_the_database_before_and_after_the_command(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXY_DATABASE", "variable.db")
    assert main(["keys", "--database", "before.db", "create", "web"]) == 0
    assert main(["keys", "--database", "before.db", "create", "web", "--database", "after.db"]) == 0
    assert main(["keys", "create", "web"]) == 0
    assert {path.name for path in here.glob("*.db")} == {"before.db", "after.db", "variable.db"}


def completed(instruction: str, words: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "codellama_proxy"],
        env=environment(
            PYTHONPATH=str(ROOT),
            _CODELLAMA_PROXY_COMPLETE=instruction,
            COMP_WORDS=words,
            COMP_CWORD=str(len(words.split()) - 1),
        ),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        ("ba", "backup"),
        ("ini", "init"),
        ("keys cre", "create"),
        ("serve --por", "--port"),
        ("import lite", "litellm"),
    ],
)
def test_completion_suggests_commands_options_and_values(words: str, suggestion: str) -> None:
    assert completed("bash_complete", f"codellama-proxy {words}").split() == [f"plain,{suggestion}"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_documented_shell_has_a_completion_script(shell: str) -> None:
    assert f"_CODELLAMA_PROXY_COMPLETE={shell}_complete" in completed(f"{shell}_source")
    assert f"{shell}_source" in (ROOT / "docs/operations.md").read_text()


@pytest.mark.parametrize(
    ("given", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)]
)
def test_errors_are_coloured_on_a_terminal_only(given: dict[str, str], coloured: bool) -> None:
    command = [sys.executable, "-m", "codellama_proxy", "frobnicate"]
    ours, theirs = pty.openpty()
    env = environment(PYTHONPATH=str(ROOT), **given)
    piped = subprocess.run(command, env=env, capture_output=True, timeout=30, check=False)
    subprocess.run(command, env=env, stderr=theirs, timeout=30, check=False)
    shown = os.read(ours, 4096)
    os.close(ours)
    os.close(theirs)
    assert b"\x1b" not in piped.stderr
    assert (b"\x1b" in shown) is coloured


def test_serve_imports_no_other_command() -> None:
    program = (
        "import sys\n"
        "from codellama_proxy.__main__ import main\n"
        "main(['serve', '--port', 'none'])\n"
        "print(*sorted(name for name in sys.modules if name.startswith('codellama_proxy.cli.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    loaded = {name.rpartition(".")[2] for name in done.stdout.split()}
    assert loaded == {"app", "options", "output", "run", "serve"}
