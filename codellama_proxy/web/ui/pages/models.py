"""The models in the order of fallbacks: their state, and how they fared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.core.snapshot import Deployment, Model, Price, Snapshot
from codellama_proxy.policy.permissions import permission
from codellama_proxy.pricing.catalogue import price_of
from codellama_proxy.routing.cooldown import Cooling, is_cooling
from codellama_proxy.store.reports import Filters
from codellama_proxy.web.state import Runtime, runtime_of
from codellama_proxy.web.ui import words
from codellama_proxy.web.ui.deployments import Stats, statistics
from codellama_proxy.web.ui.forms import form
from codellama_proxy.web.ui.guard import not_found, parameters
from codellama_proxy.web.ui.ranges import range_of
from codellama_proxy.web.ui.render import render
from codellama_proxy.web.ui.state import state_of
from codellama_proxy.web.ui.viewer import Viewer

if TYPE_CHECKING:
    from codellama_proxy.diagnostics.probe import ProbeResult

MAX_RECENT = 3_000
"""Requests from which the statistics are."""


class Row(NamedTuple):
    """A deployment, or for key holders a model."""

    name: str
    upstream: str
    """The provider and its model; empty for key holders."""
    state: str
    """`ready`, `cooling`, `probing` or `disabled`."""
    why: str
    stats: Stats
    price: Price | None
    spend: int | None
    """Nano-USD of the whole model; `None` in the rows of its other deployments."""


async def models(request: Request, viewer: Viewer) -> Response:
    """Deployments for the operator; models without their upstreams for key holders."""
    return await _page(request, viewer)


async def probe(request: Request, viewer: Viewer) -> Response:
    """Sends one small request to a deployment; shows the result. Raises `ProxyError` 404."""
    from codellama_proxy.diagnostics.probe import probe_one  # noqa: PLC0415 - probes are rare

    runtime, state = runtime_of(request), state_of(request)
    wanted = (await form(request)).get("deployment", "")
    snapshot = runtime.live.snapshot
    found = next((d for model in snapshot.models.values() for d in model.deployments if d.id == wanted), None)
    if found is None:
        raise not_found()
    result: ProbeResult | None = None
    if found.id not in state.probed:
        state.probed.add(found.id)
        try:
            result = await probe_one(found, snapshot, runtime.pools, runtime.time)
        finally:
            state.probed.discard(found.id)
    if request.headers.get("hx-request"):
        return render(request, "_probe.html", result=result)
    return await _page(request, viewer, result)


async def _page(request: Request, viewer: Viewer, result: ProbeResult | None = None) -> Response:
    runtime = runtime_of(request)
    project = viewer.project(parameters(request).get("project"))
    recent = await runtime.store.overviews.recent(project, MAX_RECENT)
    week = range_of("7d", runtime.time.wall())  # as in the overview
    filters = Filters(project=project, start=week.start, end=week.end)
    sums = await runtime.store.overviews.sums(("model",), filters)
    spent = {one.groups["model"]: one.cost_nanos for one in sums.groups}
    stats = statistics(recent, by_model=not viewer.is_operator)
    rows = list(
        _of_deployments(runtime, stats, spent)
        if viewer.is_operator
        else _of_models(runtime, viewer, stats, spent)
    )
    return render(
        request,
        "models.html",
        rows=rows,
        project=project,
        projects=sorted({*runtime.live.snapshot.projects, *([project] if project else [])}),
        total=sums.total.cost_nanos,
        form=words.usd_column(row.spend for row in rows),
        since=recent[-1].created_at if recent else None,
        number=len(recent),
        result=result,
    )


def _of_deployments(
    runtime: Runtime, stats: Mapping[str, Stats], spent: Mapping[str | None, int]
) -> Iterator[Row]:
    snapshot, cooling = runtime.live.snapshot, runtime.cooldowns.states()
    now = runtime.time.monotonic()
    for deployment in _in_order(snapshot):
        first = deployment.id.endswith("#1")
        state, why = _state(deployment, cooling.get(deployment.id), now)
        yield Row(
            deployment.id,
            f"{deployment.provider} {deployment.model}",
            state,
            why,
            stats.get(deployment.id, Stats()),
            price_of(deployment),
            spent.get(deployment.name, 0) if first else None,
        )


def _in_order(snapshot: Snapshot) -> Sequence[Deployment]:
    """All deployments: the enabled ones in the order of the file, then the disabled ones."""
    return [*(d for model in snapshot.models.values() for d in model.deployments), *snapshot.disabled]


def _of_models(
    runtime: Runtime, viewer: Viewer, stats: Mapping[str, Stats], spent: Mapping[str | None, int]
) -> Iterator[Row]:
    snapshot, cooling = runtime.live.snapshot, runtime.cooldowns.states()
    assert viewer.key is not None
    permitted = permission(snapshot.project(viewer.key.project), viewer.key)
    for model in snapshot.models.values():
        if permitted(model.name):
            yield Row(
                model.name,
                "",
                "ready" if _is_ready(model, cooling, runtime.time.monotonic()) else "cooling",
                "",
                stats.get(model.name, Stats()),
                price_of(model.deployments[0]),
                spent.get(model.name, 0),
            )


def _is_ready(model: Model, cooling: Mapping[str, Cooling], now: float) -> bool:
    return any(not is_cooling(cooling.get(deployment.id), now) for deployment in model.deployments)


def _state(deployment: Deployment, cooling: Cooling | None, now: float) -> tuple[str, str]:
    """The state and the reason for it."""
    if deployment.disabled is not None:
        return "disabled", deployment.disabled
    if cooling is None or not is_cooling(cooling, now):
        return "ready", ""
    if cooling.until <= now:
        return "probing", cooling.why
    return "cooling", f"for {words.span(cooling.until - now)}, {cooling.why}"
