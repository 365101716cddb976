"""Builds the nouns of the request path with defaults that a test need not repeat."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from codellama_proxy.core.snapshot import Cache as CacheSettings
from codellama_proxy.core.snapshot import Deployment, Guardrail, Limits, Model, Routing, Secret, Snapshot
from codellama_proxy.core.snapshot import Server as ServerSettings
from codellama_proxy.core.snapshot import Tracking as TrackingSettings
from codellama_proxy.core.types import Attempt, Failure, FailureClass
from codellama_proxy.openai_format.request import InferenceRequest

KEY = Secret("sk-upstream-secret")


def deployment(name: str = "m", n: int = 1, **changes: Any) -> Deployment:
    one = Deployment(
        id=f"{name}#{n}",
        name=name,
        provider="openai_compatible",
        model=f"{name}-upstream",
        base_url=f"https://{name}-{n}.example/v1",
        api_key=KEY,
    )
    return replace(one, **changes)


def model(name: str = "m", *deployments: Deployment, fallbacks: tuple[str, ...] = ()) -> Model:
    return Model(name, deployments or (deployment(name),), fallbacks)


def snapshot(*models: Model, **changes: Any) -> Snapshot:
    """Each model falls back to all below it, unless it says otherwise."""
    names = [one.name for one in models]
    linked = {
        one.name: one if one.fallbacks else replace(one, fallbacks=tuple(names[at + 1 :]))
        for at, one in enumerate(models)
    }
    plain = Snapshot(
        digest="0123456789ab",
        models=linked,
        disabled=(),
        guardrail=Guardrail("Only code."),
        routing=Routing(),
        limits={kind: Limits() for kind in ("global", "project", "key", "user")},
        projects={},
        cache=CacheSettings(enabled=False),
        tracking=TrackingSettings(),
        server=ServerSettings(),
        auth_required=True,
        metrics_public=False,
    )
    return replace(plain, **changes)


def failure(cls: FailureClass = "transient", **changes: Any) -> Failure:
    return replace(Failure(cls), **changes)


def attempt(where: Deployment | str, cls: FailureClass | None = "transient", **changes: Any) -> Attempt:
    where = where if isinstance(where, str) else where.id
    return Attempt(where, failure(cls, **changes) if cls else None, 1.0)


def chat(**changes: Any) -> InferenceRequest:
    plain = InferenceRequest(
        model="m",
        messages=[{"role": "system", "content": "Only code."}, {"role": "user", "content": "hello"}],
        stream=False,
        include_usage=False,
        params={},
        user=None,
        metadata={},
        cache={},
        size=100,
        id="req_1",
        created=1_700_000_000,
    )
    return plain._replace(**changes)
