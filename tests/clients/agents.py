"""Coding agents as docs/clients.md sets them up, run on one task in a home directory of their own."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.clients.packages import CLAUDE, CLINE, CODEX, CONTINUE, NODE, OPENCODE, QWEN, Package
from tests.support.client_docs import SNIPPETS
from tests.support.proxy_process import Proxy

TASK = "Run the shell command."
RUN_SECONDS = 120.0
"""How long a task may take; a machine that does nothing else needs 2 to 6."""
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
QUIET = {
    "CI": "1",
    "DO_NOT_TRACK": "1",
    "NO_COLOR": "1",
    "TERM": "xterm-256color",
    "IS_SANDBOX": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    "QWEN_TELEMETRY_ENABLED": "false",
    "CONTINUE_TELEMETRY_ENABLED": "0",
}
"""No questions, no colours, and no attempts to reach hosts that a test run does not have."""


NO_ENV: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Run:
    """What an agent did."""

    code: int
    """Its exit code; that of SIGKILL, -9, if it had to be stopped."""
    output: str
    """What it printed, without colours."""
    seconds: float
    requests: int = 0
    """How many it made to the endpoint it uses."""

    @property
    def stopped(self) -> bool:
        """It had not ended in time."""
        return self.code == -signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Agent:
    """One client with one API."""

    package: Package
    endpoint: str
    """In the rows of the request log."""
    script: str
    """The snippet that starts it; the arguments of the task are appended to its last line."""
    arguments: tuple[str, ...]
    config: str | None = None
    """The snippet that is its configuration file."""
    edits: Mapping[str, str] = field(default_factory=dict)
    """What the page says to replace in the configuration for this API."""

    def prepare(self, home: Path, served: Proxy, model: str, key: str | None) -> str:
        """Writes its configuration. Returns the shell script that runs the task."""
        if self.config:
            snippet = SNIPPETS[self.config]
            assert snippet.file, f"docs/clients.md names no file for {self.config}"
            text = snippet.for_proxy(served, model, key)
            for old, new in self.edits.items():
                assert old in text, old
                text = text.replace(old, new)
            path = home / snippet.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        script = SNIPPETS[self.script].for_proxy(served, model, key)
        return f"set -e\n{script.rstrip()} {shlex.join(self.arguments)}\n"

    def run(
        self,
        directory: Path,
        served: Proxy,
        model: str,
        *,
        key: str | None = None,
        within: float = RUN_SECONDS,
        env: Mapping[str, str] = NO_ENV,
    ) -> Run:
        """Runs the task. It is stopped, with everything it started, after `within` seconds.

        A second run in the same directory finds the sessions of the first one.
        """
        home, work = directory / "home", directory / "work"
        for place in (home, work):
            place.mkdir(parents=True, exist_ok=True)
        path = [str(self.package.path.parent), str(NODE.path.parent), "/usr/bin", "/bin"]
        process = subprocess.Popen(
            ["bash", "-c", self.prepare(home, served, model, key)],
            cwd=work,
            env={**QUIET, **env, "PATH": ":".join(path), "HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        began = time.monotonic()
        try:
            output, _ = process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            _stop(process, home)
            output, _ = process.communicate(timeout=10)
        finally:
            _stop(process, home)
        text = COLOURS.sub("", output.decode("utf-8", "replace"))
        return Run(process.returncode, text, time.monotonic() - began)


def _stop(process: subprocess.Popen[bytes], home: Path) -> None:
    """Ends the agent and the daemons that it left: those with its home directory."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    mark = f"HOME={home}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in environ.read_bytes().split(b"\0"):
                os.kill(int(environ.parent.name), signal.SIGKILL)


CLAUDE_ARGUMENTS = ("--dangerously-skip-permissions", "-p", TASK)
CODEX_ARGUMENTS = ("exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", TASK)

OPENCODE_CHAT = Agent(OPENCODE, "chat/completions", "opencode-run", ("run", TASK), "opencode")
CONTINUE_CHAT = Agent(CONTINUE, "chat/completions", "continue-run", ("--auto", "-p", TASK), "continue")


def _of_library(endpoint: str, library: str) -> Agent:
    """opencode with another package of the AI SDK."""
    return replace(OPENCODE_CHAT, endpoint=endpoint, edits={"@ai-sdk/openai-compatible": library})


AGENTS: Mapping[str, Agent] = {
    "claude-code": Agent(CLAUDE, "messages", "claude-code", CLAUDE_ARGUMENTS),
    "claude-code-models": Agent(CLAUDE, "messages", "claude-code-models", CLAUDE_ARGUMENTS),
    "codex": Agent(CODEX, "responses", "codex-run", CODEX_ARGUMENTS, "codex"),
    "opencode": OPENCODE_CHAT,
    "opencode-messages": _of_library("messages", "@ai-sdk/anthropic"),
    "opencode-responses": _of_library("responses", "@ai-sdk/openai"),
    "cline": Agent(CLINE, "chat/completions", "cline", ("--json", TASK)),
    "cline-responses": Agent(CLINE, "responses", "cline-responses", ("--json", TASK)),
    "qwen-code": Agent(QWEN, "chat/completions", "qwen-code", ("-y", "-p", TASK)),
    "qwen-code-messages": Agent(QWEN, "messages", "qwen-code-messages", ("-y", "-p", TASK)),
    "continue": CONTINUE_CHAT,
    "continue-messages": replace(
        CONTINUE_CHAT, endpoint="messages", edits={"provider: openai": "provider: anthropic"}
    ),
}
"""By client and, where it is not its first, by API."""
