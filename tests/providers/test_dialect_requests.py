"""Whatever gets past the first checks is sent or refused by every dialect, never a crash."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.openai_format.request import parse_chat
from codellama_proxy.providers.registry import ADAPTERS
from tests.support.builders import deployment

odd = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from(["", "x", "auto", "https://a.example/b"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "a"]), inner, max_size=2)
    ),
    max_leaves=3,
)


def oddly(**fields: Any) -> Any:
    """An object of these fields, each of them there or not, right or odd."""
    return st.fixed_dictionaries({}, optional={name: odd | of for name, of in fields.items()})


functions = oddly(name=st.just("f"), parameters=st.just({"type": "object"}), arguments=st.just("{}"))
calls = oddly(id=st.just("c1"), type=st.just("function"), function=functions)
parts = oddly(
    type=st.sampled_from(["text", "image_url", "file", "refusal"]),
    text=st.just("hi"),
    image_url=oddly(url=st.sampled_from(["https://a.example/x.png", "data:image/png;base64,aGVq"])),
    file=oddly(file_data=st.just("data:text/plain,hi"), filename=st.just("a")),
    cache_control=oddly(type=st.just("ephemeral")),
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"])},
    optional={
        "content": st.just("hi") | st.lists(parts, max_size=2),
        "name": odd,
        "tool_call_id": st.just("c1"),
        "tool_calls": st.lists(calls, max_size=2),
        "function_call": odd | functions,
        "thinking_blocks": odd,
    },
)
tools = st.lists(oddly(type=st.just("function"), function=functions), max_size=2)
bodies = st.fixed_dictionaries(
    {"messages": st.lists(messages, min_size=1, max_size=4)},
    optional={
        "tools": tools,
        "functions": st.lists(functions, max_size=2),
        "function_call": oddly(name=st.just("f")) | st.just("auto"),
        "tool_choice": st.sampled_from(["auto", "none", "required", "odd"])
        | oddly(type=st.just("function"), function=functions)
        | oddly(type=st.just("allowed_tools"), allowed_tools=oddly(mode=st.just("auto"), tools=tools)),
        "response_format": oddly(
            type=st.sampled_from(["json_schema", "json_object"]), json_schema=oddly(schema=odd)
        ),
        "reasoning_effort": st.sampled_from(["none", "low", "max", "odd"]),
        "stop": st.sampled_from(["a", ["a"], []]),
        "stream": st.booleans(),
        "thinking": odd,
        "betas": odd,
        "top_k": odd,
        "cache_control": odd,
        "logprobs": st.booleans(),
        "top_logprobs": st.integers(0, 3),
        "metadata": oddly(user_id=odd),
        "parallel_tool_calls": st.booleans(),
        "modalities": st.lists(odd, max_size=1),
    },
)


# Every module that translates, and of the rows of OpenAI's dialect those that change the most.
TRANSLATORS = [
    *("anthropic", "cohere", "ai21", "replicate"),
    *("azure", "groq", "huggingface", "mistral", "together"),
]


@pytest.mark.parametrize("provider", TRANSLATORS)
@settings(max_examples=60)
@given(body=bodies, lenient=st.booleans())
def test_a_checked_request_is_sent_or_refused(provider: str, lenient: bool, body: dict[str, Any]) -> None:
    here = deployment(provider=provider, model="claude-haiku-4-5", drop_params=lenient)
    refused = None
    try:
        found = ADAPTERS[provider].to_request(parse_chat(orjson.dumps(body)), here)
    except ProxyError as error:
        refused = error.status
    else:
        assert isinstance(orjson.loads(found.body), dict)
    assert refused in (None, 400)
