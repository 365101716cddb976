"""Libraries and small tools of docs/clients.md, each in a virtual environment or a folder of its own in `.clients/`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.clients.packages import CACHE, INSTALL_SECONDS, NODE, Package
from tests.support.client_docs import SNIPPETS


@dataclass(frozen=True, slots=True)
class PythonPackage:
    """A package in a virtual environment."""

    name: str
    version: str
    extra: str = ""

    @property
    def folder(self) -> Path:
        return CACHE / f"{self.name}-{self.version}"

    @property
    def path(self) -> Path:
        """Its interpreter, beside which its commands are; there once the package is installed."""
        return self.folder / "bin" / "python"

    @property
    def log(self) -> Path:
        return self.folder.with_name(self.folder.name + ".log")

    def install(self) -> None:
        """Installs it. Raises `OSError` or `subprocess.SubprocessError`; the log has the details."""
        pip = [
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            f"{self.name}{self.extra}=={self.version}",
        ]
        with self.log.open("wb") as log:
            for command in ([sys.executable, "-m", "venv", str(self.folder)], [str(self.path), *pip]):
                subprocess.run(
                    command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    timeout=INSTALL_SECONDS,
                    check=True,
                )


@dataclass(frozen=True, slots=True)
class Library:
    """How a snippet is run."""

    package: Package | PythonPackage
    snippet: str
    config: str | None = None
    arguments: str = ""
    """Appended to the snippet: the task, for a tool that would ask for it."""
    answers: int = 1
    """How often the snippet prints an answer."""

    def command(self, code: str) -> list[str]:
        if isinstance(self.package, Package):
            return [str(NODE.path), "--input-type=module", "-e", code]
        if SNIPPETS[self.snippet].language == "sh":
            return ["bash", "-ec", f"{code.rstrip()} {self.arguments}"]
        return [str(self.package.path), "-c", code]


AI_SDK = Package("ai", "7.0.173", "ai/package.json", also=("@ai-sdk/openai-compatible@3.0.92",))
LLM = PythonPackage("llm", "0.36")
LANGCHAIN = PythonPackage("langchain-openai", "1.7.4")
PYDANTIC_AI = PythonPackage("pydantic-ai-slim", "2.68.0", "[openai]")
AIDER = PythonPackage("aider-chat", "0.86.2")

LIBRARIES: Mapping[str, Library] = {
    "llm": Library(LLM, "llm-run", "llm"),
    "langchain": Library(LANGCHAIN, "langchain", answers=2),
    "pydantic-ai": Library(PYDANTIC_AI, "pydantic-ai"),
    "ai-sdk": Library(AI_SDK, "ai-sdk"),
    "aider": Library(AIDER, "aider", arguments="--no-git --yes-always --no-check-update --message hello"),
}
