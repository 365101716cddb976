"""Builds the objects of the server process, and registers how each is closed."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from codellama_proxy.auth.keys import Keys
from codellama_proxy.cache import file as answer_file
from codellama_proxy.cache.lookup import CacheLookup
from codellama_proxy.cache.semantic.selector import SemanticSelector
from codellama_proxy.cache.storage import CacheStorage
from codellama_proxy.config.live import LiveConfig
from codellama_proxy.config.settings import Settings
from codellama_proxy.core.clock import Time
from codellama_proxy.core.snapshot import Deployment, Egress, Snapshot
from codellama_proxy.gateway.accounting import Accounting
from codellama_proxy.gateway.attempts import AttemptRunner
from codellama_proxy.gateway.embedding_request import Embedder
from codellama_proxy.gateway.input_tokens import InputTokens
from codellama_proxy.gateway.pipeline import Gateway
from codellama_proxy.gateway.progress import Progress
from codellama_proxy.inbound.sealed import seal_key
from codellama_proxy.pricing import catalogue
from codellama_proxy.routing import selection
from codellama_proxy.routing.cooldown import Cooldowns
from codellama_proxy.store.interfaces import Database
from codellama_proxy.tokens.counter import Counter, tokenizer_files
from codellama_proxy.tracking.log import Log
from codellama_proxy.tracking.metrics import Metrics, cache_troubles, dropped, installation, lines_dropped
from codellama_proxy.tracking.otel import open_spans
from codellama_proxy.tracking.promptlayer.sender import DEFAULT_URL, PromptLayerSender
from codellama_proxy.upstream.pools import Pools, Service, identity_of
from codellama_proxy.web.metrics import standing
from codellama_proxy.web.observed import Observer
from codellama_proxy.web.state import Runtime

FLUSH_SECONDS = 5.0
"""How long a stop waits for tracking records that are not yet delivered."""


@dataclass(frozen=True, slots=True)
class Services:
    """The runtime, and what the process runs beside the requests."""

    runtime: Runtime
    log: Log
    pools: Pools
    counter: Counter
    sender: PromptLayerSender
    lookup: CacheLookup

    async def apply(self, new: Snapshot) -> None:
        """Adapts to a new configuration: drops pools and cooldowns of deployments that are gone."""
        deployments = enabled_deployments(new)
        self.pools.keep_only(frozenset(deployments))
        self.runtime.cooldowns.keep_only(deployments)

    async def warm(self, snapshot: Snapshot) -> None:
        """Loads prices and tokenizers, so that the first request does not have to."""
        await asyncio.to_thread(catalogue.warm, enabled_deployments(snapshot).values())
        await self.counter.warm(snapshot)


async def assemble(
    stack: AsyncExitStack, settings: Settings, live: LiveConfig, database: Database, log: Log
) -> Services:
    """Opens everything; `stack` closes it in the opposite order. Raises `StoreError`."""
    time = Time()
    store = await stack.enter_async_context(database.open())
    pools = Pools()
    stack.push_async_callback(pools.close)
    cooldowns = Cooldowns(identity_of, time.monotonic)
    master_key = settings.master_key.get_secret_value() if settings.master_key else None
    keys = Keys(store.keys, master_key=master_key)
    metrics = Metrics(lambda name: selection.known_model(live.snapshot, name))
    metrics.register(lambda: standing(live, cooldowns, time.monotonic))
    sender = PromptLayerSender(
        store.outbox,
        Service(_egress_of(live)),
        lambda: live.snapshot.tracking.promptlayer_key,
        time,
        url=os.environ.get("PROMPTLAYER_API_URL") or DEFAULT_URL,
    )
    stack.push_async_callback(sender.stop, FLUSH_SECONDS)
    metrics.register(
        lambda: [
            dropped(store.ledger.dropped + store.outbox.dropped + sender.dropped),
            lines_dropped(log.dropped),
        ]
    )
    if (workers := store.workers) is not None:
        metrics.register(lambda: installation(workers.configurations, workers.late_settlements))
    spans = open_spans(os.environ, log)
    if spans is not None:
        stack.push_async_callback(asyncio.to_thread, spans.close, FLUSH_SECONDS)
    counter = Counter(tokenizer_files())
    progress = Progress(time.monotonic)
    accounting = Accounting(store.ledger, counter, log, metrics, time, spans, progress)
    stack.push_async_callback(accounting.close)
    attempts = AttemptRunner(pools, cooldowns, time, accounting.extend)
    embedder = Embedder(attempts, accounting, time)
    lookup = await _open_cache(stack, live, _cache_file(stack, settings), metrics, embedder, time)
    input_tokens = InputTokens(lambda: live.snapshot, attempts, counter, pools, time)
    seals = seal_key(database.digest_key())
    gateway = Gateway(lambda: live.snapshot, keys, attempts, accounting, lookup, time, seals)
    observer = Observer(log, metrics, time.monotonic, lambda: live.snapshot.digest)
    runtime = Runtime(
        live,
        keys,
        store,
        gateway,
        input_tokens,
        cooldowns,
        attempts.missing,
        metrics,
        time,
        observer,
        master_key,
        progress,
        pools,
    )
    return Services(runtime, log, pools, counter, sender, lookup)


async def _open_cache(
    stack: AsyncExitStack, live: LiveConfig, file: Path, metrics: Metrics, embedder: Embedder, time: Time
) -> CacheLookup:
    storage = CacheStorage(file, time.monotonic)
    stack.push_async_callback(storage.close)
    if live.snapshot.cache.enabled:
        await storage.open()
    metrics.register(lambda: [cache_troubles(storage.troubles)])
    semantic = SemanticSelector(storage, embedder.ask, time, lambda: Service(_egress_of(live)))
    lookup = CacheLookup(storage, semantic, time)
    stack.push_async_callback(lookup.close)
    return lookup


def _cache_file(stack: AsyncExitStack, settings: Settings) -> Path:
    """Beside a database file; with a server, in a folder that is removed at the end: each process has its own."""
    location = settings.location
    if isinstance(location, Path):
        return answer_file.beside(location)
    folder = tempfile.TemporaryDirectory(prefix="codellama-proxy-", ignore_cleanup_errors=True)
    stack.callback(folder.cleanup)
    return Path(folder.name) / "proxy-cache.db"


def _egress_of(live: LiveConfig) -> Callable[[], Egress]:
    return lambda: live.snapshot.egress


def enabled_deployments(snapshot: Snapshot) -> dict[str, Deployment]:
    """By id."""
    return {d.id: d for model in snapshot.models.values() for d in model.deployments}
