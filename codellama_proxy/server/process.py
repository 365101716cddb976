"""The process: everything is built here in order, served, and taken down in the opposite order.

Uvicorn would end the process on SIGTERM before the books are closed, so the signals are ours: the first begins
a shutdown (readiness says so, after `server.drain_delay` seconds listeners close, answers run on for `server.drain`
seconds), the second ends it at once. Either way what was spent is written before the writer closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from codellama_proxy.auth.keys import Keys
from codellama_proxy.cache import file as answer_file
from codellama_proxy.cache.lookup import CacheLookup
from codellama_proxy.cache.semantic.selector import SemanticSelector
from codellama_proxy.cache.storage import CacheStorage
from codellama_proxy.config import mounts
from codellama_proxy.config.live import LiveConfig
from codellama_proxy.config.settings import Settings
from codellama_proxy.config.yaml.literal import holds_a_secret
from codellama_proxy.core.clock import Time
from codellama_proxy.core.snapshot import Deployment, Egress, Snapshot
from codellama_proxy.gateway.accounting import Accounting
from codellama_proxy.gateway.attempts import AttemptRunner
from codellama_proxy.gateway.embedding_request import Embedder
from codellama_proxy.gateway.pipeline import Gateway
from codellama_proxy.pricing import catalogue
from codellama_proxy.routing.cooldown import Cooldowns
from codellama_proxy.server.banner import alarms, first_key, open_door, startup_lines
from codellama_proxy.server.retention import keep_only
from codellama_proxy.store.sqlite import configurations, disks, installation
from codellama_proxy.store.sqlite import migrations as migrate
from codellama_proxy.store.sqlite.connection import StoreUnavailableError, named, version_warning
from codellama_proxy.store.sqlite.ledger import Ledger
from codellama_proxy.store.sqlite.outbox import Outbox
from codellama_proxy.store.sqlite.ownership import Owned, owned
from codellama_proxy.store.sqlite.reader import Reader
from codellama_proxy.store.sqlite.writer import Writer
from codellama_proxy.tokens.counter import Counter, tokenizer_files
from codellama_proxy.tracking.log import Format, Handler, Log
from codellama_proxy.tracking.metrics import Metrics, cache_troubles, dropped, lines_dropped
from codellama_proxy.tracking.otel import open_spans
from codellama_proxy.tracking.promptlayer.sender import DEFAULT_URL, PromptLayerSender
from codellama_proxy.upstream.pools import Pools, Service, identity_of
from codellama_proxy.web.app import create_app
from codellama_proxy.web.connection import ClientTimeouts
from codellama_proxy.web.http_protocol import Protocol
from codellama_proxy.web.metrics import standing
from codellama_proxy.web.observed import Observer
from codellama_proxy.web.state import Runtime

KEEP_ALIVE = 75  # seconds an idle client connection is kept: longer than load balancers keep theirs
FLUSH = 5.0  # seconds for records that still wait to be delivered
LAST_WORDS = 0.3  # seconds for the same, when a second signal asks to hurry
GOODBYE = "The proxy is shutting down."
AFTER_DRAIN = 2.0  # seconds for the last error events to leave
GARBAGE = 10_000
"""Objects more than there were, after which the collector looks for cycles."""
PATIENT = ClientTimeouts()


def serve(settings: Settings, live: LiveConfig, patience: ClientTimeouts = PATIENT) -> int:
    """Serves until a signal; the process's exit code. Raises `StoreError` before anything is bound."""
    path = named(settings.database)
    with owned(path) as database:
        migrate.prepare(path)
        live.key_digests(installation.digest_key(path))
        with (
            listening(settings.host, settings.port) as sock,
            logging_to(log_format(settings), settings) as log,
            asyncio.Runner(loop_factory=_uvloop) as runner,
        ):
            return runner.run(_serve(settings, live, path, database, sock, log, patience))


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415 - only the server needs it

    return uvloop.new_event_loop()


