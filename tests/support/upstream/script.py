"""What a model's name tells the upstream to do: `label/words of the first call|words of the second|...`.

Words of one call are separated by `;` and may have a value: `fast/status=500|status=429;retry_after=2|ok`.
The words of the last call stand for all later ones. A name without `/` is `ok`. Values are percent-encoded
where they need a separator. Every token of an answer carries the label, so an answer that mixes two
deployments shows. "After so many tokens" counts what was sent: pieces of content, fragments of tool calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

WORDS: Mapping[str, str] = {
    # what is answered
    "ok": "nothing special",
    "tokens": "how many tokens the answer has (8)",
    "fat": "how much longer each token is than usual, in fours of characters",
    "say": "this very text as the answer",
    "echo": "the JSON of the received body as the answer",
    "tools": "call every tool that was offered",
    "shell": "call the shell tool that was offered, then repeat what it returned",
    "call": "call the tool whose name ends so with these arguments, NAME{JSON}, then repeat what it returned",
    "function": "answer with the legacy function_call",
    "json": "a JSON object as the answer",
    "reasoning": "reasoning deltas before the content",
    "refuse": "a refusal instead of content",
    "finish": "finish_reason",
    "usage": "prompt,completion[,cached] tokens reported",
    "usage_json": "this JSON as the usage, whatever it is",
    "no_usage": "report none",
    "usage_twice": "a false usage first, then the right one",
    "usage_with_finish": "usage on the chunk that has the finish reason",
    # when
    "delay": "seconds before the status line",
    "first": "seconds between the head and the first token",
    "every": "seconds between tokens",
    "gate": "after so many tokens wait for POST /gate/LABEL",
    # failing with a status
    "status": "this status with an error body in OpenAI's shape",
    "retry_after": "its Retry-After",
    "retry_after_ms": "its retry-after-ms",
    "code": "error.code",
    "type": "error.type",
    "message": "error.message",
    # failing without one
    "hang": "read the request, answer nothing",
    "drop": "read the request, close",
    "reset": "read the request, reset the connection",
    "cut": "reset the connection after so many tokens (not streaming: after half the body)",
    "cut_open": "close after so many tokens without ending the body",
    "cut_clean": "end the body properly after so many tokens, no finish reason, no [DONE]",
    "stall": "after so many tokens send nothing more",
    "comments_only": "a stream of keep-alive comments and no token",
    "roles_only": "a stream of role deltas and no token",
    # failing behind a 200
    "html": "an HTML page",
    "empty": "no body at all",
    "truncated": "half a JSON body with a right Content-Length",
    "no_choices": "choices: []",
    "error_200": "an error body, status 200",
    "empty_stream": "a stream of nothing but its end",
    "role_then_fail": "the role delta, an empty one, then an error event",
    "error_event_first": "an error event before any token",
    "error_event_after": "an error event after so many tokens",
    "bad_line": "one malformed data line among the good ones",
    # odd but right
    "no_done": "a stream without [DONE]",
    "crlf": "CRLF line ends in the stream",
    "cr": "lone CR line ends in the stream",
    "bom": "a byte order mark first",
    "comments": "comments, event:, id: and retry: lines between events",
    "multiline": "each event over several data: lines",
    "tight": "data: without the space",
    "byte_by_byte": "one byte a write",
    "http10": "HTTP/1.0, ended by closing",
    "continue100": "100 and 103 first",
    "trailers": "chunked with trailers",
    "no_content_type": "no Content-Type",
    "close": "Connection: close",
    "then_close": "so many seconds after the answer, close the connection without having said so",
    # hostile
    "big_line": "a data line of so many bytes",
    "redirect": "302 to this address",
    "gzip_bomb": "50 MB of zeros, gzip, unasked",
    "endless": "a body that never ends",
    "junk": "another answer right behind the one that was asked for",
    "bad_headers": "cookies, secrets and hop-by-hop headers",
    "many_headers": "a thousand headers",
    "huge_header": "a header of 64 KiB",
}


class ScriptError(ValueError):
    """A model's name has a word nobody knows."""


@dataclass(frozen=True, slots=True)
class Step:
    """The words for one call."""

    label: str
    words: Mapping[str, str]

    def __contains__(self, word: str) -> bool:
        assert word in WORDS, word
        return word in self.words

    def text(self, word: str, default: str = "") -> str:
        assert word in WORDS, word
        return self.words.get(word, default)

    def number(self, word: str, default: float = 0.0) -> float:
        return float(self.text(word) or default)

    def count(self, word: str) -> int | None:
        """After how many tokens it happens; `None`: not at all."""
        return int(self.text(word) or 0) if word in self else None


def parse(model: str) -> tuple[Step, ...]:
    """The steps a name stands for, at least one."""
    label, _, rest = model.partition("/")
    return tuple(Step(label, _words(step)) for step in (rest or "ok").split("|"))


def _words(step: str) -> Mapping[str, str]:
    words: dict[str, str] = {}
    for word in step.split(";"):
        name, _, value = word.partition("=")
        if name not in WORDS:
            raise ScriptError(f"no script word {name!r}")
        words[name] = unquote(value)
    return words


class Scripts:
    """Which step each model's next call plays."""

    def __init__(self) -> None:
        self._calls: dict[str, int] = {}

    def next(self, model: str) -> Step:
        steps = parse(model)
        call = self._calls.get(model, 0)
        self._calls[model] = call + 1
        return steps[min(call, len(steps) - 1)]
