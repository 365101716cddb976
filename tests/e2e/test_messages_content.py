"""Content of Messages requests over sockets, as coding agents send it to upstreams of other dialects."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from tests.e2e.test_messages import BOTH, HELLO, TOOL, created
from tests.support.anthropic_client import anthropic_error, anthropic_of
from tests.support.dialects import cohere_server, native_server
from tests.support.dialects.loopback import Server, serving
from tests.support.proxy_process import GUARDRAIL, Proxy, ProxyFactory, config
from tests.support.upstream.process import PRICE, Upstream

if TYPE_CHECKING:
    from anthropic import Anthropic

BILLING = "x-anthropic-billing-header: cc_version=2.1.207; cc_entrypoint=cli; cch=0a1b2;"
PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
        "0000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
    )
).decode()
IMAGE: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
PDF: Any = {
    "type": "document",
    "source": {
        "type": "base64",
        "media_type": "application/pdf",
        "data": base64.b64encode(b"%PDF-1.4\n").decode(),
    },
}
SEARCH: Any = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
COUNTS = 40
"""Requests that Claude Code sends at once to count the tokens of its context."""
DEVICE = '{"device_id":"device-1","account_uuid":"","session_id":"%s"}'


@pytest.fixture(scope="module")
def cohere() -> Iterator[Server]:
    with serving(cohere_server.answer) as one:
        yield one


@pytest.fixture(scope="module")
def native() -> Iterator[Server]:
    with native_server.native_server() as one:
        yield one


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, cohere: Server, native: Server, module_proxy: ProxyFactory) -> Proxy:
    model = upstream_process.model
    return module_proxy(
        config(
            model("plain", "say=hello there"),
            model("calling", "shell"),
            model("empty", "call=Bash{}"),
            model("several", "tools"),
            model("reasoning", "reasoning"),
            {
                "name": "command",
                "provider": "cohere",
                "base_url": f"{cohere.url}/v2",
                "api_key": cohere_server.KEY,
                "model": "command-a",
                "price": PRICE,
                "fallbacks": [],
            },
            {
                "name": "claude",
                "provider": "anthropic",
                "base_url": f"{native.url}/v1",
                "api_key": "sk-upstream-secret-key",
                "model": "claude-opus-5-5",
                "price": PRICE,
                "fallbacks": [],
            },
            model("down", "status=500"),
            {
                "name": "chain",
                "provider": "anthropic",
                "base_url": f"{native.url}/v1",
                "api_key": "sk-upstream-secret-key",
                "model": "claude-opus-5-5",
                "price": PRICE,
                "fallbacks": ["down", "command"],
            },
            {"name": "mock", "provider": "mock"},
            limits={"user": {"rpm_limit": 2}},
        )
    )


@pytest.fixture
def client(served: Proxy) -> Iterator[Anthropic]:
    with anthropic_of(served) as one:
        yield one


def again(message: Any) -> dict[str, Any]:
    """The turn as a client repeats it."""
    return {"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in message.content]}


def result(call: Any, content: Any = "from-the-shell-42", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call.id, "content": content, **more}


def raw(
    served: Proxy, path: str = "", /, headers: dict[str, str] | None = None, **body: Any
) -> httpx2.Response:
    whole = {"model": "plain", "max_tokens": 50, "messages": HELLO, **body}
    shown = served.auth if headers is None else headers
    return served.client.post(f"/v1/messages{path}", json=whole, headers=shown)


def tool(name: str) -> dict[str, Any]:
    return {**TOOL, "name": name}


# --- tools -------------------------------------------------------------------------------------------------------


@BOTH
def test_a_result_of_a_tool_is_read(client: Anthropic, streamed: bool) -> None:
    talk: Any = [{"role": "user", "content": "Run it"}]
    shell: Any = {
        "name": "Bash",
        "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}},
    }
    first = created(client, streamed, model="calling", messages=talk, tools=[shell])
    assert first.stop_reason == "tool_use"
    call = first.content[-1]
    talk += [again(first), {"role": "user", "content": [result(call)]}]
    second = created(client, streamed, model="calling", messages=talk, tools=[shell])
    assert second.content[0].text == "The tool returned from-the-shell-42."
    assert second.stop_reason == "end_turn"


@BOTH
def test_a_tool_of_cohere_is_called_and_its_result_is_read(
    client: Anthropic, cohere: Server, streamed: bool
) -> None:
    talk: Any = [{"role": "user", "content": "weather"}]
    first = created(client, streamed, model="command", messages=talk, tools=[tool("get_weather")])
    assert first.stop_reason == "tool_use"
    call = first.content[-1]
    assert (call.name, call.input) == ("get_weather", {"city": "Oslo"})
    asked = {"type": "text", "text": "and now?"}
    talk += [again(first), {"role": "user", "content": [result(call, "sunny"), asked]}]
    second = created(client, streamed, model="command", messages=talk, tools=[tool("get_weather")])
    assert second.content[0].text == "You said: and now?"
    roles = [one["role"] for one in cohere.asked[-1].body["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "user"]
    assert cohere.asked[-1].body["messages"][0]["content"] == GUARDRAIL
    assert not cohere.refused


@BOTH
def test_a_call_without_arguments_has_an_empty_input(client: Anthropic, streamed: bool) -> None:
    message = created(client, streamed, model="empty", tools=[tool("Bash")])
    assert message.content[-1].input == {}


@BOTH
def test_parallel_calls_have_the_names_of_the_client(
    client: Anthropic, upstream: Upstream, streamed: bool
) -> None:
    names = ["get.weather", "mcp__" + "a" * 80, "mcp__" + "a" * 81, "plain_name"]
    message = created(client, streamed, model="several", tools=[tool(name) for name in names])
    assert [block.name for block in message.content] == names
    assert [block.input["call"] for block in message.content] == [0, 1, 2, 3]
    sent = [one["function"]["name"] for one in upstream.journal.bodies()[-1]["tools"]]
    assert len(set(sent)) == 4
    assert all(len(name) <= 64 and "." not in name for name in sent)


def test_results_may_be_text_blocks_empty_or_errors(client: Anthropic, upstream: Upstream) -> None:
    calls = [{"type": "tool_use", "id": f"toolu_{at}", "name": "Read", "input": {}} for at in range(5)]
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_0", "content": "one"},
        {
            "type": "tool_result",
            "tool_use_id": "toolu_1",
            "content": [{"type": "text", "text": "two"}, IMAGE],
        },
        {"type": "tool_result", "tool_use_id": "toolu_2"},
        {"type": "tool_result", "tool_use_id": "toolu_3", "content": "File not found", "is_error": True},
        {
            "type": "tool_result",
            "tool_use_id": "toolu_4",
            "content": [{"type": "tool_reference", "tool_name": "Grep"}],
        },
    ]
    talk: Any = [*HELLO, {"role": "assistant", "content": calls}, {"role": "user", "content": results}]
    created(client, False, model="plain", messages=talk, tools=[tool("Read")])
    sent = upstream.journal.bodies()[-1]["messages"]
    told = [one["content"] for one in sent if one["role"] == "tool"]
    assert told[:4] == ["one", "two", "(no output)", "Error: File not found"]
    assert "Grep" in told[4]
    assert sent[-1]["role"] == "user"
    assert [part["type"] for part in sent[-1]["content"]] == ["text", "image_url"]


def test_web_search_is_left_out_among_others_and_refused_alone(
    served: Proxy, client: Anthropic, upstream: Upstream
) -> None:
    both = raw(served, tools=[SEARCH, tool("Read")])
    assert both.status_code == 200, both.text
    assert both.headers["x-proxy-dropped-params"] == "tools.web_search"
    assert [one["function"]["name"] for one in upstream.journal.bodies()[-1]["tools"]] == ["Read"]
    with pytest.raises(anthropic_error("BadRequestError")) as alone:
        created(client, False, model="plain", tools=[SEARCH])
    assert "web_search" in str(alone.value)
    assert alone.value.response.headers["x-should-retry"] == "false"


# --- blocks ------------------------------------------------------------------------------------------------------


def test_images_and_documents_of_users_are_sent(client: Anthropic, upstream: Upstream) -> None:
    talk: Any = [{"role": "user", "content": [IMAGE, PDF, {"type": "text", "text": "What is it?"}]}]
    created(client, False, model="plain", messages=talk)
    parts = upstream.journal.bodies()[-1]["messages"][-1]["content"]
    assert [part["type"] for part in parts] == ["image_url", "file", "text"]
    assert parts[0]["image_url"]["url"] == f"data:image/png;base64,{PIXEL}"
    assert parts[1]["file"]["file_data"].startswith("data:application/pdf;base64,")


@BOTH
def test_thinking_that_comes_back_reaches_no_provider_with_our_signature(
    client: Anthropic, upstream: Upstream, native: Server, streamed: bool
) -> None:
    first = created(client, streamed, model="reasoning")
    thinking = first.content[0]
    assert thinking.signature.startswith("clp1.")
    talk = [*HELLO, again(first), {"role": "user", "content": "Go on"}]
    created(client, streamed, model="plain", messages=talk)
    created(client, streamed, model="claude", messages=talk)
    assert "clp1." not in str(upstream.journal.bodies()[-1])
    assert "clp1." not in str(native.body)
    assert thinking.thinking not in str(native.body)


@pytest.mark.parametrize("system", ["Be brief.", [{"type": "text", "text": "Be brief."}]])
def test_every_form_of_a_system_prompt_follows_the_guardrail(
    client: Anthropic, upstream: Upstream, system: Any
) -> None:
    created(client, False, model="plain", system=system)
    created(client, False, model="plain", messages=[{"role": "system", "content": "Be brief."}, *HELLO])
    for body in upstream.journal.bodies()[-2:]:
        texts = [one["content"] for one in body["messages"]]
        assert texts == [GUARDRAIL, "Be brief.", "Say hello"]


def test_the_billing_header_stays_first_at_anthropic_and_reaches_no_other_provider(
    client: Anthropic, upstream: Upstream, native: Server
) -> None:
    system: Any = [{"type": "text", "text": BILLING}, {"type": "text", "text": "Be brief."}]
    created(client, False, model="plain", system=system)
    assert "billing" not in str(upstream.journal.bodies()[-1])
    created(client, False, model="claude", system=system)
    assert [block["text"] for block in native.body["system"]] == [BILLING, GUARDRAIL, "Be brief."]


def test_unknown_fields_betas_and_blocks_are_left_out_and_reported(served: Proxy, upstream: Upstream) -> None:
    strange = {"type": "a_new_block", "data": "x"}
    talk = [*HELLO, {"role": "assistant", "content": [strange, {"type": "text", "text": "Hello."}]}, *HELLO]
    betas = {**served.auth, "anthropic-beta": "a-new-thing-2027-01-01"}
    answer = raw(served, headers=betas, messages=talk, a_new_field={"on": True})
    assert answer.status_code == 200, answer.text
    reported = answer.headers["x-proxy-dropped-params"]
    assert "a_new_field" in reported
    assert "a_new_block" in reported
    assert "a_new" not in str(upstream.journal.bodies()[-1])


@BOTH
def test_a_request_falls_back_over_three_dialects(served: Proxy, client: Anthropic, streamed: bool) -> None:
    message = created(client, streamed, model="chain", messages=[{"role": "user", "content": "overloaded"}])
    assert [block.text for block in message.content] == ["You said: overloaded"]
    assert message.stop_reason == "end_turn"
    row = served.row(message.id.removeprefix("msg_"))
    assert (row["model_requested"], row["model"], row["status"]) == ("chain", "command", "ok")
    failed = [(one["deployment"], one["class"]) for one in row["attempts"]]
    assert [name for name, _ in failed][-1] == "command#1"
    assert {"down#1"} <= {name for name, _ in failed}


# --- who asks ----------------------------------------------------------------------------------------------------


def test_the_sessions_of_a_device_are_one_user(served: Proxy) -> None:
    statuses = [raw(served, metadata={"user_id": DEVICE % f"session-{at}"}).status_code for at in range(3)]
    assert statuses == [200, 200, 429]
    assert {row["user"] for row in served.rows() if row["user"]} == {"device-1"}


def test_either_credential_is_enough(served: Proxy) -> None:
    key = {"x-api-key": served.key}
    assert raw(served, headers=key).status_code == 200
    assert raw(served, headers={**key, **served.auth}).status_code == 200
    for headers in ({}, {"x-api-key": "sk-other"}):
        for path in ("", "/count_tokens"):
            refused = raw(served, path, headers=headers)
            assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
            assert refused.headers["x-should-retry"] == "false"
            assert refused.headers["request-id"] == refused.json()["request_id"]


@pytest.mark.parametrize("model", ["plain", "claude"])
def test_forty_counts_at_once_take_no_rate_and_leave_no_row(served: Proxy, model: str) -> None:
    key = served.new_key(rpm_limit=1)
    with anthropic_of(served, api_key=key["key"]) as client, ThreadPoolExecutor(COUNTS) as pool:

        def count(at: int) -> int:
            talk: Any = [{"role": "user", "content": f"foo {at}"}]
            return client.messages.count_tokens(model=model, messages=talk, tools=[tool("Read")]).input_tokens

        counted = list(pool.map(count, range(COUNTS)))
        assert min(counted) > 20
        with pytest.raises(anthropic_error("NotFoundError")):
            client.messages.count_tokens(model="nobody", messages=HELLO)
        created(client, False, model=model)
    assert len([row for row in served.rows() if row["key_id"] == key["key_id"]]) == 1
