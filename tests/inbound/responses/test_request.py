"""The fields of a request: what each becomes in a chat, what is reported, refused and repeated in the answer."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.inbound.responses import RESPONSES
from codellama_proxy.openai_format.request import InferenceRequest
from tests.inbound.responses.answers import chunk, whole
from tests.support.cases import each

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def parse(**fields: Any) -> InferenceRequest:
    return RESPONSES.parse(orjson.dumps({"input": "Hi", **fields}), dict, "req_1", 0)


@each(
    ("fields", "params"),
    [
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
        ({"user": "u", "safety_identifier": "s"}, {"user": "u", "safety_identifier": "s"}),
        ({"prompt_cache_key": "k"}, {"prompt_cache_key": "k"}),
        ({"max_output_tokens": 5}, {"max_completion_tokens": 5}),
        ({"reasoning": {"effort": "low", "summary": "auto", "context": "x"}}, {"reasoning_effort": "low"}),
        ({"reasoning": {"effort": None}}, {}),
        ({"text": {"verbosity": "low"}}, {"verbosity": "low"}),
        ({"text": {"format": {"type": "text"}}}, {}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "strict": True, "schema": SCHEMA}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
                }
            },
        ),
        ({"top_logprobs": 2}, {"top_logprobs": 2, "logprobs": True}),
        ({"include": ["message.output_text.logprobs", "new"]}, {"logprobs": True}),
        ({"service_tier": "priority"}, {"service_tier": "priority"}),
        ({"truncation": "auto", "stream_options": {"include_obfuscation": False}}, {}),
        ({"previous_response_id": None, "background": False, "store": False, "temperature": None}, {}),
    ],
)
def test_a_field_becomes_that_of_a_chat(fields: dict[str, Any], params: dict[str, Any]) -> None:
    request = parse(**fields)
    assert request.params == params
    assert request.ignored == ()


def test_instructions_come_first() -> None:
    request = parse(instructions="Be brief.", input=[{"role": "developer", "content": "x"}])
    assert [message["role"] for message in request.messages] == ["system", "developer"]
    assert request.messages[0]["content"] == "Be brief."
    assert parse(instructions="Say hi.", input=[]).messages == [{"role": "system", "content": "Say hi."}]


@each("given", [None, "", []])
def test_an_empty_input_is_refused(given: Any) -> None:
    with pytest.raises(ProxyError) as refused:
        parse(input=given)
    assert (refused.value.code, refused.value.param) == ("missing_required_parameter", "input")


@each(
    ("name", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("conversation", "conv_1"),
        ("conversation", {"id": "conv_1"}),
        ("prompt", {"id": "pmpt_1"}),
        ("background", True),
    ],
)
def test_state_is_refused_with_advice(name: str, value: Any) -> None:
    with pytest.raises(ProxyError) as refused:
        parse(**{name: value})
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", name)
    assert "stores nothing" in refused.value.message


@each(
    "name",
    [
        *("moderation", "max_tool_calls", "client_metadata", "context_management", "background_options"),
        *("access_programs", "image", "new_field"),
    ],
)
def test_fields_without_a_counterpart_are_reported(name: str) -> None:
    request = parse(**{name: {"x": 1}})
    assert request.ignored == (name,)
    assert request.params == {}


def test_storing_is_accepted_reported_and_not_done() -> None:
    assert parse(store=True).ignored == ("store",)
    assert "store" not in parse(store=True).params
    assert whole({"input": "Hi", "store": True}, chunk(content="x"), chunk(finish="stop"))["store"] is False


@each(
    ("fields", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"input": 5}, "input"),
        ({"instructions": ["x"]}, "instructions"),
        ({"reasoning": "low"}, "reasoning"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort"),
        ({"text": {"verbosity": 5}}, "text.verbosity"),
        ({"text": {"format": "json"}}, "text.format"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"tools": {}}, "tools"),
        ({"model": ""}, "model"),
    ],
)
def test_a_wrong_field_is_refused_by_its_own_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ProxyError) as refused:
        parse(**fields)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_an_answer_repeats_the_request() -> None:
    tools = [{"type": "function", "name": "f", "parameters": {}}]
    body = {
        "model": "m",
        "input": "Hi",
        "instructions": "Be brief.",
        "temperature": 0.5,
        "max_output_tokens": 9,
        "metadata": {"a": "b"},
        "tools": tools,
        "tool_choice": "required",
        "reasoning": {"effort": "low"},
        "truncation": "auto",
        "user": "u",
    }
    answer = whole(body, chunk(content="Hello"), chunk(finish="stop"))
    for name in body.keys() - {"model", "input", "reasoning", "truncation"}:
        assert answer[name] == body[name]
    assert answer["reasoning"] == {"effort": "low", "summary": None}
    assert answer["text"] == {"format": {"type": "text"}}
    assert (answer["truncation"], answer["previous_response_id"]) == ("disabled", None)
    assert (answer["id"], answer["object"], answer["model"]) == ("resp_1", "response", "upstream-model")
    assert answer["status"] == "completed"
    assert answer["usage"] is None


@each(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_an_answer_that_was_cut_is_incomplete(finish: str, reason: str) -> None:
    answer = whole({"input": "Hi"}, chunk(content="Hel"), chunk(finish=finish))
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": reason}


def test_usage_has_its_details() -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
        "completion_tokens_details": {"reasoning_tokens": 15},
    }
    answer = whole({"input": "Hi"}, chunk(content="x"), chunk(finish="stop"), chunk(usage=usage))
    assert answer["usage"] == {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 15},
        "total_tokens": 120,
    }
