"""Sticky conversations: shares by weight, minimal movement, and what identifies a conversation."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.snapshot import Deployment, Routing
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.routing.cooldown import Cooling
from codellama_proxy.routing.selection import candidates
from codellama_proxy.routing.sticky import Conversation, conversation_of, identity_of, ranked
from tests.support.builders import KEY, chat, deployment, model
from tests.support.cases import each

CONVERSATIONS = 20_000
SEEDS = [Conversation(random.Random(n).randbytes(16), "test") for n in range(CONVERSATIONS)]
PAIR = model("m", deployment("m", 1), deployment("m", 2))


def firsts(deployments: Sequence[Deployment], seeds: Sequence[Conversation] = SEEDS) -> list[str]:
    return [ranked(deployments, seed)[0].id for seed in seeds]


def of(request: InferenceRequest, session: str | None = None, key_id: str | None = "key_a") -> bytes:
    found = conversation_of(request, [PAIR], Routing(), session, key_id)
    assert found is not None
    return found.seed


def messages(system: Any, user: Any, *more: dict[str, Any]) -> InferenceRequest:
    return chat(messages=[{"role": "system", "content": system}, {"role": "user", "content": user}, *more])


# --- shares and movement -----------------------------------------------------------------------------------


@each("weights", [(1.0, 1.0), (1.0, 3.0, 6.0), (0.5, 0.25, 0.25, 2.0), (90.0, 10.0)])
def test_conversations_are_shared_by_weight(weights: tuple[float, ...]) -> None:
    alike = [deployment("m", n, weight=w) for n, w in enumerate(weights, 1)]
    first = Counter(firsts(alike))
    for one in alike:
        share = first[one.id] / CONVERSATIONS
        assert share == pytest.approx(one.weight / sum(weights), rel=0.05), one.id


def test_an_added_deployment_takes_its_share_and_moves_nothing_else() -> None:
    before = [deployment("m", n, weight=float(n)) for n in (1, 2, 3)]
    added = deployment("m", 4, weight=2.0)
    pairs = list(zip(firsts(before), firsts([*before, added]), strict=True))
    moved = [new for old, new in pairs if old != new]
    assert set(moved) == {added.id}
    assert len(moved) / CONVERSATIONS == pytest.approx(2 / 8, rel=0.05)


def test_a_changed_weight_moves_conversations_in_one_direction_only() -> None:
    before = [deployment("m", n) for n in (1, 2, 3)]
    heavier = [*before[:2], replace(before[2], weight=2.0)]
    pairs = zip(firsts(before), firsts(heavier), strict=True)
    assert {new for old, new in pairs if old != new} == {"m#3"}


def test_a_cooling_deployment_is_passed_over_and_gets_its_conversations_back() -> None:
    alike = model("m", *(deployment("m", n) for n in (1, 2, 3)))
    cooling = {"m#2": Cooling(3, until=50.0, rounds=1)}

    def first(seed: Conversation, now: float) -> str:
        return candidates([alike], cooling, now, random.random, seed)[0].id

    some = SEEDS[:3000]
    before, during, after = ([first(seed, now) for seed in some] for now in (60.0, 10.0, 51.0))
    assert before == after
    assert "m#2" not in during
    assert all(old in ("m#2", new) for old, new in zip(before, during, strict=True))
    taken = Counter(new for old, new in zip(before, during, strict=True) if old == "m#2")
    assert taken["m#1"] == pytest.approx(taken["m#3"], rel=0.2)


def test_a_deployment_of_weight_zero_is_only_a_backup() -> None:
    spare, other = deployment("m", 1, weight=0.0), deployment("m", 2, weight=0.001)
    assert all(ranked([spare, other], seed) == [other, spare] for seed in SEEDS[:500])


def test_an_entry_inserted_above_others_moves_only_its_own_share() -> None:
    """Ids are numbered in file order; identities are not."""
    old = [replace(one, identity=identity_of(one)) for one in (deployment("m", 1), deployment("m", 2))]
    top = deployment("m", 9)
    new = [replace(top, id="m#1", identity=identity_of(top)), *(replace(d, id=f"{d.id}+1") for d in old)]
    pairs = zip(firsts(old, SEEDS[:3000]), firsts(new, SEEDS[:3000]), strict=True)
    assert all(after in ("m#1", f"{before}+1") for before, after in pairs)


@given(st.binary(min_size=16, max_size=16), st.lists(st.floats(0, 10**6), min_size=1, max_size=6))
def test_every_order_has_every_deployment_once(seed: bytes, weights: list[float]) -> None:
    alike = [deployment("m", n, weight=w) for n, w in enumerate(weights)]
    order = ranked(alike, Conversation(seed, ""))
    assert sorted(d.id for d in order) == sorted(d.id for d in alike)
    assert order == ranked(list(reversed(alike)), Conversation(seed, ""))


def test_the_identity_does_not_contain_the_key() -> None:
    one = deployment()
    assert KEY.reveal() not in identity_of(one)
    assert identity_of(one) != identity_of(replace(one, base_url="https://other.example/v1"))
    assert identity_of(one) == identity_of(replace(one, id="m#7", weight=3.0))
    assert identity_of(one) not in repr(replace(one, identity=identity_of(one)))


# --- what identifies a conversation ------------------------------------------------------------------------


def test_the_turns_of_a_conversation_are_one_conversation() -> None:
    first = of(messages("Be brief.", "hello"))
    later = messages(
        "Be brief.", "hello", {"role": "assistant", "content": "hi"}, {"role": "user", "content": "x"}
    )
    assert of(later) == first
    assert of(messages("Be brief.", [{"type": "text", "text": "hello"}])) == first
    assert of(messages("Be brief.", "hello"), key_id="key_b") != first
    assert of(messages("Be long.", "hello")) != first
    assert of(messages("Be brief.", "goodbye")) != first
    assert of(messages("Be brief.h", "ello")) != first


def test_a_session_or_cache_key_identifies_a_conversation_whatever_it_says() -> None:
    one, other = messages("a", "b"), messages("c", "d")
    assert of(one, "s1") == of(other, "s1", key_id="key_b") != of(one, "s2")
    keyed = [request._replace(params={"prompt_cache_key": "k"}) for request in (one, other)]
    assert of(keyed[0], "s1") == of(keyed[1], "s2") != of(one, "k")


def test_there_is_no_conversation_without_a_choice() -> None:
    request = chat()
    assert conversation_of(request, [model("a"), model("b")], Routing(), "s", "key_a") is None
    assert conversation_of(request, [model("a"), PAIR], Routing(), "s", "key_a") is not None
    assert conversation_of(request, [PAIR], Routing(sticky=False), "s", "key_a") is None
    assert conversation_of(chat(messages=()), [PAIR], Routing(), None, "key_a") is None


PARTS = st.one_of(
    st.none(),
    st.text(st.characters(codec=None), max_size=20),
    st.integers(),
    st.lists(st.none()),
    st.lists(st.dictionaries(st.sampled_from(["type", "text"]), st.one_of(st.text(), st.integers()))),
)


@given(st.lists(st.dictionaries(st.sampled_from(["role", "content"]), PARTS), max_size=4), PARTS)
def test_any_message_can_be_hashed(odd: list[dict[str, Any]], cache_key: Any) -> None:
    request = chat(messages=odd, params={"prompt_cache_key": cache_key})
    found = conversation_of(request, [PAIR], Routing(), None, None)
    assert found is None or len(found.seed) == 16
