"""What the handlers share: the objects of one server process."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from codellama_proxy.auth.keys import Keys
from codellama_proxy.config.live import LiveConfig
from codellama_proxy.core.clock import Time
from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.gateway.input_tokens import InputTokens
from codellama_proxy.gateway.pipeline import Gateway
from codellama_proxy.gateway.progress import Progress
from codellama_proxy.routing.cooldown import Cooldowns
from codellama_proxy.routing.missing_endpoints import MissingEndpoints
from codellama_proxy.store.interfaces import Store
from codellama_proxy.tracking.merged_metrics import SharedMetrics
from codellama_proxy.tracking.metrics import Metrics
from codellama_proxy.upstream.pools import Pools
from codellama_proxy.web.observed import Observer


@dataclass(slots=True)
class Runtime:
    """Built once at the start; handlers read it at `app.state.runtime`."""

    live: LiveConfig
    keys: Keys
    store: Store
    gateway: Gateway
    input_tokens: InputTokens
    cooldowns: Cooldowns
    missing_endpoints: MissingEndpoints
    metrics: Metrics
    time: Time
    observer: Observer
    master_key: str | None
    """`None`: the admin endpoints are off."""
    progress: Progress
    pools: Pools
    shared_metrics: SharedMetrics | None = None
    """With several processes on one port: the metrics of all."""
    draining: bool = False
    """The process received a stop signal; readiness reports `shutting_down`."""


def runtime_of(request: Request) -> Runtime:
    """The runtime of the app that handles the request."""
    runtime: Runtime = request.app.state.runtime
    return runtime


def snapshot_of(request: Request) -> Snapshot:
    """The configuration currently in force."""
    return runtime_of(request).live.snapshot
