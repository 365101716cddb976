"""A fake internet: wires that play scripted answers, and remember what was sent, read and closed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.upstream.http import Response, ResponseBody
from tests.support.dialogues import OPENAI

JSON = {"content-type": "application/json"}
SSE = {"content-type": "text/event-stream"}
HANG = float("inf")

Piece = bytes | float | Exception | asyncio.Event
"""Bytes that arrive, seconds of silence, the way it breaks, or what is waited for."""


@dataclass(frozen=True, slots=True)
class Script:
    pieces: tuple[Piece, ...]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def answer(*pieces: Piece, status: int = 200, **headers: str) -> Script:
    """A plain answer; header names with `_` for `-`."""
    return Script(pieces, status, {**JSON, **{name.replace("_", "-"): v for name, v in headers.items()}})


def stream(*pieces: Piece, **headers: str) -> Script:
    return Script(pieces, 200, {**SSE, **headers})


def refusal(status: int, message: str = "no", **headers: str) -> Script:
    return answer(orjson.dumps({"error": {"message": message}}), status=status, **headers)


def good(kind: str = "text", *, streamed: bool) -> Script:
    reference = OPENAI.answers[kind]
    return stream(reference.stream) if streamed else answer(reference.whole)


class Body(ResponseBody):
    """Plays its pieces."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = iter(pieces)
        self.read = 0
        """Bytes handed out."""
        self.ended = False
        self.closed = False

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            if isinstance(piece, float):
                await asyncio.sleep(piece if piece != HANG else 3600)
                continue
            if isinstance(piece, asyncio.Event):
                await piece.wait()
                continue
            if isinstance(piece, Exception):
                raise piece
            self.read += len(piece)
            return piece
        self.ended = True
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed = True


@dataclass(frozen=True, slots=True)
class Sent:
    deployment: str
    request: HttpRequest
    connect_seconds: float

    @property
    def body(self) -> dict[str, Any]:
        return orjson.loads(self.request.body)  # type: ignore[no-any-return]  # JSON


class Wire:
    """One deployment's connections."""

    def __init__(self, internet: Internet, deployment: Deployment) -> None:
        self.deployment = deployment
        self.closed = False
        self._internet = internet

    async def send(self, request: HttpRequest, connect_seconds: float) -> Response:
        self._internet.sent.append(Sent(self.deployment.id, request, connect_seconds))
        script = self._internet.next_of(self.deployment.id)
        await asyncio.sleep(0)
        if isinstance(script, Exception):
            raise script
        if script is None:
            await asyncio.sleep(3600)
        assert script is not None
        body = Body(script.pieces)
        self._internet.bodies.append(body)
        return Response(script.status, dict(script.headers), body)

    async def aclose(self) -> None:
        self.closed = True


class Internet:
    """Scripts by deployment id: each request plays the next, the last one again and again.

    An exception breaks the connection, `None` never answers.
    """

    def __init__(self, **scripts: Sequence[Script | Exception | None]) -> None:
        self._scripts = {f"{name}#1": list(those) for name, those in scripts.items()}
        self.sent: list[Sent] = []
        self.bodies: list[Body] = []
        self.wires: list[Wire] = []

    def make(self, deployment: Deployment) -> Wire:
        self.wires.append(Wire(self, deployment))
        return self.wires[-1]

    def next_of(self, deployment: str) -> Script | Exception | None:
        scripts = self._scripts[deployment]
        return scripts.pop(0) if len(scripts) > 1 else scripts[0]

    @property
    def asked(self) -> list[str]:
        """The deployments that were called, in order."""
        return [one.deployment for one in self.sent]
