"""What the page of one request says about its attempts, costs and content."""

from __future__ import annotations

import shlex
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.snapshot import Price
from codellama_proxy.core.types import Key, Usage
from codellama_proxy.pricing.cost import cost
from codellama_proxy.web.ui import request_detail as detail
from codellama_proxy.web.ui import words
from codellama_proxy.web.ui.request_rows import Tag, outcome, shown

PRICE = Price(400_000_000, 1_600_000_000, cached_input=100_000_000)
ROW: dict[str, Any] = {
    "request_id": "req_1",
    "created_at": "2026-11-27T20:29:52.810Z",
    "project": "web",
    "endpoint": "chat/completions",
    "key_id": "key_a",
    "status": "ok",
    "http_status": 200,
    "stream": True,
    "model_requested": "gpt-4",
    "model": "mini",
    "attempts": [
        {
            "deployment": "gpt-4#1",
            "class": "transient",
            "status": 500,
            "reason": "http_500",
            "at": 0.5,
            "ms": 600.0,
        },
        {
            "deployment": "mini#1",
            "class": "ok",
            "status": 200,
            "at": 700.0,
            "ms": 2200.0,
            "cost_usd": 0.0002536,
        },
    ],
    "prompt_tokens": 102,
    "completion_tokens": 133,
    "cached_tokens": 0,
    "cost_usd": 0.0002536,
    "cache": "miss",
    "first_ms": 1000.0,
    "total_ms": 2900.0,
}


def row(**changed: Any) -> dict[str, Any]:
    return {**ROW, **changed}


def test_attempts_are_told_one_by_one() -> None:
    whole, first, second = detail.steps(ROW)
    assert (whole.name, whole.took) == ("whole request", "2.9 s")
    assert (first.name, first.tag, first.took, first.more) == (
        "1. gpt-4#1",
        Tag("http_500", "bad"),
        "600 ms",
        "",
    )
    assert (second.name, second.tag) == ("2. mini#1", Tag("answered", "ok"))
    assert (second.took, second.more) == ("300 ms", "+ 1.9 s streaming")


def test_rows_of_older_versions_have_no_times_of_attempts() -> None:
    old = [{"deployment": "a#1", "class": "busy", "status": 429, "ms": 5.0}]
    (_, step) = detail.steps(row(attempts=old, first_ms=None))
    assert step.tag == Tag("busy 429", "bad")
    assert detail.steps(row(status="held", total_ms=None, attempts=[])) == []


@given(
    *[st.integers(0, 10**7)] * 3,
    st.builds(Price, *[st.integers(0, 10**11)] * 2, cached_input=st.none() | st.integers(0, 10**11)),
)
def test_classes_add_up_to_what_was_booked(uncached: int, cached: int, completion: int, price: Price) -> None:
    usage = Usage(uncached + cached, completion, cached)
    booked = cost(usage, price)
    found = detail.cost_classes(
        row(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=completion,
            cached_tokens=cached,
            cost_usd=booked / 1e9,
        ),
        price,
    )
    assert bool(found) == (booked > 0)
    if found:
        assert sum(int(one.tokens.replace(",", "")) for one in found) == uncached + cached + completion


def test_another_price_than_the_booked_one_is_not_shown() -> None:
    assert [one.cost for one in detail.cost_classes(ROW, PRICE)] == ["$0.0000408", "$0.0002128"]
    assert detail.cost_classes(ROW, Price(1, 1)) == []
    assert detail.cost_classes(ROW, None) == []
    assert detail.cost_classes(row(cost_usd=None), PRICE) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, Tag("200 after 2", "warn")),
        ({"attempts": []}, Tag("200", "ok")),
        ({"status": "held"}, Tag("running", "info")),
        ({"status": "cancelled", "http_status": 499}, Tag("left")),
        ({"status": "error", "http_status": 429}, Tag("429", "bad")),
        ({"status": "error", "http_status": 200}, Tag("cut off", "bad")),
        ({"status": "error", "http_status": None}, Tag("failed", "bad")),
    ],
)
def test_outcomes(changed: dict[str, Any], expected: Tag) -> None:
    assert outcome(row(**changed)) == expected


def test_unknown_costs_and_running_requests_are_not_zero() -> None:
    rows = [row(), row(cost_usd=None), row(status="held", cost_usd=None), row(cost_usd=0.0, cache="hit")]
    priced, unpriced, running, cached = shown(rows, {"key_a": Key("key_a", "web", prefix="sk-abc")})
    assert (priced.cost, priced.asked, priced.model, priced.key_name) == (
        "$0.0003",
        "gpt-4",
        "mini",
        "sk-abc…",
    )
    assert unpriced.cost_tag == Tag("unpriced")
    assert (running.cost, running.took, running.tokens, running.cost_tag) == (
        words.NONE,
        words.NONE,
        None,
        None,
    )
    assert cached.cost_tag == Tag("cache", "info")


def test_messages_are_text_whatever_they_hold() -> None:
    content = {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {}}],
            },
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        ],
        "choices": [{"message": {"content": "one"}}, {"message": {"refusal": "no"}}],
    }
    found = detail.messages(content)
    assert [one.sender for one in found] == ["user", "assistant", "answer 1", "answer 2"]
    assert found[0].text.startswith("look\n\n{")
    assert '"id": "1"' in found[1].text
    assert [one.text for one in found[2:]] == ["one", "no"]
    assert detail.messages({"prompt": "def f(", "choices": []}) == [detail.Message("prompt", "def f(")]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_command_has_the_body_as_one_argument(text: str) -> None:
    command = detail.curl(row(content={"messages": [{"role": "user", "content": text}]}))
    arguments = shlex.split(command.replace("\\\n", " ", 3))
    assert orjson.loads(arguments[arguments.index("-d") + 1])["messages"][0]["content"] == text
    assert "Authorization: Bearer $PROXY_KEY" in command
    assert detail.curl(row(endpoint="responses")) == ""
