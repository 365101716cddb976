"""The coding agents that the suite runs: pinned npm packages, installed below `.clients/`."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import ROOT

CACHE = ROOT / ".clients"
INSTALL_SECONDS = 300
ARCHITECTURE = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), "unsupported")


@dataclass(frozen=True, slots=True)
class Package:
    """An npm package and where the program is in it."""

    name: str
    version: str
    program: str
    """Below node_modules. Native programs are used directly, because npm may not run install scripts."""
    also: tuple[str, ...] = ()
    """Packages that are installed with it: `NAME@VERSION`."""

    @property
    def folder(self) -> Path:
        return CACHE / f"{self.name.rpartition('/')[2]}-{self.version}"

    @property
    def path(self) -> Path:
        return self.folder / "node_modules" / self.program

    @property
    def log(self) -> Path:
        return self.folder.with_name(self.folder.name + ".log")

    def install(self) -> None:
        """Installs it. Raises `OSError` or `subprocess.SubprocessError`; the log has the details."""
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(self.folder)]
        with self.log.open("wb") as log:
            subprocess.run(
                [*command, f"{self.name}@{self.version}", *self.also],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                timeout=INSTALL_SECONDS,
                check=True,
            )


NODE = Package(f"node-linux-{ARCHITECTURE}", "22.23.3", f"node-linux-{ARCHITECTURE}/bin/node")
CLAUDE = Package(
    "@anthropic-ai/claude-code", "2.1.332", f"@anthropic-ai/claude-code-linux-{ARCHITECTURE}/claude"
)
CODEX = Package("@openai/codex", "0.171.0", ".bin/codex")
OPENCODE = Package("opencode-ai", "1.18.33", f"opencode-linux-{ARCHITECTURE}/bin/opencode")
CLINE = Package("cline", "3.0.65", ".bin/cline")
QWEN = Package("@qwen-code/qwen-code", "0.24.4", ".bin/qwen")
CONTINUE = Package("@continuedev/cli", "1.5.47", ".bin/cn")
