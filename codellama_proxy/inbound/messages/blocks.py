"""Writes the blocks of a stream, one after another, from pieces in any order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from codellama_proxy.inbound.messages.chat_pieces import Piece
from codellama_proxy.inbound.messages.errors import event
from codellama_proxy.inbound.messages.thinking import signature_of
from codellama_proxy.inbound.sealed import Seals

MAX_COMPLETENESS_CHECKS = 16
"""How often one call's arguments are parsed to find out whether they are complete."""


def input_of(arguments: str) -> dict[str, Any]:
    """A call's arguments as an object, empty for none; invalid ones are kept as text, so that the client sees them."""
    text = arguments.strip()
    try:
        found = orjson.loads(text or "null")
    except orjson.JSONDecodeError:
        found = arguments
    if isinstance(found, dict):
        return found
    return {} if found is None else {"_raw": arguments}


Queued = tuple[str, list[str], Mapping[str, Any]]
"""Content that waits for the open call: its kind, its pieces, its block."""


class _Call:
    """One call: what has been received, and what has been written of its arguments."""

    __slots__ = ("block", "checked", "checks", "received", "written")

    def __init__(self, block: dict[str, Any]) -> None:
        self.block = block
        self.received: list[str] = []
        self.written = 0
        self.checks = 0
        self.checked = 0

    def is_complete(self) -> bool:
        """Whether its arguments are a whole object, so that no more can follow."""
        if len(self.received) == self.checked or not self.received[-1].rstrip().endswith("}"):
            return False
        self.checked = len(self.received)
        self.checks += 1
        if self.checks > MAX_COMPLETENESS_CHECKS:
            return False
        try:
            return isinstance(orjson.loads("".join(self.received)), dict)
        except orjson.JSONDecodeError:
            return False


class BlockWriter:
    """The blocks of one stream."""

    def __init__(
        self, names: Mapping[str, str], own_id: str, *, hidden: bool = False, seals: Seals | None = None
    ) -> None:
        """`names`: the client's names of tools, by their wire names; `hidden`: thinking is shown without its text."""
        self.called = False
        """Whether a tool was called."""
        self._names = names
        self._hidden = hidden
        self._seals = seals
        self._own_id = own_id
        self._index = -1
        self._open = ""
        self._thought: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._current: _Call | None = None
        self._queue: list[_Call | Queued] = []

    def piece(self, piece: Piece) -> bytes:
        """The events that a piece becomes, none if it has to wait."""
        if piece.kind == "call":
            return self._call_piece(piece)
        kind = "text" if piece.kind == "refusal" else piece.kind
        released = self._release()
        if self._current is not None:
            self._wait(kind, piece)
            return released
        return released + self._content(kind, piece.text, piece.block)

    def finish(self) -> bytes:
        """The rest: everything that waited, and the end of the last block."""
        out = [self._close()]
        while self._queue:
            out.append(self._dequeue())
            out.append(self._close())
        return b"".join(out)

    def call_block(self, piece: Piece) -> dict[str, Any]:
        """The `tool_use` block of a call without input, under the client's name of the tool."""
        name = piece.block["name"]
        call_id = piece.block.get("id")
        return {
            "type": "tool_use",
            "id": call_id if isinstance(call_id, str) and call_id else f"toolu_{self._own_id}_{piece.call}",
            "name": self._names.get(name, name),
            "input": {},
        }

    # --- calls ---------------------------------------------------------------------------------------------------

    def _call_piece(self, piece: Piece) -> bytes:
        call = self._calls.get(piece.call)
        out = b""
        if call is None:
            if not piece.block:
                return b""
            call = self._calls[piece.call] = _Call(self.call_block(piece))
            self.called = True
            out = self._release()
            if self._current is None:
                out += self._start_call(call)
            else:
                self._queue.append(call)
        if piece.text:
            call.received.append(piece.text)
        return out + self._arguments(call) if call is self._current else out

    def _start_call(self, call: _Call) -> bytes:
        started = self._start("tool_use", call.block)
        self._current = call
        return started

    def _arguments(self, call: _Call) -> bytes:
        """The arguments that have not been written yet; those that cannot be an object wait for the end."""
        text = "".join(call.received[call.written :])
        if not call.written:
            text = text.lstrip()
            if not text.startswith("{"):
                return b""
        call.written = len(call.received)
        return self._delta("input_json_delta", partial_json=text) if text else b""

    def _other_arguments(self, call: _Call) -> bytes:
        """Arguments that are no object, as one."""
        found = input_of("".join(call.received)) if not call.written else {}
        return self._delta("input_json_delta", partial_json=orjson.dumps(found).decode()) if found else b""

    def _release(self) -> bytes:
        """Ends the open call if it is complete, and writes what waited for it."""
        out = []
        while self._current is not None and self._current.is_complete():
            out.append(self._close())
            while self._queue and self._current is None:
                out.append(self._dequeue())
        return b"".join(out)

    def _wait(self, kind: str, piece: Piece) -> None:
        last = self._queue[-1] if self._queue else None
        if isinstance(last, tuple) and last[0] == kind and kind != "block":
            last[1].append(piece.text)
        else:
            self._queue.append((kind, [piece.text], piece.block))

    def _dequeue(self) -> bytes:
        item = self._queue.pop(0)
        if isinstance(item, _Call):
            return self._start_call(item) + self._arguments(item)
        kind, texts, block = item
        return self._content(kind, "".join(texts), block)

    # --- blocks --------------------------------------------------------------------------------------------------

    def _content(self, kind: str, text: str, block: Mapping[str, Any]) -> bytes:
        if kind == "block":
            return self._signed(block)
        out = b""
        if self._open != kind:
            empty = {"type": "text", "text": ""}
            thought = {"type": "thinking", "thinking": "", "signature": ""}
            out = self._start(kind, empty if kind == "text" else thought)
        if kind == "thinking":
            self._thought.append(text)
            return out if self._hidden else out + self._delta("thinking_delta", thinking=text)
        return out + self._delta("text_delta", text=text)

    def _signed(self, block: Mapping[str, Any]) -> bytes:
        """A whole block: the end of the open one if that has its text already, else a block of its own."""
        if block.get("type") != "thinking":
            return self._start("redacted_thinking", block) + self._close()
        signature, text = block.get("signature"), block.get("thinking")
        out = b""
        if self._open != "thinking":
            out = self._start("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            if isinstance(text, str) and text:
                out += self._delta("thinking_delta", thinking=text)
                self._thought = [text]
        if isinstance(signature, str) and signature:
            self._open = "signed"
            out += self._delta("signature_delta", signature=signature)
        return out + self._close()

    def _start(self, kind: str, block: Mapping[str, Any]) -> bytes:
        out = self._close()
        self._index += 1
        self._open = kind
        return out + event("content_block_start", {"index": self._index, "content_block": block})

    def _delta(self, kind: str, **fields: str) -> bytes:
        return event("content_block_delta", {"index": self._index, "delta": {"type": kind, **fields}})

    def _close(self) -> bytes:
        if not self._open:
            return b""
        out = b""
        if self._open == "thinking":
            signature = signature_of("".join(self._thought), self._seals)
            out = self._delta("signature_delta", signature=signature)
        elif self._current is not None:
            out = self._other_arguments(self._current)
        self._thought = []
        self._open = ""
        self._current = None
        return out + event("content_block_stop", {"index": self._index})
