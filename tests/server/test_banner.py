"""The lines of a start."""

from __future__ import annotations

from pathlib import Path

import pytest

from codellama_proxy.server.banner import keys_command


def test_the_command_for_keys_is_one_that_can_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert keys_command(tmp_path) == "codellama-proxy keys", "an installed package has no scripts"
    script = tmp_path / "scripts" / "keys.py"
    script.parent.mkdir()
    script.touch()
    assert keys_command(tmp_path) == str(script)
    monkeypatch.chdir(tmp_path)
    assert keys_command(tmp_path) == "scripts/keys.py"
