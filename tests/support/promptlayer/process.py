"""The fake PromptLayer as tests hold it: the process, how it behaves, and what it was told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx2

from tests.support.forked import fork_listener
from tests.support.processes import LOOPBACK, free_port, journal, until

KEY = "pl_0123456789abcdefghijklmnopqrstuv"


class PromptLayer:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "promptlayer.jsonl"
        self.path.touch()
        self._begin = 0
        self.port = free_port()
        self.start()

    def start(self) -> None:
        """Always on the same port, whatever was between."""
        command = [
            sys.executable,
            "-m",
            "tests.support.promptlayer",
            "--journal",
            str(self.path),
            "--key",
            KEY,
        ]
        self._process, port = fork_listener([*command, "--port", str(self.port)])
        assert port == self.port

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        return {"PROMPTLAYER_API_URL": self.url, "PROMPTLAYER_API_KEY": KEY}

    def behave(self, **how: Any) -> None:
        httpx2.post(self.url + "/behave", json=how, **LOOPBACK).raise_for_status()

    def fresh(self) -> Self:
        """The same process, as good as new: it behaves, and what it was told before is forgotten."""
        self.behave()
        self._begin = self.path.stat().st_size
        return self

    def events(self, event: str) -> list[dict[str, Any]]:
        return [line for line in journal(self.path, self._begin) if line["event"] == event]

    def taken(self, path: str = "/log-request") -> list[dict[str, Any]]:
        """The bodies it accepted."""
        assert not self.events("refused"), self.events("refused")
        return [one["body"] for one in self.events("taken") if one["path"] == path]

    def number(self, request_id: str) -> int:
        """Its own number for a request it has a record of."""
        logged = [one for one in self.events("taken") if one["path"] == "/log-request"]
        (number,) = (one["id"] for one in logged if one["body"]["metadata"]["request_id"] == request_id)
        return int(number)

    def record(self, request_id: str, *, within: float = 10.0) -> dict[str, Any]:
        """The one record of a request, waited for."""

        def found() -> list[dict[str, Any]]:
            return [body for body in self.taken() if body["metadata"]["request_id"] == request_id]

        records = until(found, f"a record of {request_id}", within=within)
        assert len(records) == 1
        return records[0]


@contextmanager
def promptlayer(directory: Path) -> Iterator[PromptLayer]:
    one = PromptLayer(directory)
    try:
        yield one
    finally:
        one.stop()
