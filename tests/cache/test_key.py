"""Which requests share an answer, what clients may ask of the cache, and what is worth keeping."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.cache.key import (
    CachedAnswer,
    CacheDirectives,
    CacheScope,
    canonical_params,
    directives_of,
    key_of,
    last_turn,
    scope_of,
    storable,
    without_last_turn,
)
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Cache, Deployment, Guardrail, Model, Price, Project
from codellama_proxy.core.types import Event, Key
from codellama_proxy.openai_format.request import InferenceRequest, parse_chat
from codellama_proxy.policy.deployment_request import DeploymentRequests
from codellama_proxy.policy.project_rules import ProjectRules
from tests.support.builders import deployment, snapshot
from tests.support.builders import model as model_of
from tests.support.cases import each

MODEL = model_of("a", deployment("a"), deployment("a", 2))
GUARDRAIL = Guardrail("Only code.")
PROJECT = Project("team")
RULES = ProjectRules(GUARDRAIL, PROJECT)
BODY: dict[str, Any] = {
    "model": "a",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello", "name": "ann"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": [{"type": "text", "text": "print hello"}]},
    ],
    "temperature": 0.5,
    "max_tokens": 100,
    "seed": 7,
    "stop": ["END"],
    "tools": [{"type": "function", "function": {"name": "run", "parameters": {"type": "object"}}}],
    "tool_choice": "required",
    "response_format": {"type": "json_object"},
}


def key(
    body: Mapping[str, Any] = BODY,
    kind: str = "project",
    name: str = "team",
    model: Model = MODEL,
    guardrail: Guardrail = GUARDRAIL,
    project: Project = PROJECT,
) -> bytes:
    return key_of(
        kind,
        name,
        DeploymentRequests(parse_chat(orjson.dumps(body)), ProjectRules(guardrail, project)),
        model,
    )


def with_deployment(**changes: Any) -> Model:
    first, second = MODEL.deployments
    return replace(MODEL, deployments=(first, replace(second, **changes)))


# --- the key -------------------------------------------------------------------------------------------------

Path = tuple[Any, ...]


def leaves(value: Any, path: Path = ()) -> list[Path]:
    """Where the values of a body are."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for name, inner in items for leaf in leaves(inner, (*path, name))]
    return [path]


def changed(body: dict[str, Any], path: Path, to: Any) -> dict[str, Any]:
    copy = orjson.loads(orjson.dumps(body))
    holder = copy
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = to
    return copy  # type: ignore[no-any-return]  # JSON


def other(value: Any) -> st.SearchStrategy[Any]:
    """Another value of the same type that is as valid."""
    if value in ("system", "user", "assistant"):
        return st.sampled_from(["system", "user", "assistant", "developer"]).filter(lambda o: o != value)
    if isinstance(value, str):
        return st.text(min_size=1).filter(lambda o: o != value)
    if isinstance(value, int):
        return st.integers(1, 2**31 - 1).filter(lambda o: o != value)
    return st.floats(0, 2).filter(lambda o: o not in (value, 1))


# The model's name is in the chain, not in the body; a part's type other than text needs other fields.
CHANGEABLE = [
    path
    for path in leaves(BODY)
    if path != ("model",) and path[-2:] != (0, "type") and path[-1] != "tool_choice"
]


@given(st.data())
def test_changing_any_value_changes_the_key(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(CHANGEABLE))
    value: Any = BODY
    for step in path:
        value = value[step]
    assert key(changed(BODY, path, data.draw(other(value)))) != key()


@given(st.sampled_from([name for name in BODY if name not in ("model", "messages")]))
def test_removing_a_parameter_changes_the_key(name: str) -> None:
    assert key({n: v for n, v in BODY.items() if n != name}) != key()


@given(st.dictionaries(st.from_regex(r"x_[a-z]{1,8}", fullmatch=True), st.integers(-9, 9), min_size=1))
def test_adding_an_unknown_parameter_changes_the_key(more: dict[str, int]) -> None:
    assert key({**BODY, **more}) != key()


@given(st.permutations(range(4)).filter(lambda order: order != [0, 1, 2, 3]))
def test_reordering_messages_changes_the_key(order: list[int]) -> None:
    assert key({**BODY, "messages": [BODY["messages"][at] for at in order]}) != key()


