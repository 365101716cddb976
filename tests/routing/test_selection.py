"""The chain of a request: whose traffic is shared, who is left out, and that the cooling come last."""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment, Routing, Snapshot
from codellama_proxy.routing.cooldown import Cooling
from codellama_proxy.routing.selection import (
    candidates,
    exact_aliases,
    model_name,
    models_of_chain,
    requested_model,
    starting_model,
    weighted,
)
from tests.support.builders import deployment, model, snapshot

A, B, C = deployment("a"), deployment("b"), deployment("c")


def half() -> float:
    return 0.5


def everything(_: str) -> bool:
    return True


def test_deployments_of_one_model_share_the_traffic_by_weight() -> None:
    weights = {"m#1": 1.0, "m#2": 3.0, "m#3": 6.0}
    alike = [deployment("m", n, weight=w) for n, w in enumerate(weights.values(), 1)]
    dice = random.Random(7)
    first = Counter(weighted(alike, dice.random)[0].id for _ in range(4000))
    for name, weight in weights.items():
        assert first[name] / 4000 == pytest.approx(weight / 10, abs=0.03)


def test_a_deployment_of_weight_zero_is_only_a_backup() -> None:
    spare, other = deployment("m", 1, weight=0.0), deployment("m", 2, weight=0.001)
    dice = random.Random(1)
    assert all(weighted([spare, other], dice.random) == [other, spare] for _ in range(200))


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=3), st.permutations([A, B, C]))
def test_every_order_has_every_deployment_once(draws: list[float], order: list[Deployment]) -> None:
    dice = itertools.cycle(draws)
    assert sorted(d.id for d in weighted(order, lambda: next(dice))) == ["a#1", "b#1", "c#1"]


def test_cooling_deployments_come_last_ordered_by_readiness() -> None:
    models = [model("a"), model("b"), model("c")]
    cooling = {"a#1": Cooling(3, until=50.0, rounds=1), "b#1": Cooling(3, until=20.0, rounds=1)}
    assert [d.id for d in candidates(models, cooling, 10.0, half)] == ["c#1", "b#1", "a#1"]
    assert [d.id for d in candidates(models, cooling, 30.0, half)] == ["b#1", "c#1", "a#1"]
    assert [d.id for d in candidates(models, {}, 30.0, half)] == ["a#1", "b#1", "c#1"]


def test_a_deployment_being_probed_comes_last() -> None:
    cooling = {"a#1": Cooling(3, until=5.0, rounds=1, probing=True)}
    assert [d.id for d in candidates([model("a"), model("b")], cooling, 10.0, half)] == ["b#1", "a#1"]


def test_failures_without_cooldown_do_not_change_the_order() -> None:
    models = [model("a"), model("b")]
    assert [d.id for d in candidates(models, {"a#1": Cooling(2)}, 0.0, half)] == ["a#1", "b#1"]


def test_deployments_of_another_mode_are_not_candidates() -> None:
    snap = snapshot(model("m", deployment("m", 1), deployment("m", 2, mode="embedding")))
    (chat,) = models_of_chain(snap, snap.models["m"], lambda _: True, {}, 0.0, "chat")
    assert [d.id for d in candidates([chat], {}, 0.0, half)] == ["m#1"]


def test_a_request_without_model_starts_at_the_default_model() -> None:
    mock = model("mock", deployment("mock", provider="mock", fallback=False))
    assert starting_model([mock, model("a"), model("b")]) == model("a")
    assert starting_model([mock]) == mock
    assert starting_model([]) is None


def test_unknown_and_forbidden_models_get_the_same_error() -> None:
    snap = snapshot(model("alpha"), model("vectors", deployment("vectors", mode="embedding")))
    asked: list[tuple[str, Callable[[str], bool]]] = [
        ("nobody", everything),
        ("alpha", lambda name: name != "alpha"),
        ("vectors", lambda name: name == "alpha"),
    ]
    errors = []
    for name, permitted in asked:
        with pytest.raises(ProxyError) as caught:
            requested_model(snap, name, "chat", permitted)
        errors.append(caught.value.body().replace(name.encode(), b"NAME"))
        assert caught.value.status == 404
    assert len(set(errors)) == 1


def test_unknown_models_may_start_at_the_default_model() -> None:
    lenient = snapshot(model("a"), model("b"), routing=Routing(unknown_model="default"))
    assert requested_model(lenient, "nobody", "chat", everything).name == "a"
    assert requested_model(lenient, None, "chat", lambda name: name == "b").name == "b"
    with pytest.raises(ProxyError):  # it exists, so it is not unknown: it is forbidden
        requested_model(lenient, "a", "chat", lambda name: name == "b")


