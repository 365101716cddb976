"""Failures, silence and usage as clients of the Messages and the Responses API see them, over sockets."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx2
import pytest

from tests.support.anthropic_client import anthropic_error, anthropic_of
from tests.support.openai_client import openai_error, openai_of
from tests.support.processes import until
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.short_timeout_server import PATIENCE
from tests.support.upstream.process import Upstream

if TYPE_CHECKING:
    from anthropic import Anthropic
    from openai import OpenAI

HELLO: Any = [{"role": "user", "content": "Say hello"}]
OVERFLOWS = {
    "openai": (
        "code=context_length_exceeded;message=This model's maximum context length is 8192 tokens. However, "
        "your messages resulted in 9000 tokens. Please reduce the length of the messages."
    ),
    "vllm": (
        "type=BadRequestError;message=This model's maximum context length is 8192 tokens. However, you requested "
        "9000 tokens in the messages, Please reduce the length of the messages."
    ),
}
ERRORS = {
    "caller": ("BadRequestError", 400, "invalid_request_error"),
    "credential": ("InternalServerError", 502, "api_error"),
    "busy": ("RateLimitError", 429, "rate_limit_error"),
    "down": ("InternalServerError", 502, "api_error"),
    "late": ("InternalServerError", 504, "timeout_error"),
}
"""Model -> the SDK's exception, the status and the type of the error."""
MAX_BODY_BYTES = 100_000
NOT_AGAIN = {"caller", "credential", "down", "late"}


def overflow(words: str) -> str:
    words = ";".join(
        f"{name}={quote(value)}" for name, _, value in (w.partition("=") for w in words.split(";"))
    )
    return f"status=400;{words}"


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    model = upstream_process.model
    return module_proxy(
        config(
            model("plain", "say=hello there;usage=100,7,40"),
            model("patch", 'call=apply_patch{"input":"*** Begin Patch"}'),
            model("runs", 'call=run{"city":"Oslo"}'),
            model("uncounted", "say=hello there;no_usage"),
            model("cut", "finish=length;say=def f("),
            model("filtered", "finish=content_filter;say=I"),
            model("broken", "error_event_after=2;every=0.02"),
            model("long", "tokens=2000;every=0.05"),
            model("silent", "tokens=4;gate=2"),
            model("quiet", "tokens=4;gate=2"),
            model("stalled", "tokens=4;stall=2", timeouts={"idle": "1500ms"}),
            model("caller", "status=400;message=bad"),
            model("credential", "status=401"),
            model("busy", "status=429;retry_after=7"),
            model("down", "status=500"),
            model("late", "hang", timeouts={"first_token": "300ms", "answer": "300ms"}),
            *(model(name, overflow(words)) for name, words in OVERFLOWS.items()),
            server={"max_body": MAX_BODY_BYTES},
        ),
        module="tests.support.short_timeout_server",
    )


@pytest.fixture
def claude(served: Proxy) -> Iterator[Anthropic]:
    with anthropic_of(served) as one:
        yield one


@pytest.fixture
def gpt(served: Proxy) -> Iterator[OpenAI]:
    with openai_of(served) as one:
        yield one


def newest(served: Proxy, model: str) -> dict[str, Any]:
    """The newest row of a model, settled."""

    def found() -> list[dict[str, Any]]:
        rows = [row for row in served.rows() if row["model_requested"] == model]
        return rows[:1] if rows and rows[0]["status"] != "held" else []

    return until(found, f"a settled row of {model}")[0]


def ask(client: Anthropic, model: str, **more: Any) -> Any:
    return client.messages.create(model=model, max_tokens=50, messages=HELLO, **more)