@each(
    "difference",
    [
        {"kind": "key"},
        {"kind": "global"},
        {"name": "other"},
        {"model": replace(MODEL, name="b")},
        {"model": replace(MODEL, deployments=MODEL.deployments[:1])},
        {"model": with_deployment(model="newer")},
        {"model": with_deployment(base_url="https://elsewhere.example/v1")},
        {"model": with_deployment(provider="vllm")},
        {"model": with_deployment(params={"top_k": 5})},
        {"model": with_deployment(system_prompt="Only Rust.")},
        {"model": with_deployment(drop_params=True)},
        {"model": with_deployment(extra={"api_version": "2"})},
        {"guardrail": Guardrail("Only poems.")},
        {"guardrail": Guardrail("Only code.", "drop")},
        {"project": Project("team", guardrail="Only rhymes.")},
        {"project": Project("team", guardrail=False)},
    ],
)
def test_scope_model_and_guardrail_are_part_of_the_key(difference: dict[str, Any]) -> None:
    assert key(**difference) != key()


def test_a_tool_that_only_its_own_dialect_has_is_part_of_the_key() -> None:
    request = parse_chat(orjson.dumps(BODY))
    searching = request._replace(needed_tool="web_search")
    keys = {key_of("", "", DeploymentRequests(one, RULES), MODEL) for one in (request, searching)}
    assert len(keys) == 2


@pytest.mark.parametrize(
    "model",
    [
        with_deployment(price=Price(1, 1)),
        with_deployment(weight=5.0),
        with_deployment(api_key=None),
        with_deployment(params={"seed": 8}),
        replace(MODEL, fallbacks=("z",)),
    ],
)
def test_fields_that_do_not_affect_the_answer_are_not_part_of_the_key(model: Model) -> None:
    assert key(model=model) == key()


def shuffled(value: Any, random: Any) -> Any:
    if isinstance(value, dict):
        items = [(name, shuffled(inner, random)) for name, inner in value.items()]
        random.shuffle(items)
        return dict(items)
    return [shuffled(inner, random) for inner in value] if isinstance(value, list) else value


IRRELEVANT = st.fixed_dictionaries(
    {},
    optional={
        "stream": st.booleans(),
        "user": st.text(),
        "metadata": st.dictionaries(st.text(), st.text()),
        "cache": st.just({"ttl": 5}),
        "safety_identifier": st.text(),
        "prompt_cache_key": st.text(),
        "top_p": st.sampled_from([1, 1.0, None]),
        "n": st.just(1),
        "presence_penalty": st.sampled_from([0, 0.0]),
        "frequency_penalty": st.just(0),
        "logprobs": st.just(False),
        "logit_bias": st.just({}),
        "parallel_tool_calls": st.just(True),
        "modalities": st.just(["text"]),
        "store": st.just(False),
    },
)


