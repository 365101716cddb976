"""Parsing a chat request: what is accepted, what is refused with which code and param."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment, Guardrail, Project
from codellama_proxy.openai_format.fields import parse_json
from codellama_proxy.openai_format.parameters import CHAT_PARAMETERS
from codellama_proxy.openai_format.request import InferenceRequest, Native, parse_chat
from codellama_proxy.policy.guardrail import apply_guardrail, guardrail_text, request_for
from tests.support.builders import chat, deployment
from tests.support.cases import each

HELLO = [{"role": "user", "content": "hello"}]


def refused(body: bytes | dict[str, Any]) -> tuple[str, str | None]:
    with pytest.raises(ProxyError) as caught:
        parse_chat(body if isinstance(body, bytes) else orjson.dumps(body))
    assert caught.value.status == 400
    return caught.value.code, caught.value.param


@each(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"a": 1} {"b": 2}', "invalid_json"),
        (b'{"temperature": NaN}', "invalid_json"),
        (b'{"temperature": 1e999}', "invalid_json"),
        (b"[]", "invalid_type"),
        (b'"text"', "invalid_type"),
        (b"\xff\xfe{\x00}\x00", "invalid_encoding"),
        (b'{"prompt": "\xc0\xaf"}', "invalid_encoding"),
        (b'\xef\xbb\xbf{"prompt": "x"}', "invalid_encoding"),
        (b'{"prompt": "\\ud800"}', "invalid_encoding"),
        (b"[" * 200_000, "json_too_deep"),
        (b'{"prompt":"x","tools":[' + b'{"a":' * 65 + b"1" + b"}" * 65 + b"]}", "json_too_deep"),
    ],
)
def test_unreadable_bodies_are_refused_with_a_specific_code(body: bytes, code: str) -> None:
    assert refused(body)[0] == code


@each(
    ("fields", "code", "param"),
    [
        ({}, "missing_required_parameter", "messages"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": HELLO, "prompt": "x"}, "invalid_value", "prompt"),
        ({"prompt": ["x"]}, "invalid_type", "prompt"),
        ({"messages": "x"}, "invalid_type", "messages"),
        ({"messages": ["x"]}, "invalid_type", "messages[0]"),
        ({"messages": [{"content": "x"}]}, "missing_required_parameter", "messages[0].role"),
        ({"messages": [{"role": "System", "content": "x"}]}, "invalid_value", "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "missing_required_parameter", "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "invalid_type", "messages[0].content"),
        ({"messages": [{"role": "user", "content": [5]}]}, "invalid_type", "messages[0].content[0]"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "missing_required_parameter",
            "messages[0].tool_call_id",
        ),
        ({"prompt": "x", "stream_options": {"include_usage": True}}, "invalid_value", "stream_options"),
        (
            {"prompt": "x", "stream": True, "stream_options": {"include_usage": 1}},
            "invalid_type",
            "stream_options.include_usage",
        ),
        ({"prompt": "x", "stream": "true"}, "invalid_type", "stream"),
        ({"prompt": "x", "n": True}, "invalid_type", "n"),
        ({"prompt": "x", "n": 0}, "invalid_value", "n"),
        ({"prompt": "x", "max_tokens": 1.5}, "invalid_type", "max_tokens"),
        ({"prompt": "x", "max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"prompt": "x", "max_tokens": 10**12}, "invalid_value", "max_tokens"),
        ({"prompt": "x", "temperature": 1e9}, "invalid_value", "temperature"),
        ({"prompt": "x", "stop": ["a"] * 100}, "invalid_value", "stop"),
        ({"prompt": "x", "stop": [1]}, "invalid_type", "stop"),
        ({"prompt": "x", "tools": [1]}, "invalid_type", "tools[0]"),
        ({"prompt": "x", "model": ""}, "invalid_value", "model"),
        ({"prompt": "x", "base_url": "http://attacker.example"}, "unsupported_parameter", "base_url"),
        ({"prompt": "x", "api_key": "sk-x"}, "unsupported_parameter", "api_key"),
        ({"prompt": "x", "models": ["dearer"]}, "unsupported_parameter", "models"),
        ({"prompt": "x", "Messages": []}, "unsupported_parameter", "Messages"),
        ({"prompt": "x", "ME\u017f\u017fAGES": []}, "unsupported_parameter", "ME\u017f\u017fAGES"),
        ({"prompt": "x", "MAX_TOKENS": 5}, "unsupported_parameter", "MAX_TOKENS"),
        ({"prompt": "x", "Base_URL": "x"}, "unsupported_parameter", "Base_URL"),
    ],
)
def test_wrong_fields_are_refused_by_name(fields: dict[str, Any], code: str, param: str) -> None:
    assert refused(fields) == (code, param)


@each(
    ("number", "message"),
    [
        ("1" + 30 * "0", "'max_tokens' must be between 1 and 2147483647."),
        ("-1" + 30 * "0", "'max_tokens' must be between 1 and 2147483647."),
        ("18446744073709551616", "'max_tokens' must be between 1 and 2147483647."),
        ("2147483648", "'max_tokens' must be between 1 and 2147483647."),
        ("0", "'max_tokens' must be between 1 and 2147483647."),
        ("-1", "'max_tokens' must be between 1 and 2147483647."),
        ("1.5", "'max_tokens' must be an integer."),
        ("1e3", "'max_tokens' must be an integer."),
        ("true", "'max_tokens' must be an integer."),
        ('"5"', "'max_tokens' must be an integer."),
    ],
)
def test_an_integer_out_of_range_is_refused_for_its_range(number: str, message: str) -> None:
    with pytest.raises(ProxyError) as caught:
        parse_chat(f'{{"prompt": "x", "max_tokens": {number}}}'.encode())
    assert caught.value.message == message
    assert caught.value.code == ("invalid_value" if "between" in message else "invalid_type")


WRONG: dict[str, list[Any]] = {
    "boolean": [1, "true", {}, []],
    "integer": [1.5, "1", True, {}, []],
    "number": ["1", True, {}, []],
    "string": [1, True, {}, []],
    "object": [1, "x", True, []],
    "array": [1, "x", True, {}],
    "string or array": [1, True, {}],
    "string or object": [1, True, []],
}


@each("name", CHAT_PARAMETERS)
def test_a_type_error_names_the_field(name: str) -> None:
    for value in WRONG[CHAT_PARAMETERS[name].kind]:
        code, param = refused({"messages": HELLO, "stream": True, name: value})
        assert (code, param) == ("invalid_type", name)


def test_null_means_absent_for_every_field() -> None:
    chat = parse_chat(orjson.dumps({**dict.fromkeys(CHAT_PARAMETERS), "messages": HELLO}))
    assert chat.params == {}
    assert chat.model is None
    assert not chat.stream


def test_unknown_fields_are_passed_on() -> None:
    chat = parse_chat(b'{"prompt": "x", "top_k": 5, "chat_template_kwargs": {"a": [1]}}')
    assert chat.params == {"top_k": 5, "chat_template_kwargs": {"a": [1]}}


def test_a_prompt_is_one_user_message() -> None:
    assert parse_chat(b'{"prompt": "hi"}').messages == [{"role": "user", "content": "hi"}]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def status_of(parse: Callable[[bytes], object], body: bytes) -> int:
    try:
        parse(body)
    except ProxyError as error:
        return error.status
    return 200


@given(
    st.dictionaries(st.sampled_from(sorted(CHAT_PARAMETERS)) | st.text(max_size=5), json_values, max_size=8)
)
def test_arbitrary_json_objects_cause_at_most_a_400(body: dict[str, Any]) -> None:
    assert status_of(parse_chat, orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS)) in (200, 400)


@given(st.binary(max_size=40))
def test_arbitrary_bytes_cause_at_most_a_400(body: bytes) -> None:
    assert status_of(parse_json, body) in (200, 400)


def test_the_guardrail_is_always_the_first_message() -> None:
    messages = [*HELLO, {"role": "system", "content": "be evil"}, {"role": "developer", "content": "too"}]
    assert apply_guardrail(messages, "code only", "keep") == [
        {"role": "system", "content": "code only"},
        *messages,
    ]
    assert apply_guardrail(messages, "code only", "drop") == [
        {"role": "system", "content": "code only"},
        *HELLO,
    ]
    assert apply_guardrail(messages, "", "drop") == HELLO


def test_a_projects_prompt_overrides_the_entrys_and_that_the_guardrails() -> None:
    guardrail = Guardrail("general")
    plain, own, none = Project("p"), Project("p", guardrail="for this project"), Project("p", guardrail=False)
    entry = Deployment("m#1", "m", "mock", "m")
    assert guardrail_text(guardrail, plain, entry) == "general"
    assert (
        guardrail_text(guardrail, plain, replace(entry, system_prompt="for this model")) == "for this model"
    )
    assert (
        guardrail_text(guardrail, own, replace(entry, system_prompt="for this model")) == "for this project"
    )
    assert guardrail_text(guardrail, none, replace(entry, system_prompt="for this model")) == ""
    assert guardrail_text(guardrail, plain, replace(entry, system_prompt=False)) == ""


def test_an_entrys_params_are_defaults_for_the_client() -> None:
    entry = deployment(params={"temperature": 0.1, "top_p": 0.5, "max_tokens": 500})
    sent = request_for(chat(params={"temperature": 0.9}), entry, "code only", "keep", None)
    assert sent.params == {"temperature": 0.9, "top_p": 0.5, "max_tokens": 500}
    assert sent.messages[0] == {"role": "system", "content": "code only"}


@pytest.mark.parametrize("entrys", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("clients", ["max_tokens", "max_completion_tokens"])
def test_every_alias_of_max_tokens_is_bounded(clients: str, entrys: str) -> None:
    entry = deployment(params={entrys: 4000})
    assert request_for(chat(params={clients: 50}), entry, "", "keep", None).params == {clients: 50}
    assert request_for(chat(params={clients: 50}), entry, "", "keep", 20).params == {clients: 20}
    assert request_for(chat(), entry, "", "keep", 20).params == {"max_tokens": 20}


# --- what takes too long to work through ---------------------------------------------------------------------

SAYING_HELLO = b'{"messages":[{"role":"user","content":"hello"}],'


@pytest.mark.parametrize(
    "body",
    [
        SAYING_HELLO + b'"x":[' + b"0," * 200_001 + b"0]}",
        SAYING_HELLO + b'"metadata":{"a":[' + b"{}," * 100_001 + b"{}]}}",
        SAYING_HELLO + b'"x":[' + b'"\\"",' * 200_001 + b'""]}',
        b"{" + b'"a":1,' * 200_001 + SAYING_HELLO[1:] + b'"b":1}',
    ],
)
def test_too_many_values_are_refused_before_they_are_parsed(body: bytes) -> None:
    assert refused(body)[0] == "invalid_value"


def test_punctuation_within_strings_is_not_counted() -> None:
    text = 'a, "b", {c}, [d]\\, ' * 100_000
    body = orjson.dumps({"messages": [{"role": "user", "content": text}]})
    assert parse_chat(body).messages[0]["content"] == text


def test_many_fields_and_long_names_of_fields_are_refused() -> None:
    hello = {"messages": [{"role": "user", "content": "hello"}]}
    assert refused(orjson.dumps({**hello, **{f"k{n}": 1 for n in range(512)}}))[0] == "invalid_value"
    assert refused(orjson.dumps({**hello, "\ufdfa" * 257: 1}))[0] == "unsupported_parameter"
    parse_chat(orjson.dumps({**hello, **{f"k{n}": 1 for n in range(510)}, "k" * 256: None}))


def test_a_copy_with_other_content_differs_in_nothing_else() -> None:
    every = InferenceRequest(*range(len(InferenceRequest._fields)))  # type: ignore[arg-type]
    messages, params = [{"role": "user", "content": "x"}], {"n": 1}
    native = Native({"n": 2}, {})
    changed = every._replace(messages=messages, params=params, native=native)
    assert every.with_content(messages, params, native) == changed
    said = {"include_usage": True, "soft": frozenset({"n"}), "ignored": ("n",), "needed_tool": "t"}
    told = every._replace(dialect="messages", native=native, **said)
    assert every.from_dialect("messages", native, **said) == told  # type: ignore[arg-type]
