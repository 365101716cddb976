"""GET /metrics, for Prometheus: needs the master key unless `metrics.public` is set."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric
from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.config.live import LiveConfig
from codellama_proxy.routing.cooldown import Cooldowns, is_cooling
from codellama_proxy.tracking import metrics as tracked
from codellama_proxy.web.auth import require_admin
from codellama_proxy.web.state import runtime_of


async def metrics(request: Request) -> Response:
    runtime = runtime_of(request)
    if not runtime.live.snapshot.metrics_public:
        await require_admin(request)
    accept = request.headers.get("accept", "")
    if runtime.shared_metrics is not None:
        page, content_type = await runtime.shared_metrics.page(accept)
    else:
        page, content_type = runtime.metrics.page(accept)
    return Response(page, headers={"content-type": content_type})


def standing(live: LiveConfig, cooldowns: Cooldowns, monotonic: Callable[[], float]) -> Iterator[Metric]:
    """Metrics read from the current state at each scrape."""
    states, now = cooldowns.states(), monotonic()
    ids = [d.id for model in live.snapshot.models.values() for d in model.deployments]
    yield tracked.cooldown({id_: is_cooling(states.get(id_), now) for id_ in ids})
    yield from tracked.reloads(live.reloads, live.failures, live.loaded_at)
