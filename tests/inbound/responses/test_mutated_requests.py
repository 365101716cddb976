"""Damaged requests are refused with 400 or served, and what is unknown is never refused."""

from __future__ import annotations

import json
import random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.inbound.responses import RESPONSES
from codellama_proxy.inbound.sealed import PREFIX, Seals
from codellama_proxy.openai_format.request import InferenceRequest
from tests.inbound.responses import codex
from tests.inbound.responses.answers import call, chunk
from tests.support.mutations import ODD, changed, dumps, paths

MUTATIONS = 2500
"""Of each body."""
SEALS = Seals(b"k" * 32, "project")
WORDS = [
    *(
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "tool_search_call",
    ),
    *("tool_search_output", "shell_call", "shell_call_output", "local_shell_call", "apply_patch_call"),
    *(
        "additional_tools",
        "item_reference",
        "compaction",
        "namespace",
        "custom",
        "tool_search",
        "mcp",
        "shell",
    ),
    *(
        "input_image",
        "input_file",
        "input_audio",
        "refusal",
        "allowed_tools",
        "required",
        "web_search",
        "none",
    ),
    *("functions", "exec_command", f"{PREFIX}AAAA", SEALS.seal({"reasoning": "r", "thinking_blocks": []})),
]


def parse(body: bytes) -> InferenceRequest:
    return RESPONSES.parse(body, lambda: codex.HEADERS, "req_1", 1_700_000_000, SEALS)


def served_or_refused(body: bytes) -> InferenceRequest | ProxyError:
    try:
        return parse(body)
    except ProxyError as error:
        return error


def mutation(chance: random.Random, document: Any, places: list[tuple[Any, ...]]) -> Any:
    """The document with one value replaced, left out, wrapped, doubled, or taken from another place."""
    path = chance.choice(places)
    odd = chance.choice([*ODD, *WORDS])
    other = document
    for step in chance.choice(places):
        other = other[step]
    changes = {
        "replace": lambda _: odd,
        "delete": lambda _: ... if path else {},
        "wrap": lambda value: {"type": value, "value": value},
        "list": lambda value: [value],
        "double": lambda value: [*value, *value] if isinstance(value, list) else [value, value],
        "move": lambda _: other,
    }
    return changed(document, path, changes[chance.choice(list(changes))])


@pytest.mark.parametrize("body", codex.BODIES, ids=["unknown model", "gpt-5.5", "gpt-6", "compaction"])
def test_a_damaged_request_is_served_or_refused_with_400(body: dict[str, Any]) -> None:
    chance = random.Random(16)
    places = paths(body)
    served = 0
    for _ in range(MUTATIONS):
        damaged = dumps(mutation(chance, body, places))
        found = served_or_refused(damaged)
        if isinstance(found, ProxyError):
            assert found.status == 400, damaged
            assert len(found.message) < 2000
            assert RESPONSES.error_body(found, "req_1")
            continue
        served += 1
        encoder = RESPONSES.encoder(found, SEALS)
        assert encoder.events([chunk(tool_calls=[call(0, "c", "exec_command", "{}")])], ended=True)
        assert all(name.isascii() and name.isprintable() for name in found.ignored)
    assert served > MUTATIONS // 10


@given(raw=st.binary(max_size=40))
def test_bytes_that_are_no_request_are_refused_with_400(raw: bytes) -> None:
    with pytest.raises(ProxyError) as refused:
        parse(raw)
    assert refused.value.status == 400


NAMES = st.from_regex(r"new_[a-z_]{1,20}", fullmatch=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(name=NAMES, value=VALUES)
def test_what_is_unknown_is_left_out_and_reported(name: str, value: Any) -> None:
    item = {"type": name, "value": value}
    part = {"type": name, "value": value}
    body = {
        **codex.UNKNOWN_MODEL,
        f"{name}_field": value,
        "tools": [*codex.FUNCTIONS, {"type": f"{name}_tool", "value": value}],
        "include": [name],
        "input": [
            *codex.FIRST,
            {**item, "type": f"{name}_item"},
            {
                "role": "user",
                "content": [{**part, "type": f"{name}_part"}, {"type": "input_text", "text": "Hi"}],
            },
        ],
    }
    request = parse(orjson.dumps(body))
    assert request.messages[-1] == {"role": "user", "content": "Hi"}
    assert not request.needed_tool
    reported = {f"input.{name}_item"[:64], f"input.{name}_part"[:64], f"tools.{name}_tool"[:64]}
    assert reported <= set(request.ignored)
    assert (f"{name}_field" in request.ignored) == (value is not None)
    assert f"{name}_field" not in json.dumps(request.params)


def test_fields_of_other_gateways_are_left_out_too() -> None:
    body = {"input": "Hi", "api_base": "http://10.0.0.1", "fallbacks": ["x"], "Temperature": 5, "x\r\ny": 1}
    request = parse(orjson.dumps(body))
    assert request.params == {}
    assert request.ignored == ("api_base", "fallbacks", "Temperature", "x__y")


def test_a_report_has_a_bounded_number_of_names() -> None:
    request = parse(orjson.dumps({"input": "Hi", **{f"f{index}": 1 for index in range(2000)}}))
    assert len(request.ignored) == 32