def events(served: Proxy, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of a stream, until the client leaves."""
    with served.client.stream("POST", path, json={**body, "stream": True}, headers=served.auth) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def message_events(served: Proxy, model: str) -> Iterator[dict[str, Any]]:
    return events(served, "/v1/messages", {"model": model, "max_tokens": 50, "messages": HELLO})


def response_events(served: Proxy, model: str) -> Iterator[dict[str, Any]]:
    return events(served, "/v1/responses", {"model": model, "input": "Say hello"})


each_stream = pytest.mark.parametrize("streamed_by", [message_events, response_events])
Streamed = Callable[[Proxy, str], Iterator[dict[str, Any]]]


# --- errors before the answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ERRORS)
@pytest.mark.parametrize("streamed", [False, True])
def test_errors_of_upstreams_have_the_type_that_the_sdk_expects(
    claude: Anthropic, model: str, streamed: bool
) -> None:
    name, status, kind = ERRORS[model]
    with pytest.raises(anthropic_error(name)) as raised:
        ask(claude, model, stream=streamed)
    failed: Any = raised.value
    assert (failed.status_code, failed.body["type"], failed.body["error"]["type"]) == (status, "error", kind)
    headers = failed.response.headers
    assert headers["request-id"] == headers["x-request-id"] == failed.body["request_id"] == failed.request_id
    assert (headers.get("x-should-retry") == "false") is (model in NOT_AGAIN)
    assert headers.get("retry-after") == ("7" if model == "busy" else None)


def test_a_rate_limit_and_an_exhausted_budget_are_told_apart_by_the_advice_to_retry(served: Proxy) -> None:
    limited = served.new_key(rpm_limit=0)["key"]
    poor = served.new_key(max_budget=0.000001)["key"]
    for key, again in ((limited, None), (poor, "false")):
        with (
            anthropic_of(served, api_key=key) as client,
            pytest.raises(anthropic_error("RateLimitError")) as raised,
        ):
            ask(client, "plain")
        failed: Any = raised.value
        assert failed.body["error"]["type"] == "rate_limit_error"
        assert failed.response.headers.get("x-should-retry") == again


def test_a_body_that_is_too_large_has_a_type_of_its_own(claude: Anthropic) -> None:
    with pytest.raises(anthropic_error("RequestTooLargeError")) as raised:
        ask(claude, "plain", system="x" * MAX_BODY_BYTES)
    assert raised.value.body["error"]["type"] == "request_too_large"  # type: ignore[attr-defined]


@pytest.mark.parametrize("model", OVERFLOWS)
def test_a_full_context_window_is_said_as_agents_expect_it(
    claude: Anthropic, gpt: OpenAI, model: str
) -> None:
    with pytest.raises(anthropic_error("BadRequestError")) as raised:
        ask(claude, model)
    failed: Any = raised.value
    assert failed.body["error"]["message"].startswith("prompt is too long: ")
    with pytest.raises(openai_error("BadRequestError"), match="maximum context length") as other:
        gpt.responses.create(model=model, input="Say hello")
    assert other.value.code == "context_length_exceeded"  # type: ignore[attr-defined]


# --- failures in a stream ----------------------------------------------------------------------------------------


@each_stream
def test_a_broken_stream_has_no_end_and_is_booked(served: Proxy, streamed_by: Streamed) -> None:
    kinds = [event["type"] for event in streamed_by(served, "broken")]
    assert kinds[-1] in ("error", "response.failed")
    assert not {"message_stop", "message_delta", "response.completed"} & set(kinds)
    row = newest(served, "broken")
    assert row["status"] == "error"
    assert row["prompt_tokens"] > 0
    assert row["completion_tokens"] > 0
    assert row["cost_usd"] > 0


@each_stream
def test_a_client_that_leaves_closes_the_upstream(
    served: Proxy, upstream: Upstream, streamed_by: Streamed
) -> None:
    stream = streamed_by(served, "long")
    until(lambda: "delta" in next(stream)["type"], "text")
    stream.close()  # type: ignore[attr-defined]
    row = newest(served, "long")
    assert row["status"] == "cancelled"
    assert row["prompt_tokens"] > 0
    assert 0 < row["completion_tokens"] < 2000
    (asked,) = upstream.journal.requests("long")
    until(lambda: upstream.journal.closed(asked["request"]), "the upstream is closed")


def test_silence_carries_pings(served: Proxy, upstream: Upstream) -> None:
    kinds = []
    for event in message_events(served, "silent"):
        kinds.append(event["type"])
        if kinds.count("ping") == 2:
            upstream.open_gate("silent")
    assert "ping" in kinds
    assert kinds[-1] == "message_stop"


def test_the_sdk_passes_over_pings(claude: Anthropic, upstream: Upstream) -> None:
    opened = threading.Timer(3 * PATIENCE.heartbeat, lambda: upstream.open_gate("quiet"))
    with claude.messages.stream(model="quiet", max_tokens=50, messages=HELLO) as stream:
        opened.start()
        assert "".join(stream.text_stream).count("quiet-") == 4


@each_stream
def test_pings_do_not_keep_a_dead_upstream_alive(served: Proxy, streamed_by: Streamed) -> None:
    assert [event["type"] for event in streamed_by(served, "stalled")][-1] in ("error", "response.failed")
    assert newest(served, "stalled")["status"] == "error"


# --- usage and ends ----------------------------------------------------------------------------------------------


def test_usage_is_known_from_the_start_and_booked_as_shown(served: Proxy) -> None:
    begun, *rest = message_events(served, "plain")
    assert begun["message"]["usage"]["input_tokens"] > 0
    usage = next(event["usage"] for event in rest if event["type"] == "message_delta")
    row = newest(served, "plain")
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == row["prompt_tokens"] == 100
    assert usage["output_tokens"] == row["completion_tokens"] == 7


@pytest.mark.parametrize("streamed", [False, True])
def test_usage_that_no_upstream_reported_is_estimated(served: Proxy, gpt: OpenAI, streamed: bool) -> None:
    if streamed:
        with gpt.responses.stream(model="uncounted", input="Say hello") as stream:
            usage: Any = stream.get_final_response().usage
    else:
        usage = gpt.responses.create(model="uncounted", input="Say hello").usage
    row = newest(served, "uncounted")
    assert row["basis"] == "estimated"
    assert (usage.input_tokens, usage.output_tokens) == (row["prompt_tokens"], row["completion_tokens"])
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens > 0


@pytest.mark.parametrize(("model", "reason"), [("cut", "max_output_tokens"), ("filtered", "content_filter")])
@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_was_cut_is_incomplete(gpt: OpenAI, model: str, reason: str, streamed: bool) -> None:
    if streamed:
        *_, last = response_events_of(gpt, model)
        assert last.type == "response.incomplete"
        response = last.response
    else:
        response = gpt.responses.create(model=model, input="Say hello")
    assert (response.status, response.incomplete_details.reason) == ("incomplete", reason)


def response_events_of(client: OpenAI, model: str) -> list[Any]:
    with client.responses.stream(model=model, input="Say hello") as stream:
        return list(stream)


# --- Responses: what agents send ---------------------------------------------------------------------------------


def respond(served: Proxy, **body: Any) -> httpx2.Response:
    return served.client.post(
        "/v1/responses", json={"model": "plain", "input": "hi", **body}, headers=served.auth
    )


def test_hosted_tools_and_unknown_options_are_left_out(served: Proxy, upstream: Upstream) -> None:
    function = {"type": "function", "name": "run", "parameters": {"type": "object", "properties": {}}}
    answer = respond(
        served,
        tools=[{"type": "web_search"}, {"type": "image_generation", "output_format": "png"}, function],
        truncation="auto",
        include=["a.new.thing", "reasoning.encrypted_content"],
        text={
            "verbosity": "low",
            "format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}},
        },
        reasoning={"effort": "high", "summary": "auto"},
        store=True,
        a_new_field=1,
    )
    assert answer.status_code == 200, answer.text
    assert {"tools.web_search", "tools.image_generation"} <= {
        *answer.headers["x-proxy-dropped-params"].split(",")
    }
    sent = upstream.journal.bodies()[-1]
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["run"]
    assert sent["response_format"]["type"] == "json_schema"
    assert not {"store", "a_new_field", "include", "truncation"} & sent.keys()


FUNCTION: Any = {
    "type": "function",
    "name": "run",
    "strict": False,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
ROUND_TRIPS: Any = {
    "patch": (
        {
            "type": "custom",
            "name": "apply_patch",
            "format": {"type": "grammar", "syntax": "lark", "definition": "x"},
        },
        {"type": "custom_tool_call", "name": "apply_patch", "input": "*** Begin Patch"},
    ),
    "runs": (
        {"type": "namespace", "name": "mcp__maps", "description": "Maps", "tools": [FUNCTION]},
        {"type": "function_call", "name": "run", "namespace": "mcp__maps", "arguments": '{"city":"Oslo"}'},
    ),
}
"""Model -> a tool that chats do not have, and the expected call."""


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("model", ROUND_TRIPS)
def test_tools_that_chats_do_not_have_are_called_and_their_outputs_are_read(
    gpt: OpenAI, model: str, streamed: bool
) -> None:
    tool, expected = ROUND_TRIPS[model]
    items: Any = [{"role": "user", "content": "Do it"}]

    def asked() -> Any:
        if not streamed:
            return gpt.responses.create(model=model, input=items, tools=[tool])
        with gpt.responses.stream(model=model, input=items, tools=[tool]) as stream:
            return stream.get_final_response()

    first = asked()
    call = first.output[-1].model_dump(exclude_none=True)
    assert {name: call.get(name) for name in expected} == expected
    output = {"type": f"{expected['type']}_output", "call_id": call["call_id"], "output": "done-42"}
    items += [*(item.model_dump(exclude_none=True) for item in first.output), output]
    assert "done-42" in asked().output_text


@pytest.mark.parametrize(
    "stored",
    [
        {"previous_response_id": "resp_1"},
        {"previous_response_id": "resp_of_another_project"},
        {"conversation": "conv_1"},
        {"background": True},
        {"prompt": {"id": "pmpt_1"}},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]},
    ],
    ids=str,
)
def test_state_is_refused_before_anything_is_sent(
    served: Proxy, upstream: Upstream, stored: dict[str, Any]
) -> None:
    answer = respond(served, **stored)
    assert answer.status_code == 400
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["code"] == "unsupported_parameter"
    assert not upstream.journal.requests()
