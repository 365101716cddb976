"""The lines of a start."""

from __future__ import annotations

from pathlib import Path

import pytest

from codellama_proxy.config.load import load
from codellama_proxy.config.settings import Settings
from codellama_proxy.providers.registry import IMPLEMENTED
from codellama_proxy.server.banner import keys_command, startup_lines


def test_the_command_for_keys_is_one_that_can_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert keys_command(tmp_path) == "codellama-proxy keys", "an installed package has no scripts"
    script = tmp_path / "scripts" / "keys.py"
    script.parent.mkdir()
    script.touch()
    assert keys_command(tmp_path) == str(script)
    monkeypatch.chdir(tmp_path)
    assert keys_command(tmp_path) == "scripts/keys.py"


@pytest.mark.parametrize("disabled", [False, True])
def test_a_start_names_variables_to_set_only_if_it_lists_some(disabled: bool) -> None:
    file = "models: [{name: mine, provider: mock}]"
    if disabled:
        file = "models: [{name: mine, provider: mock}, {name: gpt, provider: openai, api_key: '${OPENAI_API_KEY}'}]"
    snapshot = load(file.encode(), {}, implemented=IMPLEMENTED)
    lines = "\n".join(startup_lines(snapshot, "http://127.0.0.1:4000", Settings()))
    assert "the built-in mock model answers." in lines
    assert ("variables above" in lines) is disabled
