"""Relays as pure functions: what is sent, and what events an answer becomes."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Guardrail, Project
from codellama_proxy.core.sse import Frame
from codellama_proxy.core.types import Event, HttpRequest, Usage
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.inbound.messages import MESSAGES
from codellama_proxy.inbound.openai import OPENAI_DIALECTS
from codellama_proxy.inbound.responses import RESPONSES
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.policy.deployment_request import DeploymentRequests
from codellama_proxy.policy.project_rules import ProjectRules
from codellama_proxy.providers.registry import OPENAI_PROFILES, RELAYS, adapter_of, relays_of
from tests.support.builders import chat, deployment
from tests.support.cases import each
from tests.support.dialects import anthropic, native_server, responses
from tests.support.frames import frames

GUARDRAIL = Guardrail("Only code.")
RULES = ProjectRules(GUARDRAIL, Project("p"))
CLAUDE = deployment(provider="anthropic", model="claude-sonnet-4-5", relays=frozenset({"messages"}))
GPT = deployment(provider="openai", model="gpt-5.5", relays=frozenset({"responses"}))
CODEX = deployment(provider="openai", model="gpt-5.1-codex-max", relays=frozenset({"responses"}))
DIALECTS = {"messages": MESSAGES, "responses": RESPONSES}
TURN = {"role": "user", "content": "hi"}


def here(
    dialect: str, body: dict[str, Any], to: Any, bound: int | None = None, **headers: str
) -> InferenceRequest:
    shown = {name.replace("_", "-"): value for name, value in headers.items()}
    parsed = DIALECTS[dialect].parse(orjson.dumps(body), lambda: shown, "req_1", 0, None)
    return DeploymentRequests(parsed, RULES).at(to).to_send(bound, budgeted=False)[0]


def sent(
    dialect: str, body: dict[str, Any], to: Any, bound: int | None = None, **headers: str
) -> HttpRequest:
    request = here(dialect, body, to, bound, **headers)
    return adapter_of(request, to).to_request(request, to)


def claude(bound: int | None = None, to: Any = CLAUDE, **body: Any) -> dict[str, Any]:
    found = sent("messages", {"model": "m", "max_tokens": 9000, "messages": [TURN], **body}, to, bound)
    return orjson.loads(found.body)  # type: ignore[no-any-return]  # JSON


def read(dialect: str, stream: bytes, to: Any, **body: Any) -> list[Event]:
    request = here(dialect, {"model": "m", "stream": True, **body}, to)
    adapter, state, events = adapter_of(request, to), None, []
    for frame in frames(stream):
        state, more = adapter.parse_stream(state, frame, request, to)
        events += more
    assert state.complete
    return events


# --- what is relayed ---------------------------------------------------------------------------------------------


def test_only_providers_of_a_dialect_relay_it() -> None:
    assert relays_of(deployment(provider="anthropic")) == {"messages"}
    assert relays_of(deployment(provider="azure")) == {"responses"}
    assert relays_of(deployment(provider="azure", extra={"api_version": "2024-10-21"})) == frozenset()
    assert relays_of(deployment(provider="openai_compatible")) == frozenset()
    assert set(RELAYS["responses"]) == {name for name, row in OPENAI_PROFILES.items() if row.responses}


def test_other_deployments_get_no_native_form() -> None:
    for to in (deployment(), GPT):
        assert here("messages", {"model": "m", "messages": [TURN]}, to).native is None
    assert here("responses", {"model": "m", "input": "hi"}, CLAUDE).native is None


# --- Messages ----------------------------------------------------------------------------------------------------


def test_max_tokens_is_the_smallest_bound() -> None:
    assert claude()["max_tokens"] == 9000
    assert claude(bound=500)["max_tokens"] == 500
    assert claude(max_tokens=200_000)["max_tokens"] == 64_000
    body = {"model": "m", "messages": [TURN]}
    assert orjson.loads(sent("messages", body, CLAUDE).body)["max_tokens"] == CLAUDE.max_output_tokens


def test_the_thinking_budget_stays_below_max_tokens() -> None:
    thinking = {"type": "enabled", "budget_tokens": 8000, "display": "omitted"}
    assert claude(thinking=thinking)["thinking"] == thinking
    assert claude(bound=3000, thinking=thinking)["thinking"] == {**thinking, "budget_tokens": 2999}
    assert "thinking" not in claude(bound=1000, thinking=thinking)
    body = {"model": "m", "max_tokens": 4000, "messages": [TURN], "thinking": thinking}
    beta = {"anthropic_beta": "interleaved-thinking-2025-05-14"}
    assert orjson.loads(sent("messages", body, CLAUDE, **beta).body)["thinking"] == thinking
    assert (
        orjson.loads(sent("messages", body, CLAUDE, 3000, **beta).body)["thinking"]["budget_tokens"] == 2999
    )


BETAS = (
    ("a-2025-01-01, b-2", "a-2025-01-01,b-2"),
    ("files-api-2025-04-14,a", "a"),
    ("fast-mode-2026-01-01,skills-2025-10-02,mcp-client-2025-04-04", None),
    ("server-side-fallback-2026-01-01", None),
    ("bad name,\u00e9,a", "a"),
    ("a,a", "a"),
    (",".join(f"b{at}" for at in range(50)), ",".join(f"b{at}" for at in range(32))),
)


@each("case", BETAS)
def test_betas_pass_but_for_those_that_reach_others(case: tuple[str, str | None]) -> None:
    given, passed = case
    body = {"model": "m", "max_tokens": 9, "messages": [TURN]}
    found = sent("messages", body, CLAUDE, anthropic_beta=given)
    assert found.headers.get("anthropic-beta") == passed
    assert found.url.endswith("/v1/messages?beta=true" if passed else "/v1/messages")


@each("field", ("betas", "anthropic_beta"))
@each(
    "given", (["a-2", "files-api-2025-04-14", "fast-mode-2026-01-01"], "a-2,files-api-2025-04-14", [5, "a-2"])
)
def test_betas_of_the_body_pass_in_the_header_by_the_same_rule(field: str, given: Any) -> None:
    body = {"model": "m", "max_tokens": 9, "messages": [TURN], field: given}
    found = sent("messages", body, CLAUDE, anthropic_beta="b-1")
    assert found.headers["anthropic-beta"] == "b-1,a-2"
    assert field not in orjson.loads(found.body)
    assert found.dropped == (("anthropic-beta",) if "files-api-2025-04-14" in given else ())


@each("field", ("betas", "anthropic_beta"))
@each("to", (CLAUDE, deployment(provider="openai_compatible")))
def test_refused_betas_of_chats_are_left_out_and_reported(field: str, to: Any) -> None:
    for given, passed in ((["a-2", "Fast-Mode-2026-01-01"], ["a-2"]), (["skills-2025-10-02"], None)):
        body = {"model": "m", "messages": [TURN], field: given}
        parsed = OPENAI_DIALECTS["chat/completions"].parse(orjson.dumps(body), dict, "req_1", 0, None)
        assert (parsed.params.get(field), parsed.ignored) == (passed, (field,))
    here = DeploymentRequests(parsed, RULES).at(to).to_send(None, budgeted=False)[0]
    found = adapter_of(here, to).to_request(here, to)
    assert "anthropic-beta" not in found.headers
    assert b"skills" not in found.body
    assert found.dropped == (field,)


def test_headers_of_the_api_pass_but_for_those_about_the_account() -> None:
    given = {
        "anthropic_version": "2030-01-01",
        "anthropic_new": "x",
        "anthropic_workspace_id": "w",
        "anthropic_organization": "o",
        "anthropic_odd": "\u00e9",
        "session_id": "s",
    }
    found = sent("messages", {"model": "m", "max_tokens": 9, "messages": [TURN]}, CLAUDE, **given).headers
    ours = {"content-type", "anthropic-version", "x-api-key"}
    assert set(found) == ours | {"anthropic-new"}
    assert found["anthropic-version"] == "2030-01-01"
    own = deployment(
        provider="anthropic",
        relays=CLAUDE.relays,
        headers={"anthropic-version": "2023-06-01", "anthropic-beta": "own"},
        params={"betas": ["entry"]},
    )
    found = sent("messages", {"model": "m", "messages": [TURN]}, own, anthropic_beta="a", **given).headers
    assert (found["anthropic-version"], found["anthropic-beta"]) == ("2023-06-01", "a,entry,own")


def test_frames_pass_and_the_first_block_is_the_commit_point() -> None:
    events = read("messages", native_server.THINKING_STREAM, CLAUDE, max_tokens=9, messages=[TURN])
    assert b"".join(event.raw for event in events) == native_server.THINKING_STREAM
    first = next(event for event in events if event.content)
    assert b"content_block_start" in first.raw
    usages = [event.usage for event in events if event.usage is not None]
    assert usages[-1] == anthropic.DIALOGUE.usage
    text = "First thoughtSome text.Second thoughtget_weather" + '{"city":"Oslo"}'
    assert "".join(event.text for event in events) == text
    assert [event.finish_reason for event in events if event.finish_reason] == ["tool_calls"]


def test_frames_without_a_name_get_one() -> None:
    stream = b"".join(b"data: %s\n\n" % frame.data for frame in frames(native_server.THINKING_STREAM))
    events = read("messages", stream, CLAUDE, max_tokens=9, messages=[TURN])
    assert b"".join(event.raw for event in events) == native_server.THINKING_STREAM


@each("error", anthropic.DIALOGUE.errors)
def test_error_events_are_failures(error: bytes) -> None:
    with pytest.raises(AttemptError):
        read("messages", error, CLAUDE, max_tokens=9, messages=[TURN])


def test_a_whole_answer_passes_as_bytes() -> None:
    body = anthropic.whole("end_turn", {"type": "text", "text": "hi"}) + b"\n"
    request = here("messages", {"model": "m", "max_tokens": 9, "messages": [TURN]}, CLAUDE)
    event = adapter_of(request, CLAUDE).parse_response(body, request, CLAUDE)
    assert (event.raw, event.text, event.usage) == (body, "hi", anthropic.DIALOGUE.usage)


def test_frames_that_clients_cannot_read_are_left_out() -> None:
    broken = b'event: ping\ndata: {"type"\n\n' + b"event: content_block_stop\ndata: \n\n"
    events = read(
        "messages", broken + native_server.THINKING_STREAM + broken, CLAUDE, max_tokens=9, messages=[TURN]
    )
    assert b"".join(event.raw for event in events) == native_server.THINKING_STREAM


def test_an_end_without_any_answer_is_a_failure() -> None:
    with pytest.raises(AttemptError) as caught:
        read("messages", b'data: {"type":"message_stop"}\n\n', CLAUDE, max_tokens=9, messages=[TURN])
    assert caught.value.failure.cls == "disguised"


@each("prefix", [b"\xef\xbb\xbf", b""])
@each("text", [b"hi", "h\xed".encode(), b"h\xff"])
def test_a_whole_answer_passes_in_valid_utf_8(prefix: bytes, text: bytes) -> None:
    body = anthropic.whole("end_turn", {"type": "text", "text": "TEXT"}).replace(b"TEXT", text)
    request = here("messages", {"model": "m", "max_tokens": 9, "messages": [TURN]}, CLAUDE)
    event = adapter_of(request, CLAUDE).parse_response(prefix + body, request, CLAUDE)
    assert event.raw.decode() == body.decode("utf-8", "replace")


# --- Responses ---------------------------------------------------------------------------------------------------


def test_a_response_request_has_its_bound_and_is_not_stored() -> None:
    body = {"model": "m", "store": True, "input": "hi", "max_output_tokens": 500}
    found = orjson.loads(sent("responses", body, GPT).body)
    assert found == {**body, "model": "gpt-5.5", "store": False, "instructions": "Only code."}
    assert list(found)[:4] == list(body)
    assert orjson.loads(sent("responses", body, GPT, 100).body)["max_output_tokens"] == 100
    del body["max_output_tokens"]
    assert "max_output_tokens" not in orjson.loads(sent("responses", body, GPT).body)
    assert "openai-beta" not in sent("responses", body, GPT, openai_beta="x", session_id="s").headers


@each("items", ((), native_server.ITEMS, (responses.web_search(0), responses.message("Found.", 1))))
def test_response_frames_pass(items: Any) -> None:
    stream = responses.stream(*items)
    events = read("responses", stream, GPT, input="hi")
    assert b"".join(event.raw for event in events) == stream
    first = next(event for event in events if event.content)
    assert b"output_item.added" in first.raw or not items
    usage = [event.usage for event in events if event.usage is not None][-1]
    assert usage[:5] == (20, 7, 4, 3, 2)
    assert dict(usage.tool_calls) == (
        {"web_search": 1} if items and items[0]["type"] == "web_search_call" else {}
    )


def test_items_that_did_not_come_in_pieces_are_read_from_the_end() -> None:
    items = native_server.ITEMS
    whole = "A thoughtSome text.Anotherget_weather" + '{"city": "Oslo"}'
    only_end = responses.events(*responses.begun(), responses.ended(items))
    only_done = responses.events(
        *responses.begun(),
        *(
            {"type": "response.output_item.done", "output_index": at, "item": item}
            for at, item in enumerate(items)
        ),
        responses.ended(items),
    )
    for stream in (responses.stream(*items), only_end, only_done):
        events = read("responses", stream, GPT, input="hi")
        assert "".join(event.text for event in events) == whole


@each(
    "case",
    (
        ("completed", {}, "stop"),
        ("incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ("incomplete", {"incomplete_details": {"reason": "content_filter"}}, "content_filter"),
    ),
)
def test_the_end_of_a_response(case: tuple[str, dict[str, Any], str]) -> None:
    status, more, reason = case
    item = responses.message("hi")
    events = read("responses", responses.stream(item, status=status, **more), GPT, input="hi")
    assert [event.finish_reason for event in events if event.finish_reason] == [reason]
    request = here("responses", {"model": "m", "input": "hi"}, GPT)
    whole = responses.whole(item, status=status, **more)
    event = adapter_of(request, GPT).parse_response(whole, request, GPT)
    assert (event.raw, event.text, event.finish_reason) == (whole, "hi", reason)
    assert event.usage == Usage(20, 7, 4, 3, 2)


def test_a_failed_response_is_a_failure_with_its_usage() -> None:
    error = {"code": "rate_limit_exceeded", "message": "Slow down at 10.0.0.7"}
    stream = responses.events(*responses.begun(), responses.ended((), "failed", error=error))
    with pytest.raises(AttemptError) as failed:
        read("responses", stream, GPT, input="hi")
    failure = failed.value.failure
    assert (failure.cls, failure.usage) == ("busy", Usage(20, 7, 4, 3, 2))
    request = here("responses", {"model": "m", "input": "hi"}, GPT)
    with pytest.raises(AttemptError):
        adapter_of(request, GPT).parse_response(responses.whole(status="failed", error=error), request, GPT)


# --- chats with models of /responses -----------------------------------------------------------------------------


@each(
    "model",
    (
        "gpt-5-codex",
        "gpt-5.1-codex-mini",
        "gpt-5-pro-2025-10-06",
        "o1-pro",
        "o3-deep-research",
        "codex-mini-latest",
    ),
)
def test_models_of_responses_only(model: str) -> None:
    one = deployment(provider="openai", model=model, relays=GPT.relays)
    assert adapter_of(chat(), one).to_request(chat(), one).url.endswith("/responses")


@each("model", ("gpt-5.5", "gpt-4o", "o3", "gpt-5.1-chat-latest", "prod-gpt", "codex"))
def test_other_models_serve_chats(model: str) -> None:
    one = deployment(provider="openai", model=model, relays=GPT.relays)
    assert adapter_of(chat(), one).to_request(chat(), one).url.endswith("/chat/completions")


def codex(*messages: Any, drop: bool = False, **params: Any) -> dict[str, Any]:
    to = (
        CODEX
        if not drop
        else deployment(provider="openai", model="gpt-5-pro", relays=GPT.relays, drop_params=True)
    )
    request = chat(messages=messages or [TURN], params=params)
    return orjson.loads(adapter_of(request, to).to_request(request, to).body)  # type: ignore[no-any-return]  # JSON


def test_a_conversation_becomes_items() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    image = {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}}
    found = codex(
        {"role": "system", "content": "Only code."},
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Look"}, image]},
        {"role": "assistant", "content": "Hm.", "tool_calls": [call], "reasoning_content": "secret"},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
    )
    assert found["instructions"] == "Only code."
    assert found["input"] == [
        {"type": "message", "role": "developer", "content": "Be brief."},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Look"},
                {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"},
            ],
        },
        {"type": "message", "role": "assistant", "content": "Hm."},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
    ]
    assert found["store"] is False


def test_parameters_get_their_names() -> None:
    function = {"name": "f", "parameters": {"type": "object"}}
    schema = {"name": "s", "schema": {}, "strict": True}
    found = codex(
        max_tokens=5,
        reasoning_effort="low",
        verbosity="high",
        response_format={"type": "json_schema", "json_schema": schema},
        tools=[{"type": "function", "function": function}],
        tool_choice={"type": "function", "function": {"name": "f"}},
        user="u" * 80,
        service_tier="flex",
        store=True,
        temperature=1,
    )
    assert "temperature" not in found
    assert (found["max_output_tokens"], found["reasoning"]) == (16, {"effort": "low"})
    assert found["text"] == {"verbosity": "high", "format": {"type": "json_schema", **schema}}
    assert found["tools"] == [{"type": "function", **function, "strict": False}]
    assert found["tool_choice"] in ("required", {"type": "function", "name": "f"})
    assert (len(found["user"]), found["service_tier"], found["store"]) == (64, "flex", False)


def test_hints_of_other_dialects_are_dropped_where_the_model_refuses_them() -> None:
    body = {"model": "m", "max_tokens": 9, "messages": [TURN], "temperature": 0.2, "top_k": 5}
    found = sent("messages", body, CODEX)
    assert found.url.endswith("/responses")
    assert not {"temperature", "top_k"} & orjson.loads(found.body).keys()
    assert found.dropped == ("temperature",)


@each("name", ("stop", "seed", "n", "logit_bias", "presence_penalty", "web_search_options", "prediction"))
def test_what_the_api_does_not_have_is_refused_or_dropped(name: str) -> None:
    value: Any = {"stop": ["x"], "n": 2, "seed": 1, "presence_penalty": 1}.get(name, {"1": 1})
    with pytest.raises(ProxyError) as refused:
        codex(**{name: value})
    assert refused.value.param == name
    assert name not in codex(drop=True, **{name: value})


def test_frames_of_other_kinds_are_ignored() -> None:
    request = chat(stream=True)
    for frame in (Frame(b"", "ping"), Frame(b'{"type": "keepalive"}'), Frame(b"[DONE]")):
        state, events = adapter_of(request, CODEX).parse_stream(None, frame, request, CODEX)
        assert (state.done, list(events)) == (False, [])


def test_the_last_event_may_have_as_many_parts_as_a_whole_answer() -> None:
    item = responses.message("{}" * 30_000)
    stream = responses.events(*responses.begun(), responses.ended((item,)))
    events = read("responses", stream, GPT, input="hi")
    assert "".join(event.text for event in events) == "{}" * 30_000
