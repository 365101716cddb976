"""Endpoints that upstreams lack: remembered for an hour, and for as long as the address stays the same."""

from __future__ import annotations

from codellama_proxy.routing.missing_endpoints import MISSING_SECONDS, MissingEndpoints
from codellama_proxy.upstream.pools import identity_of
from tests.support.builders import deployment

BOTH = frozenset({"messages", "responses"})


def test_a_missing_endpoint_is_remembered_for_its_deployment_and_dialect() -> None:
    now = 0.0
    missing = MissingEndpoints(identity_of, lambda: now)
    here, other = deployment("a", relays=BOTH), deployment("b", relays=BOTH)
    missing.add(here, "responses")
    assert (missing.of(here), missing.of(other)) == (["responses"], [])
    now = MISSING_SECONDS
    assert missing.of(here) == []


def test_a_changed_address_makes_it_void() -> None:
    missing = MissingEndpoints(identity_of, lambda: 0.0)
    missing.add(deployment("a", relays=BOTH), "messages")
    assert not missing.lacks(deployment("a", relays=BOTH, base_url="http://127.0.0.1:1/v1"), "messages")
    assert not missing.lacks(deployment("a", relays=BOTH), "messages")