def log_format(settings: Settings) -> Format:
    return settings.log_format or ("text" if sys.stdout.isatty() else "json")


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """The bound socket. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        yield sock


@contextlib.contextmanager
def logging_to(form: Format, settings: Settings) -> Iterator[Log]:
    log = Log(sys.stdout.buffer, form)
    root = logging.getLogger()
    root.handlers[:] = [Handler(log)]
    root.setLevel(logging.WARNING)
    logging.getLogger("codellama_proxy").setLevel(settings.log_level.upper())
    log.start()
    try:
        yield log
    finally:
        log.stop()


async def _serve(
    settings: Settings,
    live: LiveConfig,
    path: Path,
    database: Owned,
    sock: socket.socket,
    log: Log,
    patience: ClientTimeouts,
) -> int:
    async with contextlib.AsyncExitStack() as stack:
        writer, reader = Writer(path, database.lost), Reader(path)
        writer.start()
        stack.push_async_callback(asyncio.to_thread, writer.close)
        await reader.open()
        stack.push_async_callback(reader.close)
        time = Time()
        pools = Pools()
        stack.push_async_callback(pools.close)
        cooldowns = Cooldowns(identity_of, time.monotonic)
        # Lists and sums may take long: no lookup of a request waits for them.
        reports = Reader(path)
        await reports.open()
        stack.push_async_callback(reports.close)
        master = settings.master_key.get_secret_value() if settings.master_key else None
        keys = Keys(writer, reader, reports=reports, master_key=master)
        ledger = Ledger(writer, reports)
        metrics = Metrics(lambda: live.snapshot.models)
        metrics.watch(lambda: standing(live, cooldowns, time.monotonic))
        outbox = Outbox(writer, reader)
        delivery = PromptLayerSender(
            outbox,
            Service(egress_of(live)),
            lambda: live.snapshot.tracking.promptlayer_key,
            time,
            url=promptlayer_url(),
        )
        stack.push_async_callback(delivery.stop, FLUSH)
        metrics.watch(
            lambda: [
                dropped(ledger.dropped + outbox.dropped + delivery.dropped),
                lines_dropped(log.dropped),
            ]
        )
        spans = open_spans(os.environ, log)
        if spans is not None:
            stack.push_async_callback(asyncio.to_thread, spans.close, FLUSH)
        counter = Counter(tokenizer_files())
        accounts = Accounting(ledger, counter, log, metrics, time, spans)
        stack.push_async_callback(accounts.close)
        walk = AttemptRunner(pools, cooldowns, time, accounts.extend)
        recall = await _recall(stack, live, path, metrics, walk, accounts, time)
        gateway = Gateway(lambda: live.snapshot, keys, walk, accounts, recall, time)
        observer = Observer(log, metrics, time.monotonic, lambda: live.snapshot.digest)
        runtime = Runtime(
            live, keys, ledger, outbox, writer, gateway, cooldowns, metrics, time, observer, master
        )

        async def changed(old: Snapshot, new: Snapshot) -> None:
            deployments = _enabled(new)
            pools.keep_only(frozenset(deployments))
            cooldowns.keep_only(deployments)
            _reloaded(log, writer, live, settings, old)
            await asyncio.to_thread(catalogue.warm, deployments.values())
            await counter.warm(new)

        live.listen(changed)
        _keep(writer, live)
        await _recover(ledger, log)
        delivery.start()
        folding = keep_only(ledger, outbox, lambda: live.snapshot.tracking.requests_retention, time)
        for task in (
            live.watch(),
            keys.watch(),
            folding,
            recall.watch(lambda: live.snapshot),
        ):
            stack.callback(asyncio.create_task(task).cancel)
        await _greet(log, live, keys, settings, sock)

        def started() -> None:
            stack.callback(asyncio.create_task(_warm(live.snapshot, counter)).cancel)

        return await UvicornServer(runtime, log, patience, started).run(sock)


async def _greet(log: Log, live: LiveConfig, keys: Keys, settings: Settings, sock: socket.socket) -> None:
    address = f"http://{_host(settings.host)}:{sock.getsockname()[1]}"
    for line in startup_lines(live.snapshot, address, settings):
        log.line(line)
    for line in await first_key(keys, address, settings, terminal=sys.stdout.isatty()):
        log.line(line)
    _warn(log, live, settings)


async def _warm(snapshot: Snapshot, counter: Counter) -> None:
    """What a start does not wait for: the first request that needs it before would have to."""
    await asyncio.to_thread(catalogue.warm, _enabled(snapshot).values())
    await counter.warm(snapshot)
    freeze_startup_objects()


async def _recover(ledger: Ledger, log: Log) -> None:
    """Settles what the last run could not."""
    recovered = await ledger.recover()
    if recovered:
        log.line(f"{recovered} requests were in flight when the last run ended; they are settled.", "warning")


async def _recall(
    stack: contextlib.AsyncExitStack,
    live: LiveConfig,
    database: Path,
    metrics: Metrics,
    walk: AttemptRunner,
    accounts: Accounting,
    time: Time,
) -> CacheLookup:
    answers = CacheStorage(answer_file.beside(database), time.monotonic)
    stack.push_async_callback(answers.close)
    if live.snapshot.cache.enabled:
        await answers.open()
    metrics.watch(lambda: [cache_troubles(answers.troubles)])
    embedder = Embedder(walk, accounts, time)
    semantic = SemanticSelector(answers, embedder.ask, time, lambda: Service(egress_of(live)))
    recall = CacheLookup(answers, semantic, time)
    stack.push_async_callback(recall.close)
    return recall


def egress_of(live: LiveConfig) -> Callable[[], Egress]:
    """The way out that the configuration in force says."""
    return lambda: live.snapshot.egress


def promptlayer_url() -> str:
    return os.environ.get("PROMPTLAYER_API_URL") or DEFAULT_URL


def _warn(log: Log, live: LiveConfig, settings: Settings) -> None:
    for line in alarms(live, settings):
        log.line(line, "error", logger="codellama_proxy.config")
    for warning in (
        open_door(live.snapshot, settings),
        version_warning(),
        disks.warning(Path(settings.database)),
        mounts.warning(settings.config),
    ):
        if warning is not None:
            log.line(warning, "warning")


def freeze_startup_objects() -> None:
    """What a start has built stays: the cycle collector, which stops everybody, need not walk it again.

    Requests leave no cycles behind, so it need not look for any every few requests either.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, 20, 20)


