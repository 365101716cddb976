"""The snippets of docs/clients.md, pointed at a proxy of the tests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tests.support.processes import ROOT
from tests.support.proxy_process import Proxy

PAGE = (ROOT / "docs" / "clients.md").read_text("utf-8")
ADDRESS, KEY, MODEL = "http://127.0.0.1:4000", "sk-...", "codellama"
FENCE = re.compile(
    r"(?:^`~/(?P<file>[^`]+)`[^\n]*:\n\n)?^```(?P<language>\w+) (?P<name>[\w-]+)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Snippet:
    """A named block of the page."""

    language: str
    text: str
    file: str | None
    """Where the page says to save it, below the home directory."""

    def for_proxy(self, served: Proxy, model: str, key: str | None = None) -> str:
        """The text with the address of `served`, a key (default: its own) and a model's name."""
        named = re.sub(rf"(?<![\w-]){MODEL}(?![\w-])", model, self.text)
        return named.replace(ADDRESS, served.url).replace(KEY, key or served.key)


SNIPPETS: Mapping[str, Snippet] = {
    found["name"]: Snippet(found["language"], found["text"], found["file"]) for found in FENCE.finditer(PAGE)
}
