"""Writes answers in the form of Anthropic's Messages API: whole messages and streams of events.

In a stream one block is open at a time, and blocks are numbered as they begin. Calls whose arguments arrive interleaved
become blocks one after another: what belongs to a later block waits until the open call is complete.
(docs.anthropic.com/en/docs/build-with-claude/streaming)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import orjson

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import Event, Usage
from codellama_proxy.inbound.messages.blocks import BlockWriter, input_of
from codellama_proxy.inbound.messages.chat_pieces import Piece, choice_of, chunks_of, pieces_of
from codellama_proxy.inbound.messages.errors import PING, error_event, event
from codellama_proxy.inbound.messages.thinking import signature_of
from codellama_proxy.inbound.messages.usage import ending, usage_json
from codellama_proxy.inbound.sealed import Seals
from codellama_proxy.inbound.tool_names import original_names
from codellama_proxy.openai_format.completion import completion_in, text_alone
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.openai_format.usage import read_usage, usage_in
from codellama_proxy.tokens.media import media_in
from codellama_proxy.tokens.tokenizers import estimate, of_chat, of_size

MAX_ESTIMATED_BYTES = 512 << 10
"""Larger requests are estimated by their size, in bytes without media."""


class MessagesEncoder:
    """Writes the answer to one request."""

    def __init__(self, request: InferenceRequest, seals: Seals | None = None) -> None:
        self._request = request
        self._body: Mapping[str, Any] = request.native.body if request.native is not None else {}
        self._hidden = _hides_thinking(self._body)
        self._seals = seals if self._hidden else None
        self._begun = False
        self._relayed = False
        self._finish: str | None = None
        self._refusal = ""
        self._usage: Usage | None = None

    @cached_property
    def _writer(self) -> BlockWriter:
        names = _names_of(self._body)
        return BlockWriter(names, self._request.id, hidden=self._hidden, seals=self._seals)

    @property
    def form(self) -> Literal["raw"] | None:
        return "raw" if self._relayed else None

    def events(self, events: Sequence[Event], *, ended: bool) -> bytes:
        if self._relayed or any(e.raw for e in events):
            self._relayed = True
            return b"".join(e.raw for e in events)
        out = b"".join([self._event(e) for e in events])
        return out + self._end() if ended else out

    def whole(self, event: Event) -> bytes:
        if event.raw:
            return event.raw
        completion = completion_in(event)
        choice = choice_of(completion)
        message = choice.get("message")
        refusal, called = "", False
        if (text := text_alone(message)) is not None:
            content = [{"type": "text", "text": text}] if text else []
        else:
            pieces = list(pieces_of(message))
            refusal = "".join(piece.text for piece in pieces if piece.kind == "refusal")
            content = list(self._content(pieces))
            called = any(block["type"] == "tool_use" for block in content)
        usage = event.usage or usage_in(completion) or Usage()
        return orjson.dumps(
            {
                **self._head(completion, content),
                **ending(choice.get("finish_reason"), refusal, called=called),
                "usage": usage_json(usage),
            }
        )

    def broken(self, error: ProxyError) -> bytes:
        return error_event(error)

    def _head(self, chunk: Mapping[str, Any], content: Sequence[Any]) -> dict[str, Any]:
        model = chunk.get("model")
        return {
            "id": f"msg_{self._request.id}",
            "type": "message",
            "role": "assistant",
            "model": model if isinstance(model, str) and model else self._request.model or "",
            "content": content,
        }

    # --- whole answers -------------------------------------------------------------------------------------------

    def _content(self, pieces: Sequence[Piece]) -> Iterator[dict[str, Any]]:
        """Thinking, then text, then calls."""
        for piece in pieces:
            if piece.kind == "thinking":
                shown = "" if self._hidden else piece.text
                signature = signature_of(piece.text, self._seals)
                yield {"type": "thinking", "thinking": shown, "signature": signature}
            elif piece.kind == "block":
                yield dict(piece.block)
        text = "".join(piece.text for piece in pieces if piece.kind in ("text", "refusal"))
        if text:
            yield {"type": "text", "text": text}
        for piece in pieces:
            if piece.kind == "call" and piece.block:
                yield {**self._writer.call_block(piece), "input": input_of(piece.text)}

    # --- streams -------------------------------------------------------------------------------------------------

    def _event(self, found: Event) -> bytes:
        if found.usage is not None:
            self._usage = found.usage
        self._finish = found.finish_reason or self._finish
        return b"".join([self._chunk(chunk) for chunk in chunks_of(found)])

    def _chunk(self, chunk: Mapping[str, Any]) -> bytes:
        if chunk.get("usage"):
            self._usage = read_usage(chunk["usage"]) or self._usage
        choice = choice_of(chunk)
        out = [self._begin(chunk)]
        self._finish = choice.get("finish_reason") or self._finish
        for piece in pieces_of(choice.get("delta")):
            if piece.kind == "refusal":
                self._refusal += piece.text
            out.append(self._writer.piece(piece))
        return b"".join(out)

    def _begin(self, chunk: Mapping[str, Any]) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        usage = {**usage_json(self._usage or Usage(self._estimate())), "output_tokens": 1}
        message = {
            **self._head(chunk, []),
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        return event("message_start", {"message": message}) + PING

    def _estimate(self) -> int:
        """Prompt tokens, for clients that read only the usage at the beginning."""
        request = self._request
        size = request.size - media_in(request.messages)[1]
        if size > MAX_ESTIMATED_BYTES:
            return of_size(size)
        return max(of_chat(request.messages, request.params.get("tools", ()), estimate), 1)

    def _end(self) -> bytes:
        out = self._begin({}) + self._writer.finish()
        stop = ending(self._finish, self._refusal, called=self._writer.called)
        usage = usage_json(self._usage or Usage(self._estimate()))
        return out + event("message_delta", {"delta": stop, "usage": usage}) + event("message_stop", {})


def _hides_thinking(body: Mapping[str, Any]) -> bool:
    thinking = body.get("thinking")
    return isinstance(thinking, dict) and thinking.get("display") == "omitted"


def _names_of(body: Mapping[str, Any]) -> dict[str, str]:
    """The client's names of tools, by their names in the chat request."""
    tools = body.get("tools")
    named = [tool.get("name") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    return original_names(name for name in named if isinstance(name, str))