def chain_of(
    snap: Snapshot,
    permitted: Callable[[str], bool] = everything,
    cooling: Mapping[str, Cooling] = MappingProxyType({}),
) -> list[str]:
    return [m.name for m in models_of_chain(snap, snap.models["a"], permitted, cooling, 0.0)]


def test_the_chain_skips_models_the_caller_may_not_use() -> None:
    snap = snapshot(model("a"), model("b"), model("c"))
    assert chain_of(snap, lambda name: name != "b") == ["a", "c"]


def test_a_model_is_not_its_own_fallback() -> None:
    snap = snapshot(model("a", fallbacks=("b", "a", "gone")), model("b"))
    assert chain_of(snap) == ["a", "b"]


def test_a_chain_has_at_most_max_attempts_ready_deployments() -> None:
    snap = replace(snapshot(*(model(name) for name in "abcdef")), routing=Routing(max_attempts=2))
    assert chain_of(snap) == ["a", "b"]
    assert chain_of(snap, cooling={"a#1": Cooling(3, until=10.0, rounds=1)}) == ["a", "b", "c"]


# --- aliases -----------------------------------------------------------------------------------------------

ALIASED = snapshot(
    model("alpha"),
    model("beta"),
    aliases={"alpha-*": "alpha", "gpt-3.5-turbo": "beta", "gpt-?": "alpha", "alph*": "beta", "old": "gone"},
    disabled=(deployment("alphabet", disabled="no key"),),
)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("alpha", "alpha"),
        ("alpha-2", "alpha"),
        ("ALPHA-2", "ALPHA-2"),
        ("gpt-3.5-turbo", "beta"),
        ("gpt-4", "alpha"),
        ("gpt-44", "gpt-44"),
        ("alphonse", "beta"),
        ("alphabet", "alphabet"),
    ],
)
def test_an_alias_stands_for_a_model_after_exact_names(asked: str, found: str) -> None:
    assert model_name(ALIASED, asked) == found


def test_the_permissions_of_an_alias_are_those_of_its_model() -> None:
    assert requested_model(ALIASED, "gpt-4", "chat", lambda name: name == "alpha").name == "alpha"
    for asked in ("gpt-4", "old", "alphabet"):
        with pytest.raises(ProxyError) as caught:
            requested_model(ALIASED, asked, "chat", lambda name: name != "alpha")
        assert caught.value.message == f"The model '{asked}' does not exist or you do not have access to it."


@pytest.mark.parametrize(
    ("asked", "mode", "detail"),
    [
        ("alphabet", "chat", "disabled: no key"),
        ("gpt-4", "chat", "not permitted"),
        ("alpha", "embedding", "does not serve embedding requests"),
        ("old", "chat", "not in proxy.yaml"),
    ],
)
def test_the_detail_of_a_model_not_found_is_the_reason(asked: str, mode: str, detail: str) -> None:
    with pytest.raises(ProxyError) as caught:
        requested_model(ALIASED, asked, mode, lambda name: name != "alpha")
    assert caught.value.detail == detail


def test_a_model_of_another_mode_is_told_apart_from_an_unknown_one() -> None:
    vectors = [model(name, deployment(name, mode="embedding")) for name in ("v1", "v2", "v3", "v4")]
    snap = snapshot(model("chats"), *vectors, aliases={"old": "chats"})
    for name, permitted, message in (
        ("chats", everything, "The model 'chats' does not serve embedding requests. Use v1 or v2 or v3."),
        (
            "old",
            lambda name: name in ("chats", "v2"),
            "The model 'old' does not serve embedding requests. Use v2.",
        ),
        (
            "chats",
            lambda name: name == "chats",
            "The model 'chats' does not serve embedding requests. "
            "No model does, for this key: an entry needs mode: embedding.",
        ),
        (
            "chats",
            lambda name: name != "chats",
            "The model 'chats' does not exist or you do not have access to it.",
        ),
    ):
        with pytest.raises(ProxyError) as caught:
            requested_model(snap, name, "embedding", permitted)
        assert (caught.value.status, caught.value.code) == (404, "model_not_found")
        assert caught.value.message == message


def test_aliases_without_wildcards_are_listed_with_the_model_they_reach() -> None:
    assert exact_aliases(ALIASED) == {"gpt-3.5-turbo": "beta", "old": "gone"}
