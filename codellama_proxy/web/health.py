"""Liveness, readiness and the state of the models. Contains no secret and no address."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.core.clock import iso
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.masking import mask_of, masked
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.routing.cooldown import is_cooling
from codellama_proxy.web.auth import require_admin
from codellama_proxy.web.http import respond
from codellama_proxy.web.state import Runtime, runtime_of


async def liveliness(_: Request) -> Response:
    return respond({"status": "alive"})


async def hello(_: Request) -> Response:
    """What Claude Code asks for at its start, to see whether it is connected."""
    return respond({"message": "hello"})


async def readiness(request: Request) -> Response:
    status = readiness_status(runtime_of(request))
    response = respond({"status": status, "config": _config(request)}, 200 if status == "ready" else 503)
    if status != "ready":
        response.headers.update(ProxyError(status, "").wire_headers())
    return response


def readiness_status(runtime: Runtime) -> Literal["ready", "shutting_down", "accounting_unavailable"]:
    """Whether the process serves requests, else why not."""
    if runtime.draining:
        return "shutting_down"
    return "ready" if runtime.store.health.healthy else "accounting_unavailable"


async def health(request: Request) -> Response:
    await require_admin(request)
    runtime = runtime_of(request)
    snapshot = runtime.live.snapshot
    enabled = [d for model in snapshot.models.values() for d in model.deployments]
    models = [*(_state(request, d) for d in enabled), *(_disabled(d) for d in snapshot.disabled)]
    config = {**_config(request), "changes": list(runtime.live.changes)}
    state = {"models": models, "config": config, "running": runtime.gateway.running}
    return respond(masked({**state, **await _installation(runtime)}, mask_of(snapshot)))


async def _installation(runtime: Runtime) -> Mapping[str, Any]:
    """The processes on one database and their configurations; nothing where this one is alone."""
    if runtime.store.workers is None:
        return {}
    try:
        workers = await runtime.store.workers.workers()
    except ProxyError:  # the rest is wanted now in particular
        return {"workers": None, "configurations": None}
    shown = [
        {
            **one._asdict(),
            "loaded_at": iso(one.loaded_at),
            "started_at": iso(one.started_at),
            "beat_at": iso(one.beat_at),
        }
        for one in workers
    ]
    return {"workers": shown, "configurations": len({one.digest for one in workers if one.digest})}


def _config(request: Request) -> Mapping[str, Any]:
    live = runtime_of(request).live
    return {
        "digest": live.snapshot.digest,
        "loaded_at": iso(live.loaded_at),
        "stale": live.error is not None,
        "error": live.error,
    }


def _state(request: Request, deployment: Deployment) -> Mapping[str, Any]:
    shown = dict(_shown(deployment)) | dict(_cooling(request, deployment))
    missing = runtime_of(request).missing_endpoints.of(deployment)
    return {**shown, "missing_endpoints": missing} if missing else shown


def _cooling(request: Request, deployment: Deployment) -> Iterator[tuple[str, Any]]:
    runtime = runtime_of(request)
    now = runtime.time.monotonic()
    found = runtime.cooldowns.states().get(deployment.id)
    if found is None or not is_cooling(found, now):
        yield "state", "ready"
        return
    yield "state", "cooling"
    yield "until", iso(runtime.time.wall() + max(found.until - now, 0.0))
    yield "why", found.why


def _disabled(deployment: Deployment) -> Mapping[str, Any]:
    return {**_shown(deployment), "state": "disabled", "why": deployment.disabled}


def _shown(deployment: Deployment) -> dict[str, Any]:
    return {
        "model": deployment.name,
        "deployment": deployment.id,
        "provider": deployment.provider,
        "upstream_model": deployment.model,
    }