def _keep(writer: Writer, live: LiveConfig) -> None:
    """The configuration in force, for a start that finds the file broken; none that holds a secret itself."""
    kept: configurations.KeptConfiguration | None = configurations.KeptConfiguration(
        live.text, live.snapshot.digest, live.loaded_at
    )
    if holds_a_secret(live.text, live.snapshot):
        kept = None
        logging.getLogger(__name__).warning(
            "the configuration holds a secret itself, so no copy of it is kept for --on-invalid last-good; "
            "write ${NAME} instead"
        )
    with contextlib.suppress(StoreUnavailableError):  # closed: the next start has a file, or an older one
        writer.post(lambda db: configurations.keep(db, kept))


def _reloaded(log: Log, writer: Writer, live: LiveConfig, settings: Settings, old: Snapshot) -> None:
    _keep(writer, live)
    if old.auth_required and (opened := open_door(live.snapshot, settings)):
        log.line(opened, "warning")


def _enabled(snapshot: Snapshot) -> dict[str, Deployment]:
    return {d.id: d for model in snapshot.models.values() for d in model.deployments}


def _host(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


class UvicornServer(uvicorn.Server):
    """Uvicorn, with signals of our own and a drain that tells clients when it is over."""

    def __init__(
        self, runtime: Runtime, log: Log, patience: ClientTimeouts, started: Callable[[], None]
    ) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(runtime),
                http=functools.partial(  # type: ignore[arg-type]  # only called
                    Protocol,
                    patience=patience,
                    max_body=lambda: runtime.live.snapshot.server.max_body,
                    malformed=runtime.observer.malformed,
                ),
                loop="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                timeout_keep_alive=KEEP_ALIVE,
                backlog=2048,
            )
        )
        self._runtime = runtime
        self._log = log
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    async def run(self, sock: socket.socket) -> int:  # type: ignore[override]  # ours is a coroutine
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        await self.serve(sockets=[sock])
        if self.server_state.tasks:  # those whose connections were cut: their last word is for the books
            await asyncio.wait(self.server_state.tasks, timeout=LAST_WORDS)
        return 0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def _on_signal(self) -> None:
        loop, gateway = asyncio.get_running_loop(), self._runtime.gateway
        if self._runtime.draining:
            self.should_exit = True
            gateway.interrupt("shutting_down", GOODBYE)
            loop.call_later(LAST_WORDS, self._leave)
            return
        self._runtime.draining = True
        delay = self._runtime.live.snapshot.server.drain_delay
        if not delay:
            self._drain()
            return
        self._log.line(f"Shutting down in {delay:g} s; until then new requests are served.")
        loop.call_later(delay, self._drain)

    def _drain(self) -> None:
        """Closes the door; whoever is being served has the time of the drain."""
        loop = asyncio.get_running_loop()
        drain = self._runtime.live.snapshot.server.drain
        self._log.line(f"Shutting down: open answers may run on for {drain:g} s.")
        self.should_exit = True
        loop.call_later(drain, self._runtime.gateway.interrupt, "shutting_down", GOODBYE)
        loop.call_later(drain + AFTER_DRAIN, self._leave)

    def _leave(self) -> None:
        """Waits for nobody any more: who is still connected has had its time."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        self.force_exit = True
