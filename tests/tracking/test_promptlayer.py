"""Whatever was asked and however it went, what PromptLayer is told obeys its rules and tells nothing else."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment, Secret, Tracking
from codellama_proxy.core.types import Attempt, Event, Failure, Usage
from codellama_proxy.inbound.openai import parse_completion, parse_embedding
from codellama_proxy.openai_format.request import parse_chat
from codellama_proxy.request.charge import RequestCharge
from codellama_proxy.request.context import RequestContext
from codellama_proxy.request.transcript import MAX_CONTENT_BYTES, Transcript
from codellama_proxy.tracking.promptlayer import record as promptlayer
from tests.support.cases import each
from tests.support.promptlayer import rules

AZURE = Deployment(
    "gpt#1", "gpt", "azure", "gpt-4.1", api_key=Secret("CANARY-KEY"), headers={"x": "CANARY-HEADER"}
)
TRACKING = Tracking(Secret("pl_CANARY"), promptlayer_tags=("gateway",))
DONE = RequestCharge(Usage(3, 4), "exact", 1_500)
OK = Attempt("gpt#1", None, 10.0)

text = st.text(max_size=4)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2),
    max_leaves=4,
)
parts = st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": text})
    | st.fixed_dictionaries(
        {"type": st.sampled_from(["image_url", "input_audio", "odd"]), "image_url": json_values}
    ),
    max_size=2,
)
calls = st.dictionaries(st.sampled_from(["id", "type", "function", "custom"]), json_values, max_size=3)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant"]), "content": text | parts},
    optional={
        "name": json_values,
        "refusal": json_values,
        "reasoning": json_values,
        "function_call": json_values,
        "tool_calls": st.lists(calls, max_size=2),
    },
)
requests = st.fixed_dictionaries(
    {"messages": st.lists(messages, min_size=1, max_size=2)},
    optional={
        "metadata": st.dictionaries(text, json_values, max_size=3)
        | st.fixed_dictionaries(dict.fromkeys(sorted(promptlayer.TRACKING_KEYS), json_values)),
        "tools": st.lists(st.dictionaries(st.sampled_from(["type", "function"]), json_values), max_size=2),
        "user": text,
        "temperature": st.floats(0, 2),
        "tool_choice": st.sampled_from(["auto", "none"]),
    },
)


def a_trace(body: dict[str, Any] | None = None, answer_text: str = "hello", **given: Any) -> RequestContext:
    chat = parse_chat(orjson.dumps(body or {"prompt": "hi"}))
    transcript = Transcript()
    choice = {"index": 0, "message": {"role": "assistant", "content": answer_text}, "finish_reason": "stop"}
    transcript.add([Event(orjson.dumps({"choices": [choice]}))])
    values: dict[str, Any] = {
        "id": "req_1",
        "started": 5.0,
        "ended": 6.25,
        "created_at": 1_795_341_600.0,
        "endpoint": "chat/completions",
        "config": "0123456789ab",
        "request": chat,
        "sent": chat,
        "serving": AZURE,
        "tried": AZURE,
        "attempts": [OK],
        "complete": True,
        "transcript": transcript,
    }
    return RequestContext(**values | given)


def record_of(
    trace: RequestContext, tracking: Tracking = TRACKING, done: RequestCharge = DONE
) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(promptlayer.record(trace, done, tracking))
    assert rules.log_request(body) == []
    return body


@settings(max_examples=100)
@given(requests, st.booleans())
def test_any_request_becomes_a_valid_record(body: dict[str, Any], content: bool) -> None:
    record_of(a_trace(body), replace(TRACKING, promptlayer_content=content))


@given(st.text(min_size=1))
def test_without_content_a_record_has_no_text(answer_text: str) -> None:
    word = f"CANARY{answer_text}"
    body = {
        "messages": [{"role": "user", "content": word}],
        "stop": [word],
        "tools": [{"type": "function", "function": {"name": word}}],
        "metadata": {"prompt_name": "t", "prompt_input_variables": {"v": word}},
    }
    failure = ProxyError("upstream_rejected", word)
    for trace in (a_trace(body, word), a_trace(body, word, complete=False, error=failure)):
        quiet = replace(TRACKING, promptlayer_content=False)
        assert b"CANARY" not in promptlayer.record(trace, DONE, quiet)


def test_a_record_has_no_key_or_header() -> None:
    assert b"CANARY" not in promptlayer.record(a_trace(), DONE, TRACKING)


def test_times_cost_tokens_and_names_match_the_ledger() -> None:
    body = record_of(a_trace(upstream_model="gpt-4.1-2026"))
    assert body["request_start_time"] == "2026-11-22T10:00:00.000000+00:00"
    assert body["request_end_time"] == "2026-11-22T10:00:01.250000+00:00"
    assert (body["provider"], body["model"]) == ("openai.azure", "gpt-4.1-2026")
    assert (body["input_tokens"], body["output_tokens"], body["price"]) == (3, 4, 1.5e-6)
    assert "price" not in record_of(a_trace(), done=RequestCharge(Usage(), "exact", None))
    assert "score" not in body


def test_our_metadata_overrides_the_clients() -> None:
    body = record_of(a_trace({"prompt": "x", "metadata": {"request_id": "forged", "mine": {"a": 1}}}))
    assert body["metadata"]["request_id"] == "req_1"
    assert body["metadata"]["mine"] == '{"a":1}'


def test_tool_calls_and_results_are_recorded() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    answer = {"role": "tool", "tool_call_id": "c1", "content": "42"}
    asked = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}, answer]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    body = record_of(a_trace({"messages": asked, "tools": tools}))
    assert body["input"]["messages"][1] == {"role": "assistant", "content": [], "tool_calls": [call]}
    assert body["input"]["messages"][2]["tool_call_id"] == "c1"
    assert body["input"]["tools"] == tools


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], ["[2 token ids]"]),
        ([[1], [2, 3]], ["[1 token ids]", "[2 token ids]"]),
    ],
)
def test_other_requests_are_recorded_as_completions(prompt: Any, shown: list[str]) -> None:
    chat = parse_completion(orjson.dumps({"prompt": prompt}))
    body = record_of(a_trace(endpoint="completions", request=chat, sent=chat))
    assert body["api_type"] == "completions"
    assert [block["text"] for block in body["input"]["content"]] == shown
    assert [block["text"] for block in body["output"]["content"]] == ["hello"]


def test_embeddings_have_an_input_and_an_empty_output() -> None:
    chat = parse_embedding(orjson.dumps({"input": "CANARY"}))
    trace = a_trace(endpoint="embeddings", request=chat, sent=chat, transcript=None)
    body = record_of(trace)
    assert (body["input"]["content"][0]["text"], body["output"]["content"]) == ("CANARY", [])
    assert b"CANARY" not in promptlayer.record(trace, DONE, replace(TRACKING, promptlayer_content=False))


def test_images_are_recorded_as_images() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,x", "detail": "low"}}
    body = record_of(a_trace({"messages": [{"role": "user", "content": [image]}]}))
    (block,) = body["input"]["messages"][0]["content"]
    assert block == {"type": "image_url", "image_url": {"url": "data:,x"}}


def test_an_oversized_prompt_is_omitted_but_counted() -> None:
    body = record_of(a_trace({"prompt": "x" * (MAX_CONTENT_BYTES + 1)}))
    assert len(orjson.dumps(body)) < 5_000
    assert body["input"]["messages"][0]["content"][0]["text"] == promptlayer.TOO_LARGE
    assert body["input_tokens"] == 3


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (Failure("busy", 429), "PROVIDER_RATE_LIMIT"),
        (Failure("credential", 401), "PROVIDER_AUTH_ERROR"),
        (Failure("credential", 429, reason="insufficient_quota"), "PROVIDER_QUOTA_LIMIT"),
        (Failure("transient", None, "upstream_timeout", reason="first_token_timeout"), "PROVIDER_TIMEOUT"),
        (Failure("transient", 500), "PROVIDER_ERROR"),
        (Failure("disguised", 200), "PROVIDER_ERROR"),
    ],
)
def test_a_failure_has_promptlayers_error_type(failure: Failure, kind: str) -> None:
    failed = Attempt("gpt#1", failure, 1.0)
    error = ProxyError("upstream_error", "It failed.")
    lost = record_of(a_trace(attempts=[failed], complete=False, serving=None, error=error))
    assert (lost["status"], lost["error_type"], lost["error_message"]) == ("ERROR", kind, "It failed.")
    assert lost["output"]["messages"] == []
    rescued = record_of(a_trace(attempts=[failed, OK]))
    assert (rescued["status"], rescued["error_type"]) == ("WARNING", kind)


def test_a_cancelled_answer_is_a_warning_with_the_received_text() -> None:
    body = record_of(a_trace(complete=False, gone=True, answer_text="half an ans"))
    assert (body["status"], body["error_type"]) == ("WARNING", "PROVIDER_PARTIAL_RESPONSE")
    assert body["output"]["messages"][0]["content"][0]["text"] == "half an ans"


def test_a_broken_stream_is_an_error_with_the_received_text() -> None:
    error = ProxyError("upstream_error", "It broke.")
    body = record_of(
        a_trace(complete=False, error=error, attempts=[Attempt("gpt#1", Failure("transient"), 1.0)])
    )
    assert (body["status"], body["error_type"]) == ("ERROR", "PROVIDER_PARTIAL_RESPONSE")
    assert body["output"]["messages"]


@each(
    ("given", "shown"),
    [("3", 3), (3, 3), ("0", None), (-1, None), ("x", None), (True, None), (None, None), ("٣", None)],
)
def test_a_template_version_is_positive_or_absent(given: Any, shown: int | None) -> None:
    metadata = {"prompt_name": "t", "prompt_version": given}
    assert record_of(a_trace({"prompt": "x", "metadata": metadata})).get("prompt_version_number") == shown


def test_the_body_overrides_headers() -> None:
    hints = {"x-promptlayer-tags": "h", "x-promptlayer-prompt-name": "of-header"}
    body = record_of(a_trace({"prompt": "x", "metadata": {"pl_tags": "a, b,,a"}}, hints=hints))
    assert body["tags"] == ["gateway", "a", "b"]
    assert body["prompt_name"] == "of-header"
