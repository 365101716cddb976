"""The upstream as tests hold it: the process, its model entries, and what its journal says."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx2

from tests.support.forked import fork_listener
from tests.support.processes import LOOPBACK, journal, until
from tests.support.upstream.script import parse

PRICE = {"input": 1.5, "output": 6}
"""USD per million tokens of every scripted model, unless a test says otherwise."""


class View:
    """What the journal says since the view was opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = path.stat().st_size

    def events(self, event: str | None = None, **facts: Any) -> list[dict[str, Any]]:
        wanted = {**facts, **({"event": event} if event else {})}
        return [line for line in journal(self._path, self._start) if wanted.items() <= line.items()]

    def requests(self, model: str | None = None) -> list[dict[str, Any]]:
        """Requests that came, all or those for one model's name (or its label)."""
        found = self.events("request")
        return [one for one in found if model is None or _is_for(one, model)]

    def bodies(self, model: str | None = None) -> list[dict[str, Any]]:
        return [one["body"] for one in self.requests(model)]

    def models(self) -> list[str]:
        """The labels that were asked, in order."""
        return [str(body["model"]).partition("/")[0] for body in self.bodies()]

    def usages(self, model: str | None = None) -> list[Any]:
        """What usage was reported for each request, in order.

        An answer is written down as finished after its last byte was sent, when the proxy may have booked it already.
        """
        ids = [one["request"] for one in self.requests(model)]

        def finished() -> dict[int, Any] | None:
            found = {one["request"]: one["usage"] for one in self.events("finished")}
            left = {one["request"]: None for one in self.events("closed", by_peer=True) if "request" in one}
            ended = {**left, **found}
            return ended if ended.keys() >= set(ids) else None

        reported = until(finished, "the end of each answer") if ids else {}
        return [reported[one] for one in ids]

    def closed(self, request: int) -> list[dict[str, Any]]:
        """When the peer hung up while this request was being answered."""
        return self.events("closed", request=request, by_peer=True)


def _is_for(event: Mapping[str, Any], model: str) -> bool:
    asked = str(event["body"].get("model")) if isinstance(event["body"], dict) else ""
    return model in (asked, asked.partition("/")[0])


class Upstream:
    """The scripted provider, as a process."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "journal.jsonl"
        self.path.touch()
        command = [sys.executable, "-m", "tests.support.upstream", "--journal", str(self.path)]
        self._process, self.port = fork_listener(command)
        self.origin = f"http://127.0.0.1:{self.port}"
        self.url = self.origin + "/v1"
        self.journal = View(self.path)

    def fresh(self) -> Self:
        """The same process with a journal that begins now."""
        self.journal = View(self.path)
        return self

    def open_gate(self, label: str) -> None:
        httpx2.post(f"{self.origin}/gate/{label}", **LOOPBACK).raise_for_status()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def model(self, name: str, script: str = "ok", **more: Any) -> dict[str, Any]:
        """A `models:` entry answered here, alone unless `fallbacks` says so; `None` leaves a key out."""
        upstream_model = f"{name.replace('/', '-')}/{script}"
        parse(upstream_model)
        entry = {
            "name": name,
            "provider": "openai_compatible",
            "base_url": self.url,
            "api_key": f"sk-upstream-secret-{name[::-1]}",  # no name in it, so that names are not hidden
            "model": upstream_model,
            "price": PRICE,
            "fallbacks": [],
        }
        return {key: value for key, value in {**entry, **more}.items() if value is not None}
