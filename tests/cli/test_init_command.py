"""`codellama-proxy init`: a starter configuration that works as it stands, and that overwrites nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from codellama_proxy.__main__ import main
from codellama_proxy.config.load import load
from codellama_proxy.providers.registry import IMPLEMENTED
from tests.support.processes import ROOT

NAMES = {"proxy.yaml", ".env.example"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROXY_CONFIG", raising=False)
    return tmp_path


def names(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()}


def test_init_writes_a_configuration_that_check_accepts(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init"]) == 0
    out, err = capsys.readouterr()
    assert "codellama-proxy serve" in out
    assert "cd " not in out
    assert err == ""
    assert names(here) == NAMES
    assert main(["check"]) == 0
    assert " 0 errors" in (report := capsys.readouterr().out) or "error" not in report


def test_init_creates_the_directory(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "a/new place"]) == 0
    assert names(here / "a/new place") == NAMES
    assert "cd 'a/new place'" in capsys.readouterr().out


@pytest.mark.parametrize("existing", sorted(NAMES))
def test_init_keeps_what_exists(here: Path, capsys: pytest.CaptureFixture[str], existing: str) -> None:
    (here / existing).write_text("mine")
    assert main(["init"]) == 0
    assert (here / existing).read_text() == "mine"
    assert names(here) == NAMES
    assert f"{existing} exists and was kept" in capsys.readouterr().err
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    assert main(["init"]) == 1
    assert "nothing was written" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


def test_init_does_not_follow_a_dangling_link(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "proxy.yaml").symlink_to("elsewhere.yaml")
    assert main(["init"]) == 0
    assert not (here / "elsewhere.yaml").exists()
    assert "proxy.yaml exists" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("serve",), ("check",), ("explain", "--project", "web")])
def test_commands_without_a_configuration_suggest_init(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    assert main(command) == 1
    assert "codellama-proxy init" in capsys.readouterr().err


def test_init_on_a_file_fails_with_one_sentence(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "taken").write_text("x")
    assert main(["init", "taken"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("codellama-proxy init: ")
    assert err.count("\n") == 1


def test_the_starter_files_are_those_of_the_repository() -> None:
    starter = ROOT / "codellama_proxy" / "cli" / "starter"
    first, _, rest = (ROOT / "proxy.yaml").read_text().partition("\n")
    assert first.startswith("# yaml-language-server: $schema=proxy.schema.json")
    assert (starter / "proxy.yaml").read_text() == rest
    assert (starter / "env.example").read_text() == (ROOT / ".env.example").read_text()


def test_the_environment_example_names_the_variables_of_the_starter() -> None:
    listed = (ROOT / ".env.example").read_text()
    snapshot = load((ROOT / "proxy.yaml").read_bytes(), {}, implemented=IMPLEMENTED)
    for deployment in snapshot.disabled:
        (variable,) = [word for word in str(deployment.disabled).split() if word.endswith("_API_KEY")]
        assert f"\n{variable}=\n" in listed
