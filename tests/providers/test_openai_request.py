"""Requests in OpenAI's dialect: what each provider's row of the table makes of them."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.inbound.messages.request import SOFT as MESSAGES_SOFT
from codellama_proxy.inbound.responses.request import SOFT as RESPONSES_SOFT
from codellama_proxy.openai_format.parameters import CHAT_PARAMETERS, IGNORABLE, NEUTRAL_DEFAULTS
from codellama_proxy.providers.openai.profiles import OPENAI_PROFILES
from codellama_proxy.providers.openai.request import is_unchanged, translated_params
from codellama_proxy.providers.openai.unchanged_params import unchanged_params
from codellama_proxy.providers.registry import ADAPTERS
from tests.support.builders import chat, deployment
from tests.support.cases import each
from tests.support.dialogues import call

to_request = ADAPTERS["openai"].to_request

PARAMS: dict[str, Any] = {
    "temperature": 0.2,
    "top_p": 0.9,
    "n": 2,
    "stop": ["END"],
    "seed": 7,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "top_logprobs": 3,
    "max_tokens": 100,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "tool_choice": "required",
    "response_format": {"type": "json_object"},
    "reasoning_effort": "low",
    "user": "u-1",
    "store": False,
    "service_tier": "auto",
    "top_k": 40,
    "chat_template_kwargs": {"thinking": True},
}


def sent(provider: str, *, model: str = "m-upstream", drop: bool = False, **params: Any) -> HttpRequest:
    entry = deployment(provider=provider, base_url=None, drop_params=drop, model=model)
    return to_request(chat(params=params), entry)


def body(provider: str, **params: Any) -> dict[str, Any]:
    """The parameters as they are sent."""
    found: dict[str, Any] = orjson.loads(sent(provider, **params).body)
    del found["model"], found["messages"]
    return found


def messages(provider: str, *conversation: dict[str, Any]) -> list[dict[str, Any]]:
    found = orjson.loads(to_request(chat(messages=conversation), deployment(provider=provider)).body)
    return found["messages"]  # type: ignore[no-any-return]  # JSON


def test_a_request_matches_the_expected_json() -> None:
    asked = chat(stream=True, params=PARAMS, metadata={"ticket": "42", "pl_tags": ["a"]})
    found = to_request(asked, deployment(provider="vllm", base_url="http://10.0.0.9:8000/v1/"))
    assert found.url == "http://10.0.0.9:8000/v1/chat/completions"
    assert found.method == "POST"
    assert found.headers == {
        "content-type": "application/json",
        "authorization": "Bearer sk-upstream-secret",
    }
    assert found.dropped == ()
    assert orjson.loads(found.body) == {
        "model": "m-upstream",
        "messages": asked.messages,
        **{name: value for name, value in PARAMS.items() if name not in IGNORABLE},
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_without_a_key_no_authorization_is_sent() -> None:
    assert "authorization" not in to_request(chat(), deployment(api_key=None)).headers


@each("provider", sorted(OPENAI_PROFILES))
def test_usage_is_requested_where_supported(provider: str) -> None:
    here = deployment(provider=provider)
    streamed = orjson.loads(to_request(chat(stream=True), here).body)
    assert streamed["stream"] is True
    assert (streamed.get("stream_options") == {"include_usage": True}) is (provider != "mistral")
    whole = orjson.loads(to_request(chat(), here).body)
    assert "stream" not in whole
    assert "stream_options" not in whole


@each(("provider", "url"), [(name, d.base_url) for name, d in OPENAI_PROFILES.items() if not d.azure])
def test_every_provider_has_its_url(provider: str, url: str | None) -> None:
    assert sent(provider).url == (url or "") + "/chat/completions"
    assert url is None or url.startswith("https://") or "localhost" in url or provider == "mock"


@each(
    ("provider", "model", "given_as", "sent_as"),
    [
        ("openai", "gpt-4.1", "max_tokens", "max_tokens"),
        ("openai", "gpt-4.1", "max_completion_tokens", "max_completion_tokens"),
        *(
            ("openai", model, "max_tokens", "max_completion_tokens")
            for model in ("o1", "o3-mini", "o4-mini", "gpt-5", "gpt-5.1-mini", "gpt-6-sol")
        ),
        ("openai", "gpt-5", "max_completion_tokens", "max_completion_tokens"),
        ("together", "x", "max_completion_tokens", "max_tokens"),
        ("mistral", "x", "max_completion_tokens", "max_tokens"),
        ("groq", "gpt-5-like", "max_completion_tokens", "max_tokens"),
        ("groq", "gpt-5-like", "max_tokens", "max_tokens"),
        ("vllm", "gpt-5-like", "max_completion_tokens", "max_completion_tokens"),
        ("openai_compatible", "x", "max_tokens", "max_tokens"),
    ],
)
def test_max_tokens_has_the_name_the_model_supports(
    provider: str, model: str, given_as: str, sent_as: str
) -> None:
    found = body(provider, model=model, **{given_as: 9})
    assert found == {sent_as: 9}


def test_base_model_takes_precedence_over_the_upstream_name() -> None:
    here = deployment(provider="openai", model="my-tuned-model", base_model="o3")
    found = orjson.loads(to_request(chat(params={"max_tokens": 9}), here).body)
    assert found["max_completion_tokens"] == 9


def test_developer_messages_become_system_where_unsupported() -> None:
    conversation = {"role": "developer", "content": "Be brief."}
    for provider in OPENAI_PROFILES:
        known = provider in ("openai", "azure", "openai_compatible")
        assert messages(provider, conversation)[0]["role"] == ("developer" if known else "system")
    assert conversation["role"] == "developer", "the request itself is left alone"


def test_metadata_is_sent_without_tracking_fields() -> None:
    tracking = {"pl_tags": ["a"], "prompt_name": "p", "prompt_version": 2, "prompt_input_variables": {"x": 1}}
    for metadata, kept in [({**tracking, "ticket": "42"}, {"ticket": "42"}), (tracking, None), ({}, None)]:
        found = orjson.loads(to_request(chat(metadata=metadata), deployment(provider="openai")).body)
        assert found.get("metadata") == kept
        for provider in ("together", "groq", "openai_compatible", "vllm"):
            assert (
                b"metadata"
                not in ADAPTERS["openai"]
                .to_request(chat(metadata=metadata), deployment(provider=provider))
                .body
            )


def test_unsupported_bookkeeping_fields_are_dropped_silently() -> None:
    params: dict[str, Any] = dict.fromkeys(IGNORABLE - {"metadata"}, "x")
    assert body("openai", **params) == params
    found = sent("groq", **params)
    assert found.dropped == ()
    assert orjson.loads(found.body).keys() == {"model", "messages"}
    assert "user" not in body("together", user="u", parallel_tool_calls=False, verbosity="low")
    assert body("groq", user="u") == {"user": "u"}


REJECTED = [(name, param) for name, dialect in OPENAI_PROFILES.items() for param in sorted(dialect.reject)]


@each(("provider", "param"), REJECTED)
def test_unsupported_parameters_are_refused_or_reported(provider: str, param: str) -> None:
    value = PARAMS.get(param, [{"name": "f"}])
    offered = {"tool_choice": "tools", "function_call": "functions"}.get(param)
    beside = {} if offered is None else {offered: PARAMS["tools"]}  # a choice among none asks for nothing
    with pytest.raises(ProxyError) as caught:
        sent(provider, **{param: value}, **beside)
    assert (caught.value.code, caught.value.param, caught.value.status) == (
        "unsupported_parameter",
        param,
        400,
    )
    assert provider in caught.value.message
    dropped = sent(provider, drop=True, **{param: value}, **beside)
    assert param in dropped.dropped
    assert param not in orjson.loads(dropped.body)


@each(("provider", "param"), [pair for pair in REJECTED if pair[1] in NEUTRAL_DEFAULTS])
def test_a_default_is_never_refused(provider: str, param: str) -> None:
    default: Any = NEUTRAL_DEFAULTS[param]
    found = sent(provider, **{param: default})
    assert found.dropped == ()
    assert param not in orjson.loads(found.body)


@given(st.sets(st.sampled_from(sorted(PARAMS))), st.sampled_from(sorted(OPENAI_PROFILES)))
def test_only_defaults_and_bookkeeping_are_dropped_silently(names: set[str], provider: str) -> None:
    params = {name: PARAMS[name] for name in names}
    found = sent(provider, drop=True, **params)
    dialect = OPENAI_PROFILES[provider]
    kept = orjson.loads(found.body).keys()
    for name in params:
        renamed = {dialect.rename.get(name, name), name}
        if dialect.integer_logprobs and name == "top_logprobs":
            renamed.add("logprobs")  # one number says both, and without `logprobs` it asks for nothing
            if "logprobs" not in params:
                continue
        if name == "tool_choice" and "tools" not in params:
            continue  # a choice among none asks for nothing
        assert renamed & kept or name in found.dropped or name in dialect.drop


def test_parameters_are_renamed() -> None:
    assert body("mistral", seed=7) == {"random_seed": 7}
    named = {"type": "function", "function": {"name": "f"}}
    tools = PARAMS["tools"]
    for choice, word in [("auto", "auto"), ("none", "none"), ("required", "any"), (named, "any")]:
        assert body("mistral", tools=tools, tool_choice=choice) == {"tools": tools, "tool_choice": word}
        assert body("openai", tools=tools, tool_choice=choice) == {"tools": tools, "tool_choice": choice}
    assert body("together", stop="END") == {"stop": ["END"]}
    assert body("together", stop=["A", "B"]) == {"stop": ["A", "B"]}
    assert body("openai", stop="END") == {"stop": "END"}


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({"logprobs": True}, {"logprobs": 1}),
        ({"logprobs": True, "top_logprobs": 5}, {"logprobs": 5}),
        ({"logprobs": True, "top_logprobs": 0}, {"logprobs": 1}),
        ({"logprobs": False, "top_logprobs": 5}, {}),
        ({"top_logprobs": 5}, {}),
    ],
)
def test_together_gets_logprobs_as_a_number(params: dict[str, Any], found: dict[str, Any]) -> None:
    assert body("together", **params) == found
    assert body("openai", **params) == params


def test_tools_and_results_are_sent_unchanged() -> None:
    conversation: list[dict[str, Any]] = [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {**call("weather", "{}"), "extra_content": {"google": {"thought_signature": "s"}}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_weather", "content": "rain"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"},
    ]
    assert messages("openai", *conversation) == conversation
    legacy = {"functions": [{"name": "f"}], "function_call": {"name": "f"}}
    assert body("openai", **legacy) == legacy


def test_unsupported_message_fields_are_removed() -> None:
    conversation = {
        "role": "assistant",
        "content": "4",
        "reasoning_content": "2+2",
        "reasoning": "2+2",
        "name": "bob",
    }
    plain = {"role": "assistant", "content": "4"}
    assert messages("groq", conversation) == [plain]
    assert messages("openai", conversation) == [{**plain, "name": "bob"}]
    assert messages("deepseek", conversation) == [conversation]


VALUES = st.sampled_from(
    [0, 1, 0.5, "x" * 100, "", "none", "high", True, False, [], ["a"], {}, {"type": "text"}]
)


@each("provider", sorted(OPENAI_PROFILES))
@given(
    st.sampled_from(["m-upstream", "gpt-4o", "gpt-5.1", "gpt-5.5", "o3", "o1", "gpt-5-codex"]),
    st.dictionaries(st.sampled_from([*sorted(CHAT_PARAMETERS), "top_k"]), VALUES, max_size=6),
    st.sampled_from([frozenset(), MESSAGES_SOFT, RESPONSES_SOFT]),
)
def test_unchanged_parameters_are_those_that_no_rule_changes(
    provider: str, name: str, params: dict[str, Any], soft: frozenset[str]
) -> None:
    entry, dialect = deployment(provider=provider, model=name), OPENAI_PROFILES[provider]
    unchanged = unchanged_params(entry, dialect)
    kept = {key: value for key, value in params.items() if key in unchanged}
    if soft:
        kept.pop("reasoning_effort", None)
    request = chat(params=kept, soft=soft)
    assert is_unchanged(request, unchanged)
    assert translated_params(request, entry, dialect) == (kept, [])
    assert is_unchanged(chat(params=params, soft=soft), unchanged) == (kept == params)


def test_most_parameters_are_unchanged_at_a_plain_provider() -> None:
    entry = deployment()
    unchanged = unchanged_params(entry, OPENAI_PROFILES[entry.provider])
    assert {"temperature", "top_p", "max_tokens", "stop", "user", "seed", "n"} <= unchanged
