"""What is worked out once for a configuration is what every request would work out."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Guardrail, Limits, Price, Project, Routing
from codellama_proxy.core.types import Key
from codellama_proxy.gateway import prepared as preparation
from codellama_proxy.gateway.prepared import LatestPrepared, PreparedSnapshot
from codellama_proxy.limits import caller_scopes
from codellama_proxy.limits import rates as limits
from codellama_proxy.limits.caller_scopes import ProjectScopes
from codellama_proxy.policy.permissions import every_model
from codellama_proxy.routing.chain import Chain
from codellama_proxy.routing.selection import models_of_chain
from tests.support.builders import deployment, model, snapshot

ONE = Limits(rpm_limit=1)


@given(st.lists(st.sampled_from("abc"), max_size=3, unique=True), st.integers(1, 4))
def test_a_whole_chain_is_that_of_a_key_without_restrictions(fallbacks: list[str], most: int) -> None:
    mixed = model("b", deployment("b"), deployment("b", 2, mode="embedding"))
    first = model("a", fallbacks=tuple(fallbacks))
    snap = snapshot(first, mixed, model("c"), routing=Routing(max_attempts=most))
    prepared = PreparedSnapshot(snap)
    for name, mode in (("a", "chat"), ("b", "chat"), ("b", "embedding"), ("a", "chat")):
        expected = models_of_chain(snap, snap.models[name], every_model, {}, 0.0, mode)
        assert list(prepared.whole_chain(name, mode).models) == expected
    assert prepared.whole_chain(None, "chat").models[0].name == "a"


def test_only_names_in_the_file_are_kept() -> None:
    snap = snapshot(model("a"), aliases={"gpt-*": "a"}, routing=Routing(unknown_model="default"))
    prepared = PreparedSnapshot(snap)
    chain = prepared.whole_chain("a", "chat")
    assert all(prepared.whole_chain(f"gpt-{n}", "chat") is chain for n in range(3))
    assert all(prepared.whole_chain(f"unknown-{n}", "chat") is chain for n in range(3))
    assert len(prepared._whole_chains) == 1
    strict = PreparedSnapshot(snapshot(model("a")))
    for _ in range(2):
        with pytest.raises(ProxyError, match="does not exist"):
            strict.whole_chain("b", "chat")


def test_rules_are_those_of_the_project() -> None:
    own = Project("web", limits=Limits(tpm_limit=2), guardrail="own")
    snap = snapshot(
        model("a"),
        guardrail=Guardrail("general"),
        limits={"global": ONE, "project": Limits(), "key": ONE, "user": ONE},
        projects={"web": own},
    )
    prepared = PreparedSnapshot(snap)
    key, to = Key("key_a", "web"), deployment("a")
    for name, text in (("web", "own"), ("other", "general")):
        rules = prepared.rules(name)
        assert rules is prepared.rules(name)
        assert rules.settings == snap.project(name)
        assert rules.candidate(to) is rules.candidate(to)
        assert rules.candidate(to).guardrail_text == text
        for caller, user in ((None, None), (key, None), (key, "bob"), (None, "bob")):
            assert rules.scopes is not None
            found = rules.scopes.of(caller, user)
            assert found.limited == limits.scopes_of(snap, rules.settings, caller, user)
            assert (found.budgeted, found.counts_tokens) == (False, name == "web")


def test_the_scopes_of_a_key_are_kept_until_it_changes() -> None:
    snap = snapshot(model("a"), limits=dict.fromkeys(("global", "project", "key", "user"), Limits()))
    scopes = ProjectScopes(snap, Project("web"))
    key = Key("key_a", "web", limits=Limits(max_budget=5, given=frozenset({"max_budget"})))
    assert scopes.of(key, "bob") is scopes.of(key, None), "users have no limit here"
    assert scopes.of(key, None).budgeted
    assert not scopes.of(replace(key, limits=Limits()), None).budgeted
    for number in range(2 * caller_scopes.MAX_CALLERS):
        scopes.of(Key(f"key_{number}", "web"), None)
    assert len(scopes._of_keys) <= caller_scopes.MAX_CALLERS


def test_the_number_of_projects_is_bounded() -> None:
    prepared = PreparedSnapshot(snapshot(model("a")))
    for number in range(2 * preparation.MAX_PROJECTS):
        assert prepared.rules(f"p{number}").settings.name == f"p{number}"
    assert len(prepared._rules) <= preparation.MAX_PROJECTS


def test_a_reload_starts_anew() -> None:
    now = snapshot(model("a"))
    latest = LatestPrepared(lambda: now)
    first = latest()
    assert latest() is first
    now = snapshot(model("b"))
    assert latest().snapshot is now


def test_a_budget_leaves_what_has_a_price() -> None:
    priced = deployment("a", price=Price(1, 2))
    free_of_price = deployment("a", 2, provider="openai_compatible", price=None)
    mixed, unknown = model("a", priced, free_of_price), model("b", deployment("b", price=None))
    assert [d.id for d in Chain([mixed, unknown]).payable().deployments] == ["a#1"]
    for chain in (Chain([model("a", priced)]), Chain([unknown])):
        assert chain.payable() is chain
