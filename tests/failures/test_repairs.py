"""With `drop_params`, a parameter that an upstream's 400 names as unsupported is left out in one more try."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from codellama_proxy.core.snapshot import Deployment, Routing
from codellama_proxy.core.types import Attempt
from codellama_proxy.failures.classify import of_status
from codellama_proxy.failures.error_body import parse_error
from codellama_proxy.failures.repairs import REASONING, judged, repaired
from codellama_proxy.openai_format.request import Native
from codellama_proxy.routing.retries import GiveUp, Try, next_step
from tests.support.builders import attempt, chat, deployment, failure, model, snapshot
from tests.support.cases import each
from tests.support.fake_internet import Internet, Script, answer, good, refusal
from tests.support.gateway_harness import Play, Rig, player

LENIENT = snapshot(model("a", deployment("a", drop_params=True)), model("b"))
BOTH = pytest.mark.parametrize("streamed", [False, True])


def unsupported(param: str | None, code: str = "unsupported_value", message: str = "no") -> Script:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return answer(orjson.dumps({"error": error}), status=400)


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return player(tmp_path, LENIENT)


@BOTH
@pytest.mark.parametrize("code", ["unsupported_value", "unsupported_parameter", "unknown_parameter"])
def test_the_named_parameter_is_removed_and_the_same_deployment_tried_again(
    play: Play, streamed: bool, code: str
) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=streamed, temperature=0.2, top_p=0.5)
        assert client.status == 200
        assert client.headers["x-proxy-dropped-params"] == "temperature"
        assert client.headers["x-proxy-attempts"] == "2"
        assert internet.asked == ["a#1", "a#1"]
        first, second = (one.body for one in internet.sent)
        assert first.pop("temperature") == 0.2
        assert first == second
        assert [a["class"] for a in (await rig.row(client))["attempts"]] == ["caller", "ok"]
        assert rig.systems() == [["Only code."]] * 2

    internet = Internet(a=[unsupported("temperature", code), good(streamed=streamed)])
    play(internet, use)


def test_several_parameters_are_removed_one_after_another(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(temperature=0.2, top_p=0.5)
        assert client.headers["x-proxy-dropped-params"] == "temperature,top_p"
        assert client.headers["x-proxy-attempts"] == "3"

    play(Internet(a=[unsupported("temperature"), unsupported("top_p"), good(streamed=False)]), use)


def test_a_parameter_is_removed_only_once(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(temperature=0.2)
        assert client.status == 400
        assert internet.asked == ["a#1"] * 2

    internet = Internet(a=[unsupported("temperature")] * 5, b=[good(streamed=False)])
    play(internet, use)


def test_a_repair_is_an_attempt_and_counts_as_one(play: Play) -> None:
    async def use(rig: Rig) -> None:
        assert (await rig.ask(temperature=0.2)).status == 400
        assert internet.asked == ["a#1"]

    internet = Internet(a=[unsupported("temperature"), good(streamed=False)])
    play(
        internet,
        use,
        snapshot(model("a", deployment("a", drop_params=True)), routing=Routing(max_attempts=1)),
    )


def test_a_failure_after_the_repair_is_handled_like_any_other(play: Play) -> None:
    async def use(rig: Rig) -> None:
        assert (await rig.ask(temperature=0.2)).status == 200
        assert internet.asked == ["a#1", "a#1", "a#1", "b#1"]
        assert ["temperature" in one.body for one in internet.sent] == [True, False, False, True]
        assert "temperature" in internet.sent[3].body, "only the deployment that refused it goes without"

    internet = Internet(a=[unsupported("temperature"), refusal(500)], b=[good(streamed=False)])
    play(internet, use)


@pytest.mark.parametrize("param", ["messages", "messages[0].content", "model", "stream", None, "seed", ""])
def test_a_parameter_not_in_the_request_causes_no_repair(play: Play, param: str | None) -> None:
    async def use(rig: Rig) -> None:
        assert (await rig.ask(temperature=0.2)).status == 400
        assert internet.asked == ["a#1"]

    internet = Internet(a=[unsupported(param)] * 3)
    play(internet, use)


def test_without_drop_params_the_error_is_returned(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(temperature=0.2)
        assert (client.status, client.json["error"]["param"]) == (400, "temperature")
        assert internet.asked == ["a#1"]

    internet = Internet(a=[unsupported("temperature")] * 3)
    play(internet, use, snapshot(model("a")))


def test_max_tokens_is_renamed_and_never_dropped(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(max_tokens=50)
        assert client.status == 200
        assert "x-proxy-dropped-params" not in client.headers
        assert [one.body.get("max_tokens") for one in internet.sent] == [50, None]
        assert internet.sent[1].body["max_completion_tokens"] == 50

    internet = Internet(a=[unsupported("max_tokens", "unsupported_parameter"), good(streamed=False)])
    play(internet, use)


def test_parameter_names_are_recognised_in_other_spellings(play: Play) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask(presence_penalty=0.5)
        assert client.headers["x-proxy-dropped-params"] == "presence_penalty"

    unsupported_argument = unsupported(None, "", "Argument not supported on this model: presencePenalty")
    play(Internet(a=[unsupported_argument, good(streamed=False)]), use)


SAID: list[tuple[int, Any, str]] = [
    (400, {"error": {"message": "Unrecognized request argument supplied: top_k", "param": None}}, "top_k"),
    (
        400,
        {"error": {"message": "Unsupported parameter: 'top_p' is not supported with this model."}},
        "top_p",
    ),
    (400, {"error": {"message": "Unknown parameter: 'min_p'."}}, "min_p"),
    (400, {"error": {"message": "temperature: Extra inputs are not permitted", "type": "x"}}, "temperature"),
    (
        400,
        {"error": {"message": "`temperature` and `top_p` cannot both be specified for this model."}},
        "top_p",
    ),
    (400, {"error": {"message": "property 'seed' is unsupported"}}, "seed"),
    (400, {"error": {"message": "Model grok-4 does not support parameter stop."}}, "stop"),
    (400, {"code": "x", "error": "Argument not supported on this model: presencePenalty"}, "presencePenalty"),
    (
        400,
        [{"error": {"code": 400, "message": 'Invalid JSON. Unknown name "logit_bias": Cannot find field.'}}],
        "logit_bias",
    ),
    (
        422,
        {
            "detail": [
                {"type": "extra_forbidden", "loc": ["body", "top_k"], "msg": "Extra inputs are not permitted"}
            ]
        },
        "top_k",
    ),
    (400, {"error": {"message": "The prompt is too short."}}, ""),
    (500, {"error": {"message": "no", "code": "unsupported_value", "param": "seed"}}, ""),
    (401, {"error": {"message": "no", "code": "unsupported_value", "param": "seed"}}, ""),
]


@each(("status", "body", "name"), SAID)
def test_each_providers_wording_is_recognised(status: int, body: Any, name: str) -> None:
    failure = of_status(status, {}, parse_error(orjson.dumps(body)), 0.0)
    assert failure.unsupported == name


@each(
    ("soft", "name", "is_left_out"),
    [
        ({"parallel_tool_calls"}, "parallel_tool_calls", True),
        (set(), "parallel_tool_calls", False),
        ({"max_tokens"}, "max_tokens", False),
    ],
)
def test_soft_parameters_are_left_out_without_drop_params(
    soft: set[str], name: str, is_left_out: bool
) -> None:
    request = chat(params={"parallel_tool_calls": False, "max_tokens": 5}, soft=frozenset(soft))
    found = judged(failure("caller", unsupported=name), request, deployment())
    assert bool(found.unsupported) is is_left_out


# --- reasoning in the history ----------------------------------------------------------------------------------

REFUSED_REASONING = (
    ("", "messages.1.content.0: Invalid `signature` in `thinking` block", "thinking_signature"),
    (
        "",
        "The thinking block is bound to a different conversation; its signature does not match",
        "thinking_signature",
    ),
    ("invalid_encrypted_content", "no", "encrypted_content"),
    (
        "",
        "The encrypted content gAAA could not be verified. Reason: other organization.",
        "encrypted_content",
    ),
    ("", "The encrypted content for item rs_1 could not be decrypted or parsed.", "encrypted_content"),
)


@each("case", REFUSED_REASONING)
def test_refused_reasoning_is_recognised(case: tuple[str, str, str]) -> None:
    code, message, reason = case
    body = orjson.dumps({"error": {"message": message, "code": code, "type": "invalid_request_error"}})
    found = of_status(400, {}, parse_error(body), 0.0)
    assert (found.cls, found.reason, found.unsupported) == ("caller", reason, REASONING)
    thinking = [{"role": "assistant", "content": "x", "thinking_blocks": [{"type": "thinking"}]}]
    assert judged(found, chat(messages=thinking), deployment()).unsupported == REASONING
    assert judged(found, chat(), deployment(drop_params=True)).unsupported == ""
    assert of_status(500, {}, parse_error(body), 0.0).unsupported == ""


def test_a_chat_is_repeated_without_refused_thinking(play: Play) -> None:
    block = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    talk = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Yes.", "thinking_blocks": [block]},
        {"role": "user", "content": "again"},
    ]

    async def use(rig: Rig) -> None:
        client = await rig.ask(model="b", messages=talk)
        assert client.status == 200
        assert client.headers["x-proxy-dropped-params"] == REASONING
        row = await rig.row(client)
        assert [a.get("reason") for a in row["attempts"]] == ["thinking_signature", None]
        assert not rig.cooldowns.states()

    message = "messages.1: Invalid `signature` in `thinking` block"
    play(Internet(a=[], b=[refusal(400, message), good(streamed=False)]), use)


def test_a_refusal_of_reasoning_is_repaired_only_once(play: Play) -> None:
    talk = [
        {"role": "assistant", "content": "Yes.", "thinking_blocks": [{"type": "thinking", "signature": "x"}]},
        {"role": "user", "content": "again"},
    ]

    async def use(rig: Rig) -> None:
        client = await rig.ask(model="b", messages=talk)
        assert client.status == 400
        assert internet.asked == ["b#1"] * 2

    internet = Internet(b=[refusal(400, "Invalid signature in thinking block")] * 3)
    play(internet, use)


TOO_LARGE = "max_tokens is too large: 32000. This model supports at most 16384 completion tokens."


@each(
    ("wanted", "soft", "expected"),
    [(32_000, {"max_tokens"}, 16_384), (32_000, set(), None), (16_384, {"max_tokens"}, None)],
)
def test_a_bound_above_the_stated_one_is_reduced_where_it_is_a_ceiling(
    wanted: int, soft: set[str], expected: int | None
) -> None:
    request = chat(params={"max_tokens": wanted, "top_p": 0.5}, soft=frozenset(soft))
    body = orjson.dumps({"error": {"message": TOO_LARGE, "code": "invalid_value", "param": "max_tokens"}})
    found = judged(of_status(400, {}, parse_error(body), 0.0), request, deployment(drop_params=True))
    assert bool(found.unsupported) is (expected is not None)
    if expected is not None:
        again, gone = repaired(request, frozenset({found.unsupported}))
        assert again.params == {"max_tokens": expected, "top_p": 0.5}
        assert gone == ()
        assert not judged(found, again, deployment()).unsupported


def test_a_bound_is_reduced_once_for_each_deployment() -> None:
    here = deployment("a")

    def refused(most: int) -> Attempt:
        return attempt(here, "caller", status=400, unsupported=f"max_tokens<={most}")

    def step(*attempts: Attempt) -> Any:
        return next_step([here], attempts, 0.0, Routing(), lambda: 0.5, {}, 0.0)

    assert step(refused(100)) == Try(here, 0.0, Routing().deadline)
    assert isinstance(step(refused(100), refused(99)), GiveUp)


# --- relayed requests ------------------------------------------------------------------------------------------


def test_a_relayed_request_is_repaired_in_its_own_words() -> None:
    body = {"model": "m", "max_tokens": 5, "stop_sequences": ["x"], "messages": []}
    request = chat(dialect="messages", native=Native(body, {}))
    lenient = deployment(drop_params=True)

    def judge(name: str, to: Deployment) -> str:
        return judged(failure("caller", unsupported=name), request, to).unsupported

    assert judge("stop_sequences", lenient) == "stop_sequences"
    assert judge("stop_sequences", deployment()) == ""
    for name in ("max_tokens", "model", "messages", "stop", "unknown"):
        assert judge(name, lenient) == ""
    left, dropped = repaired(request, frozenset({"stop_sequences"}))
    assert dropped == ("stop_sequences",)
    assert left.native is not None
    assert left.native.body == {"model": "m", "max_tokens": 5, "messages": []}