@given(IRRELEVANT, st.randoms(use_true_random=False))
def test_irrelevant_fields_defaults_and_order_do_not_change_the_key(
    more: dict[str, Any], random: Any
) -> None:
    assert key(shuffled({**BODY, **more}, random)) == key()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"max_tokens": 5}, {"max_completion_tokens": 5}),
        ({"stop": "x"}, {"stop": ["x"]}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": 1.0}, {}),
        ({"response_format": {"type": "text"}}, {}),
    ],
)
def test_equivalent_requests_have_the_same_key(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert canonical_params(one) == canonical_params(other)


def test_a_default_that_differs_from_the_entrys_params_is_part_of_the_key() -> None:
    cold = replace(MODEL, deployments=(replace(MODEL.deployments[0], params={"temperature": 0.2}),))
    plain = {name: value for name, value in BODY.items() if name != "temperature"}
    assert key(plain, model=cold) != key({**plain, "temperature": 1}, model=cold)
    assert key(plain, model=cold) == key({**plain, "temperature": 0.2}, model=cold)


def test_prompt_and_the_equivalent_message_have_the_same_key() -> None:
    assert key({"prompt": "hi"}) == key({"messages": [{"role": "user", "content": "hi"}]})


@pytest.mark.parametrize(
    ("scope", "expected"),
    [("project", ("project", "team")), ("key", ("key", "key_1")), ("global", ("global", ""))],
)
def test_the_configured_scope_determines_sharing(scope: Any, expected: tuple[str, str]) -> None:
    found = scope_of(snapshot(cache=Cache(scope=scope)), "team", Key("key_1", "team"))
    assert found == CacheScope(*expected, "team")


def test_anonymous_callers_share_within_their_project() -> None:
    assert scope_of(snapshot(cache=Cache(scope="key")), "anonymous", None).name == "anonymous"


# --- wishes --------------------------------------------------------------------------------------------------


@each(
    ("cache", "header", "expected"),
    [
        ({}, "", CacheDirectives()),
        ({"no-cache": True}, "", CacheDirectives(read=False)),
        ({"no-store": True}, "", CacheDirectives(write=False)),
        ({"no-cache": False, "no-store": False}, "", CacheDirectives()),
        ({}, "no-cache", CacheDirectives(read=False)),
        ({}, "No-Store , max-age=0", CacheDirectives(write=False, max_age=0)),
        ({"ttl": 60, "s-maxage": 600}, "max-age=30, max-age=x", CacheDirectives(ttl=60, max_age=30)),
        ({"namespace": "other", "use-cache": True, "similarity": 0.1}, "public", CacheDirectives()),
    ],
)
def test_cache_directives_are_parsed(cache: dict[str, Any], header: str, expected: CacheDirectives) -> None:
    assert directives_of(cache, header) == expected


@pytest.mark.parametrize(
    ("cache", "code"),
    [
        ({"no-cache": "yes"}, "invalid_type"),
        ({"no-store": 1}, "invalid_type"),
        ({"ttl": "60"}, "invalid_type"),
        ({"ttl": True}, "invalid_type"),
        ({"s-maxage": -1}, "invalid_value"),
    ],
)
def test_invalid_cache_directives_are_refused(cache: dict[str, Any], code: str) -> None:
    with pytest.raises(ProxyError) as caught:
        directives_of(cache, "")
    assert (caught.value.code, caught.value.param) == (code, f"cache.{next(iter(cache))}")


def answer(**changes: Any) -> CachedAnswer:
    return CachedAnswer(Event(b"{}"), "a#1", (), 1000.0, 1060.0)._replace(**changes)


@given(*[st.integers(0, 10_000)] * 4)
def test_cache_directives_only_restrict(ttl: int, max_age: int, configured: int, age: int) -> None:
    wish = CacheDirectives(ttl=ttl, max_age=max_age)
    assert wish.expiry(configured, 1000.0) <= 1000.0 + configured
    kept = answer(expires_at=1000.0 + configured)
    if wish.fresh(kept, configured, 1000.0 + age):
        assert CacheDirectives().fresh(kept, configured, 1000.0 + age)
        assert age < max_age


def test_a_reduced_ttl_applies_to_older_answers() -> None:
    assert CacheDirectives().fresh(answer(), 60.0, 1059.0)
    assert not CacheDirectives().fresh(answer(), 10.0, 1011.0)
    assert not CacheDirectives().fresh(answer(), 600.0, 1060.0)


# --- what is kept --------------------------------------------------------------------------------------------


def completion(*reasons: str | None, **message: Any) -> dict[str, Any]:
    assistant_message = {"role": "assistant", "content": "hi", **message}
    return {
        "choices": [
            {"index": i, "message": assistant_message, "finish_reason": r} for i, r in enumerate(reasons)
        ]
    }


@each(
    ("found", "expected"),
    [
        (completion("stop"), True),
        (completion("tool_calls", content=None, tool_calls=[{}]), True),
        (completion("stop", "stop"), True),
        (completion("stop", "length"), False),
        (completion("length"), False),
        (completion("content_filter"), False),
        (completion(None), False),
        (completion("stop", content=""), False),
        (completion("stop", content=None), False),
        (completion(), False),
        ({"error": {"message": "no"}}, False),
    ],
)
def test_only_complete_answers_are_cacheable(found: dict[str, Any], expected: bool) -> None:
    assert storable(found) is expected


# --- similar requests ----------------------------------------------------------------------------------------


def parsed(*messages: dict[str, Any], **more: Any) -> InferenceRequest:
    return parse_chat(orjson.dumps({"messages": list(messages), **more}))


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


IMAGE = {"type": "image_url", "image_url": {"url": "data:x"}}


@each(
    ("chat", "expected"),
    [
        (parsed(user("hi")), "hi"),
        (parsed(user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])), "a\nb"),
        (parsed({"role": "system", "content": "x"}, user("hi")), "hi"),
        (parsed(user("hi"), tools=[{"type": "function"}]), None),
        (parsed(user([IMAGE])), None),
        (parsed(user([IMAGE]), user("hi")), None),
        (parsed(user("hi"), {"role": "assistant", "content": "x"}), None),
        (parsed(user("")), None),
    ],
)
def test_only_plain_text_requests_are_compared(chat: InferenceRequest, expected: str | None) -> None:
    assert last_turn(chat) == expected


def test_similar_requests_differ_only_in_their_last_turn() -> None:
    def bucket(*messages: dict[str, Any], **more: Any) -> bytes:
        blank = without_last_turn(parsed(*messages, **more))
        return key_of("project", "t", DeploymentRequests(blank, RULES), MODEL)

    assert bucket(user("hi")) == bucket(user("hello"))
    assert bucket(user("hi")) != bucket(user("hi"), temperature=0)
    assert bucket(user("a"), user("hi")) != bucket(user("b"), user("hi"))


def test_an_entry_with_nested_params_has_a_key() -> None:
    one: Deployment = deployment("a", params={"stop": ("x", "y")}, extra={"input_map": {"a": ("b",)}})
    assert len(key({"prompt": "hi"}, model=model_of("a", one))) == 32
