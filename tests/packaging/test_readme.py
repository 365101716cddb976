"""README.md: its commands run in order, as they stand, against a server that was just installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from codellama_proxy.config.load import load
from codellama_proxy.providers.registry import IMPLEMENTED
from tests.support.processes import ROOT, end, environment, free_port, until
from tests.support.raw_http import exchange, request

PAGE = (ROOT / "README.md").read_text("utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PROXY = f"exec '{sys.executable}' -m codellama_proxy"
# The names that scripts/install makes, without an installation: that has tests of its own.
COMMANDS = {
    "scripts/keys.py": f'{PROXY} keys "$@"',
    ".venv/bin/codellama-proxy": f'{PROXY} "$@"',
    ".venv/bin/python": f"exec '{sys.executable}' \"$@\"",
    # Claude Code is not installed here: its request, with the same settings.
    ".venv/bin/claude": """
        curl -sf "$ANTHROPIC_BASE_URL/v1/messages" -H "authorization: Bearer $ANTHROPIC_AUTH_TOKEN" \\
            -H 'content-type: application/json' --data-binary @- <<END
        {"model": "$2", "max_tokens": 50, "messages": [{"role": "user", "content": "$4"}]}
END""",
}


def shell_script() -> str:
    """The commands of the page: `sh` and Python blocks, and the lines of `console` blocks after a prompt."""
    parts = [
        f"cat <<'END_OF_BLOCK' >&2\n{commands}\nEND_OF_BLOCK\n{commands}"
        for kind, text in BLOCKS
        if (commands := commands_of(kind, text))
    ]
    return "\n".join(["set -e", *parts])


def commands_of(kind: str, text: str) -> str:
    match kind:
        case "sh":
            return text
        case "console":
            return "\n".join(re.findall(r"^\$ (.+)$", text, re.MULTILINE))
        case "python":
            return f"python - <<'END_OF_PYTHON'\n{text}END_OF_PYTHON"
    return ""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, command in COMMANDS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{command}\n")
        path.chmod(0o755)
    for name in ("proxy.yaml", ".env.example"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.fixture
def port(place: Path) -> Iterator[int]:
    """The server of the page's first command, on a port of its own."""
    found = free_port()
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            [place / ".venv/bin/codellama-proxy", "serve"],
            cwd=place,
            env=environment(PYTHONPATH=str(ROOT), PROXY_PORT=str(found)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            until(lambda: is_ready(found) or process.poll() is not None, "the server is ready", within=60)
            yield found
        finally:
            process.terminate()
            end(process)


def is_ready(port: int) -> bool:
    try:
        return exchange(port, request("/health/readiness", method="GET")).status == 200
    except ConnectionRefusedError:
        return False


def test_every_command_of_the_page_runs_as_it_stands(place: Path, port: int) -> None:
    script = shell_script().replace("127.0.0.1:4000", f"127.0.0.1:{port}")
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=place,
        env=environment(PYTHONPATH=str(ROOT), PATH=os.environ["PATH"]),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"error"' not in done.stdout
    assert done.stdout.count("Hello, world!") == 3 * 2, "curl, the SDK and Claude Code"
    assert "gpt-4#1 answers" in done.stdout


def test_the_commands_of_the_page_are_run() -> None:
    script = shell_script()
    for command in (
        "check --online",
        "curl http",
        "OpenAI()",
        "claude ",
        "explain",
        "create",
        "list",
        "logs",
        "reconcile",
    ):
        assert command in script
    first_screen = PAGE[: PAGE.index("## proxy.yaml")]
    assert "check --online" in first_screen


def test_no_other_block_looks_like_commands() -> None:
    for kind, text in BLOCKS:
        if kind == "" and not text.startswith(("scripts/serve ", "$ scripts/serve\n")):
            assert not re.search(r"^(\$ |curl |codellama-proxy |export )", text, re.MULTILINE), text


def test_every_configuration_of_the_page_is_valid() -> None:
    examples = [text for kind, text in BLOCKS if kind == "yaml"]
    assert examples
    for text in examples:
        assert load(text.encode(), {}, implemented=IMPLEMENTED).models


def test_every_link_of_the_page_has_a_target() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE):
        assert (ROOT / target).exists(), target
