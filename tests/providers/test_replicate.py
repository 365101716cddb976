"""Replicate's dialect: each model has its own words, and a conversation may have to become one text."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from codellama_proxy.config.build import freeze
from codellama_proxy.config.model_schema import PromptFormat
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import Usage
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.providers.replicate import predictions as replicate
from codellama_proxy.providers.replicate.models import FORMS, MODELS
from tests.support.builders import chat, deployment
from tests.support.cases import each
from tests.support.client_fold import chunks, read
from tests.support.dialects.replicate import METRICS, PIECES, event, prediction, whole
from tests.support.dialects.sent import HISTORY, IDLE, WEATHER, assert_refused

STREAMED = chat(stream=True, include_usage=True)
HEX = "0123456789abcdef" * 4
SYSTEM = {"role": "system", "content": "Only code."}
QUESTION = {"role": "user", "content": "Hello?"}
TALK = [SYSTEM, QUESTION, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Sort."}]
LLAMA2_TALK = "[INST] <<SYS>>\nOnly code.\n<</SYS>>\n\nHello? [/INST] Hi. [INST] Sort. [/INST]"


def entry(model: str = "owner/name", **changes: Any) -> Deployment:
    return deployment(provider="replicate", base_url=None, model=model, **changes)


def body(here: Deployment, messages: Any = None, **params: Any) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(
        replicate.to_request(chat(messages=messages or [SYSTEM, QUESTION], params=params), here).body
    )
    return found


def sent(model: str, messages: Any = None, **params: Any) -> Any:
    """The input of a prediction."""
    return body(entry(model), messages, **params)["input"]


@pytest.mark.parametrize(
    ("model", "path", "version"),
    [
        ("meta/llama-3", "/models/meta/llama-3/predictions", None),
        (f"owner/name:{HEX}", "/predictions", HEX),
        (HEX, "/predictions", HEX),
        ("deployments/us/fast", "/deployments/us/fast/predictions", None),
        ("odd/na me?x#y", "/models/odd/na%20me%3Fx%23y/predictions", None),
    ],
)
def test_models_versions_and_deployments_have_their_urls(model: str, path: str, version: str | None) -> None:
    found = replicate.to_request(chat(), entry(model))
    assert found.url == "https://api.replicate.com/v1" + path
    assert orjson.loads(found.body).get("version") == version
    assert found.headers["authorization"] == "Bearer sk-upstream-secret"
    assert "stream" not in orjson.loads(found.body)


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("owner/name", {"prompt": "Only code.\n\nHello?"}),
        ("meta/meta-llama-3-70b-instruct", {"system_prompt": "Only code.", "prompt": "Hello?"}),
        ("meta/llama-2-70b-chat", {"system_prompt": "Only code.", "prompt": "Hello?"}),
        (
            "meta/codellama-34b-instruct",
            {"prompt": "[INST] <<SYS>>\nOnly code.\n<</SYS>>\n\nHello? [/INST]"},
        ),
        ("google/gemini-2.5-flash", {"system_instruction": "Only code.", "prompt": "Hello?"}),
        ("anthropic/claude-4-sonnet", {"system_prompt": "Only code.", "prompt": "Hello?"}),
        ("openai/gpt-5", {"messages": [SYSTEM, QUESTION]}),
    ],
)
def test_the_guardrail_is_in_the_models_system_input(model: str, wanted: dict[str, Any]) -> None:
    assert sent(model) == wanted
    assert sent("elsewhere/tuned", None) == {"prompt": "Only code.\n\nHello?"}
    assert body(entry("mine/tuned", base_model=model))["input"] == wanted


def test_a_conversation_becomes_one_prompt() -> None:
    assert sent("owner/name", TALK)["prompt"] == (
        "System: Only code.\n\nUser: Hello?\n\nAssistant: Hi.\n\nUser: Sort.\n\nAssistant:"
    )
    assert sent("meta/codellama-7b", TALK)["prompt"] == LLAMA2_TALK
    chatml = entry(extra=freeze({"prompt_format": "chatml"}))
    assert body(chatml, TALK)["input"]["prompt"] == (
        "<|im_start|>system\nOnly code.<|im_end|>\n<|im_start|>user\nHello?<|im_end|>\n"
        "<|im_start|>assistant\nHi.<|im_end|>\n<|im_start|>user\nSort.<|im_end|>\n<|im_start|>assistant\n"
    )
    llama2 = entry(extra=freeze({"prompt_format": "llama2"}))
    assert body(llama2, TALK)["input"]["prompt"] == LLAMA2_TALK
    assert body(llama2, [QUESTION])["input"]["prompt"] == "Hello?"


def test_a_system_message_without_a_user_message_is_kept() -> None:
    for form, text in [
        ("plain", "System: Only code.\n\nAssistant:"),
        ("llama2", "[INST] <<SYS>>\nOnly code.\n<</SYS>> [/INST]"),
        ("chatml", "<|im_start|>system\nOnly code.<|im_end|>\n<|im_start|>assistant\n"),
    ]:
        here = entry(extra=freeze({"prompt_format": form}))
        assert body(here, [SYSTEM])["input"]["prompt"] == text


def test_system_messages_are_merged_with_the_guardrail_first() -> None:
    late = {
        "role": "developer",
        "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}],
    }
    found = sent("meta/meta-llama-3-8b", [SYSTEM, QUESTION, late])
    assert found == {"system_prompt": "Only code.\n\nBe\nbrief.", "prompt": "Hello?"}
    assert sent("openai/gpt-5", [late])["messages"] == [{**late, "role": "system"}]


@each(
    ("model", "params", "wanted"),
    [
        ("owner/name", IDLE, {}),
        ("owner/name", {"max_tokens": 5, "seed": 7, "top_k": 3}, {"max_tokens": 5, "seed": 7, "top_k": 3}),
        ("openai/gpt-5", {"max_tokens": 5}, {"max_completion_tokens": 5}),
        ("openai/gpt-5", {"max_completion_tokens": 5}, {"max_completion_tokens": 5}),
        ("openai/gpt-5", {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ("meta/llama-2-7b-chat", {"max_completion_tokens": 5}, {"max_new_tokens": 5}),
        ("meta/llama-2-7b-chat", {"temperature": 0}, {"temperature": 0.01}),
        ("meta/meta-llama-3-8b", {"temperature": 0}, {"temperature": 0}),
        ("meta/meta-llama-3-8b", {"presence_penalty": 1}, {"presence_penalty": 1}),
        ("meta/meta-llama-3-8b", {"stop": "END"}, {"stop_sequences": "END"}),
        ("meta/meta-llama-3-8b", {"stop": ["A", "B"]}, {"stop_sequences": "A,B"}),
        ("owner/name", {"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
    ],
)
def test_parameters_have_the_models_input_names(
    model: str, params: dict[str, Any], wanted: dict[str, Any]
) -> None:
    found = sent(model, **params)
    assert {
        name: v for name, v in found.items() if name not in ("prompt", "system_prompt", "messages")
    } == wanted


@each(
    ("name", "value"),
    [
        ("tools", [WEATHER]),
        ("functions", [{"name": "f"}]),
        ("n", 2),
        ("logprobs", True),
        ("logit_bias", {"1": 2}),
        ("response_format", {"type": "json_object"}),
        ("presence_penalty", 0.5),
        ("reasoning_effort", "low"),
        ("stop", ["a,b"]),
    ],
)
def test_unsupported_parameters_are_refused_or_reported(name: str, value: Any) -> None:
    assert_refused("replicate", name, value)


@pytest.mark.parametrize(
    "name",
    [
        "system_prompt",
        "system_instruction",
        "prompt_template",
        "System",
        "pre_prompt",
        "instructions",
        "image",
    ],
)
def test_clients_cannot_replace_the_guardrail(name: str) -> None:
    for model in ("owner/name", "meta/meta-llama-3-8b", "openai/gpt-5", "anthropic/claude-4"):
        if name == "image" and "claude" not in model:
            continue
        with pytest.raises(ProxyError) as caught:
            sent(model, **{name: "{prompt}"})
        assert (caught.value.code, caught.value.param) == ("unsupported_parameter", name)
        kept = body(entry(model, drop_params=True), **{name: "{prompt}"})["input"]
        assert kept == sent(model)


@pytest.mark.parametrize("name", ["max_new_tokens", "max_length", "max_output_tokens", "num_outputs"])
def test_clients_cannot_bypass_max_tokens(name: str) -> None:
    for model in ("owner/name", "meta/llama-2-7b-chat"):
        with pytest.raises(ProxyError) as caught:
            sent(model, max_tokens=5, **{name: 100_000})
        assert (caught.value.code, caught.value.param) == ("unsupported_parameter", name)


def test_only_the_entry_may_set_the_prompt_format() -> None:
    here = entry(params={"prompt_template": "[{prompt}]"})
    assert body(here, prompt_template="[{prompt}]")["input"]["prompt_template"] == "[{prompt}]"
    with pytest.raises(ProxyError):
        body(here, prompt_template="{other}")


def test_input_map_overrides_the_known_names() -> None:
    own = freeze(
        {
            "input_map": {
                "max_tokens": "length",
                "stop": "stop",
                "system": "instructions",
                "prompt": "text",
                "temperature": None,
                "min_p": "least_p",
            }
        }
    )
    here = entry("meta/meta-llama-3-8b", extra=own)
    found = body(here, max_tokens=5, stop="END", min_p=0.1)["input"]
    assert found == {
        "instructions": "Only code.",
        "text": "Hello?",
        "length": 5,
        "stop": ["END"],
        "least_p": 0.1,
    }
    with pytest.raises(ProxyError) as caught:
        body(here, temperature=0.5)
    assert caught.value.param == "temperature"


def test_images_are_sent_in_the_models_image_input() -> None:
    def picture(name: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": f"https://x.example/{name}"}}

    looked = {"role": "user", "content": [{"type": "text", "text": "Look."}, picture("a")]}
    assert sent("anthropic/claude-4", [looked]) == {"prompt": "Look.", "image": "https://x.example/a"}
    several = entry(extra=freeze({"input_map": {"image": "image_input"}}))
    two = {"role": "user", "content": [picture("a"), picture("b")]}
    assert body(several, [two])["input"]["image_input"] == ["https://x.example/a", "https://x.example/b"]
    for model, message, param in [
        ("owner/name", looked, "messages[0].content[1].type"),
        ("anthropic/claude-4", two, "messages"),
    ]:
        with pytest.raises(ProxyError) as caught:
            sent(model, [message])
        assert (caught.value.status, caught.value.param) == (400, param)


def test_tools_in_the_conversation_are_refused_with_their_position() -> None:
    for at, history in [(2, HISTORY[:3]), (0, HISTORY[3:])]:
        with pytest.raises(ProxyError) as caught:
            sent("openai/gpt-5", history)
        assert (caught.value.status, caught.value.param) == (400, f"messages[{at}]")


def test_streams_are_not_cancelled_by_replicate() -> None:
    found = replicate.to_request(STREAMED, entry())
    assert not {"prefer", "cancel-after"} & found.headers.keys()


# --- answers -------------------------------------------------------------------------------------------------


def test_an_answer_matches_the_expected_json() -> None:
    raw = orjson.dumps(prediction("succeeded", list(PIECES)))
    assert orjson.loads(replicate.parse_response(raw, chat(), entry()).body) == {
        "id": "chatcmpl-req_1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "owner/name",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "".join(PIECES)},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 20,
            "completion_tokens": 7,
            "total_tokens": 27,
            "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


@pytest.mark.parametrize(
    ("metrics", "usage"),
    [
        (METRICS, Usage(20, 7)),
        ({"predict_time": 3}, None),
        ({"input_token_count": 1}, Usage(1)),
        ({"input_token_count": "1", "output_token_count": 2}, Usage(1, 2)),
        (None, None),
    ],
)
def test_usage_is_read_from_the_metrics(metrics: Any, usage: Usage | None) -> None:
    found = prediction("succeeded", "x", metrics=metrics)
    assert replicate.parse_response(orjson.dumps(found), chat(), entry()).usage == usage
    events, complete = read(replicate, [whole(found)], STREAMED, entry())
    assert complete
    assert [e.usage for e in events if e.usage] == ([usage] if usage else [])


@pytest.mark.parametrize("output", [{}, 5, [1], ["a", {}]])
def test_an_output_that_is_not_text_fails(output: Any) -> None:
    with pytest.raises(AttemptError):
        replicate.parse_response(orjson.dumps(prediction("succeeded", output)), chat(), entry())


@pytest.mark.parametrize("output", [None, [], "", [None, ""]])
def test_an_answer_without_text_is_empty(output: Any) -> None:
    raw = orjson.dumps(prediction("succeeded", output))
    choice = orjson.loads(replicate.parse_response(raw, chat(), entry()).body)["choices"][0]
    assert choice["message"]["content"] == ""


@pytest.mark.parametrize("status", ["starting", "processing", "canceled", "aborted", "odd", None])
def test_an_unsuccessful_prediction_fails(status: Any) -> None:
    with pytest.raises(AttemptError) as caught:
        replicate.parse_response(orjson.dumps(prediction(status, "x")), chat(), entry())
    assert caught.value.failure.cls == "disguised"


def test_whitespace_is_kept() -> None:
    raw = event("output", "  two") + event("output", "\n") + event("output", "a\n\nb ") + event("done", "{}")
    shown = chunks(read(replicate, [raw], STREAMED, entry())[0])
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in shown) == "  two\na\n\nb "


def test_a_completed_prediction_adds_only_the_missing_text() -> None:
    raw = event("output", "Hello") + event("done", "{}")
    for late in (prediction("processing", ["Hel"]), prediction("succeeded", ["Hello", " again"])):
        events, complete = read(replicate, [raw + whole(late)], STREAMED, entry())
        assert complete
        assert [e.text for e in events if e.text] == ["Hello"]
        assert len([e for e in events if e.finish_reason]) == 1


def test_output_that_contradicts_the_stream_is_ignored() -> None:
    raw = event("output", "Hello") + whole(prediction("succeeded", ["Good bye"]))
    events, _ = read(replicate, [raw], STREAMED, entry())
    assert [e.text for e in events if e.text] == ["Hello"]


names = st.sampled_from(["output", "done", "error", "whole", "logs", ""])
strange = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["detail", "reason", "error"]), inner, max_size=2)
    ),
    max_leaves=4,
)
predictions = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["starting", "processing", "succeeded", "failed"]) | strange,
        "output": st.lists(st.text(max_size=2), max_size=2) | strange,
        "metrics": strange,
        "error": strange,
    },
)


@given(st.lists(st.tuples(names, predictions | strange), max_size=5))
def test_arbitrary_json_causes_at_most_a_failed_attempt(stream_events: list[Any]) -> None:
    raw = b"".join(
        b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(one)) for name, one in stream_events
    )
    with suppress(AttemptError):
        events, complete = read(replicate, [raw], STREAMED, entry())
        assert complete == bool([e for e in events if e.finish_reason])
    for _, one in stream_events:
        with suppress(AttemptError):
            replicate.parse_response(orjson.dumps(one), chat(), entry())


def test_every_prompt_format_of_the_schema_is_implemented() -> None:
    named = TypeAdapter(PromptFormat).json_schema()["enum"]
    assert set(named) == FORMS.keys()
    assert {known.prompt_format for known in MODELS.values()} <= FORMS.keys()
