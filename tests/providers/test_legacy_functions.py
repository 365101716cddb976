"""Legacy functions become tools for those who know only tools, and come back as functions."""

from typing import Any

import orjson
import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import Event
from codellama_proxy.providers.common.legacy_functions import modern, restored
from codellama_proxy.providers.openai.profiles import OPENAI_PROFILES
from codellama_proxy.providers.registry import ADAPTERS
from tests.support.builders import chat, deployment
from tests.support.cases import each
from tests.support.client_fold import chunks, fold, read
from tests.support.dialogues import DIALOGUES

FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
ASKED = chat(params={"functions": [FUNCTION]})
TRANSLATED = sorted(
    name
    for name in ADAPTERS
    if "tools" in DIALOGUES[name].answers
    and not (name in OPENAI_PROFILES and OPENAI_PROFILES[name].functions)
)


def test_functions_become_tools_one_at_a_time() -> None:
    asked = chat(params={"functions": [FUNCTION], "function_call": {"name": "weather"}, "top_p": 0.5})
    assert modern(asked).params == {
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "top_p": 0.5,
    }
    assert asked.params["functions"] == [FUNCTION], "the request itself is left alone"


@pytest.mark.parametrize("word", ["auto", "none"])
def test_function_call_modes_keep_their_names(word: str) -> None:
    assert modern(chat(params={"functions": [FUNCTION], "function_call": word})).params["tool_choice"] == word


def test_without_functions_there_are_no_tools() -> None:
    assert modern(chat(params={"functions": [], "function_call": "auto"})).params == {}
    untouched = chat(params={"tools": []})
    assert modern(untouched) == untouched


def test_functions_and_tools_together_are_refused() -> None:
    with pytest.raises(ProxyError) as caught:
        modern(chat(params={"functions": [FUNCTION], "tools": []}))
    assert caught.value.param == "functions"


def test_results_belong_to_the_latest_call_of_their_name() -> None:
    def called(name: str) -> dict[str, Any]:
        return {"role": "assistant", "content": None, "function_call": {"name": name, "arguments": "{}"}}

    def answered(name: str) -> dict[str, Any]:
        return {"role": "function", "name": name, "content": f"{name} done"}

    talk = [called("a"), answered("a"), called("b"), answered("b"), called("a"), answered("a")]
    found = modern(chat(messages=talk)).messages
    calls = [message["tool_calls"][0]["id"] for message in found if "tool_calls" in message]
    results = [message["tool_call_id"] for message in found if message["role"] == "tool"]
    assert calls == results == ["call_fn_0", "call_fn_1", "call_fn_2"]
    assert not any("function_call" in message or message["role"] == "function" for message in found)
    assert [message["content"] for message in found[1::2]] == ["a done", "b done", "a done"]


def test_events_of_other_requests_are_unchanged() -> None:
    event = Event(b'{"choices":[{"index":0,"delta":{"tool_calls":[]}}]}')
    assert restored(event, chat()) is event
    nothing = Event(b"")
    assert restored(nothing, ASKED) is nothing


@each("provider", TRANSLATED)
def test_every_translated_dialect_answers_with_a_function_call(provider: str) -> None:
    adapter, here = ADAPTERS[provider], deployment(provider=provider)
    answer = DIALOGUES[provider].answers["tools"]
    event = adapter.parse_response(answer.whole, ASKED, here)
    whole = orjson.loads(event.body)["choices"][0]
    assert whole["message"]["function_call"] == {"name": "weather", "arguments": '{"city":"Oslo"}'}
    assert "tool_calls" not in whole["message"]
    assert whole["finish_reason"] == event.finish_reason == "function_call"
    events, complete = read(adapter, [answer.stream], ASKED, here)
    assert complete
    assert fold(events)["choices"][0] == whole
    assert not any("tool_calls" in c["delta"] for chunk in chunks(events) for c in chunk["choices"])


@each("provider", TRANSLATED)
def test_every_translated_dialect_gets_tools(provider: str) -> None:
    here = deployment(provider=provider, drop_params=True)
    sent = ADAPTERS[provider].to_request(ASKED, here).body
    assert b'"tools"' in sent
    assert b'"functions"' not in sent
