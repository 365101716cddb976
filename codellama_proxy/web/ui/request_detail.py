"""What the page of one request shows: its attempts on a time line, its cost by class, its prompt and answer. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson
from markupsafe import Markup

from codellama_proxy.core.money import dollars
from codellama_proxy.core.snapshot import Price
from codellama_proxy.pricing.cost import PER, dearest, of_length
from codellama_proxy.web.ui import words
from codellama_proxy.web.ui.charts import Bar, timeline
from codellama_proxy.web.ui.request_rows import Row, Tag, nanos

BASE = "https://proxy.example"
"""Stands for the address of the proxy, which only the browser knows."""
BASIS = {
    "exact": "as the upstream counted",
    "estimated": "counted here: the upstream did not say",
    "ambiguous": "the prompt only: sent, and not answered",
    "crash_estimate": "the most it could cost: the proxy stopped meanwhile",
    "cached": "from the cache",
}
OUTCOMES = {
    "ok": "answered whole",
    "cancelled": "the client left",
    "error": "failed",
    "held": "still running",
}


class Step(NamedTuple):
    """A line of the time line."""

    name: str
    bar: Markup
    tag: Tag | None
    took: str
    more: str
    cost: str


class CostClass(NamedTuple):
    name: str
    tokens: str
    rate: str
    """USD per million tokens."""
    cost: str


class Message(NamedTuple):
    sender: str
    text: str


# --- what happened -----------------------------------------------------------------------------------------


def steps(row: Row) -> list[Step]:
    """The whole request, then its attempts; none while it runs."""
    attempts, total = row["attempts"], row["total_ms"]
    if total is None:
        return []
    bars = [Bar(0.0, total, 0.0, "whole"), *(_bar(attempt, row) for attempt in attempts)]
    drawn = timeline(bars)
    whole = Step("whole request", drawn[0], None, words.duration(total), "", "")
    pairs = zip(attempts, bars[1:], drawn[1:], strict=True)
    return [whole, *(_step(number, *pair) for number, pair in enumerate(pairs, 1))]


def _bar(attempt: Mapping[str, Any], row: Row) -> Bar:
    at, ms = attempt.get("at") or 0.0, attempt["ms"] or 0.0
    if not _answered(attempt):
        return Bar(at, ms, 0.0, "fail")
    first = row["first_ms"]
    waited = ms if first is None else min(max(first - at, 0.0), ms)
    return Bar(at, waited, ms - waited, "ok")


def _step(number: int, attempt: Mapping[str, Any], bar: Bar, drawn: Markup) -> Step:
    answered = _answered(attempt)
    why = attempt.get("reason") or f"{attempt['class']} {attempt['status'] or ''}".strip()
    cost = nanos(attempt.get("cost_usd"))
    return Step(
        name=f"{number}. {attempt['deployment']}",
        bar=drawn,
        tag=Tag("answered", "ok") if answered else Tag(why, "bad"),
        took=words.duration(bar.waited),
        more=f"+ {words.duration(bar.streamed)} streaming" if bar.streamed > 0 else "",
        cost="" if answered or not cost else words.usd(cost),
    )


def _answered(attempt: Mapping[str, Any]) -> bool:
    return bool(attempt["class"] == "ok")


# --- what it cost ------------------------------------------------------------------------------------------


def cost_classes(row: Row, price: Price | None) -> list[CostClass]:
    """Tokens times the present price; empty if that is not what was booked, or there is no price."""
    booked, prompt = nanos(row["cost_usd"]), row["prompt_tokens"]
    if price is None or not booked or prompt is None:
        return []
    rates = dearest([of_length(price, prompt)])
    cached, written = row["cached_tokens"] or 0, row.get("cache_write_tokens") or 0
    parts = (
        ("Input", prompt - cached - written, rates.input),
        ("Cached input", cached, rates.cached_input or 0),
        ("Cache writes", written, rates.cache_write or 0),
        ("Output", row["completion_tokens"] or 0, rates.output),
    )
    if (
        min(tokens for _, tokens, _ in parts) < 0
        or -(-sum(t * rate for _, t, rate in parts) // PER) != booked
    ):
        return []
    return [
        CostClass(name, f"{tokens:,}", words.price(rate), dollars(round(tokens * rate / PER)))
        for name, tokens, rate in parts
        if tokens or name in ("Input", "Output")
    ]


def booked(row: Row) -> str:
    """The booked cost, exact."""
    cost = nanos(row["cost_usd"])
    if row["status"] == "held":
        return words.NONE
    return words.UNPRICED if cost is None else dollars(cost)


# --- prompt and answer -------------------------------------------------------------------------------------


def messages(content: Mapping[str, Any]) -> list[Message]:
    """The prompt, then the answers, as text."""
    prompt = [Message(str(one.get("role", "")), text_of(one)) for one in content.get("messages") or ()]
    prompt += [
        Message(name, _plain(content[name])) for name in ("prompt", "suffix", "input") if name in content
    ]
    choices = content.get("choices") or ()
    answers = [
        Message("answer" if len(choices) == 1 else f"answer {number}", text_of(choice.get("message") or {}))
        for number, choice in enumerate(choices, 1)
    ]
    return prompt + answers


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a chat message; what is no text, as JSON."""
    return "\n\n".join(part for part in _parts(message) if part)


def _parts(message: Mapping[str, Any]) -> Iterator[str]:
    content = message.get("content")
    if isinstance(content, list):
        for part in content:
            text = part.get("text") if isinstance(part, dict) else None
            yield text if isinstance(text, str) else _plain(part)
    elif content is not None:
        yield _plain(content)
    for name in ("reasoning_content", "refusal", "tool_calls", "function_call"):
        if message.get(name):
            yield _plain(message[name])


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def curl(row: Row) -> str:
    """The request as a command, without a key; empty for endpoints other than chats."""
    if not row["endpoint"].endswith("chat/completions"):
        return ""
    content = row.get("content") or {}
    asked = content.get("messages") or [{"role": "user", "content": "…"}]
    body = {"model": row["model_requested"] or row["model"], "messages": asked, "stream": row["stream"]}
    sent = orjson.dumps({name: value for name, value in body.items() if value is not None}).decode()
    lines = (
        f"curl {BASE}/v1/chat/completions",
        '-H "Authorization: Bearer $PROXY_KEY"',
        '-H "Content-Type: application/json"',
        f"-d {shlex.quote(sent)}",
    )
    return " \\\n  ".join(lines)
