"""The process: assembles the services, serves until a signal, and shuts down.

Uvicorn would end the process on SIGTERM before the ledger is closed, so signals are handled here. The first begins
a shutdown: readiness reports it, listeners close after `server.drain_delay` seconds, open responses continue for
`server.drain` seconds. The second ends the process at once. Both write all charges before the writer closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import io
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from codellama_proxy.config.live import LiveConfig
from codellama_proxy.config.secret_values import contains_secret
from codellama_proxy.config.settings import Settings
from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.server.assembly import Services, assemble
from codellama_proxy.server.banner import greet, unauthenticated_warning
from codellama_proxy.server.http_protocol import Protocol
from codellama_proxy.server.retention import run_cache_purges, run_retention, run_roll_up, run_session_cleanup
from codellama_proxy.server.siblings import Sibling, end_with_parent, stop_signals, this_sibling
from codellama_proxy.store.factory import own
from codellama_proxy.store.interfaces import Configurations, Database, KeptConfiguration, Reload, Upkeep
from codellama_proxy.tracking.log import Format, Handler, Log
from codellama_proxy.tracking.merged_metrics import SharedMetrics
from codellama_proxy.web.app import create_app
from codellama_proxy.web.connection import ClientTimeouts
from codellama_proxy.web.state import Runtime

KEEP_ALIVE_SECONDS = 75
"""An idle client connection is kept longer than load balancers keep theirs."""
INTERRUPT_SECONDS = 0.3
"""How long a second signal leaves open responses to send their last event."""
AFTER_DRAIN_SECONDS = 2.0
"""How long the last error events may take after the drain."""
SWITCH_SECONDS = 0.0005
"""How long a thread may compute while the ledger's thread, which holds locks in the database, wants to go on."""
GC_THRESHOLD = 10_000
"""New objects after which the garbage collector looks for cycles."""
STARTED = "the server started"
"""The first line of a run in the history of reloads."""
SHUTDOWN_MESSAGE = "The proxy is shutting down."
DEFAULT_TIMEOUTS = ClientTimeouts()


def serve(settings: Settings, live: LiveConfig, timeouts: ClientTimeouts = DEFAULT_TIMEOUTS) -> int:
    """Serves until a signal; returns the exit code. Raises `StoreError` before anything is bound."""
    sibling = this_sibling()
    if sibling is not None:
        end_with_parent()
    with own(settings.location, _say) as database:
        live.key_digests(database.digest_key())
        if not isinstance(settings.location, Path):
            sys.setswitchinterval(SWITCH_SECONDS)
        with (
            listening(settings.host, settings.port, shared=sibling is not None) as sock,
            logging_to(log_format(settings), settings) as log,
            asyncio.Runner(loop_factory=_uvloop) as runner,
        ):
            return runner.run(_run(settings, live, database, sock, log, timeouts, sibling))


def _say(sentence: str) -> None:
    """Before the log is open."""
    print(sentence, file=sys.stderr, flush=True)  # noqa: T201


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415 - only the server needs it

    return uvloop.new_event_loop()


def log_format(settings: Settings) -> Format:
    return settings.log_format or ("text" if sys.stdout.isatty() else "json")


@contextlib.contextmanager
def listening(host: str, port: int, *, shared: bool = False) -> Iterator[socket.socket]:
    """A bound socket; `shared`: other processes of this user may bind it, too. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        yield sock


@contextlib.contextmanager
def logging_to(form: Format, settings: Settings) -> Iterator[Log]:
    """Sends all log lines to stdout, written by a thread of their own."""
    sys.stdout.flush()
    log = Log(io.FileIO(sys.stdout.fileno(), "w", closefd=False), form)
    root = logging.getLogger()
    root.handlers[:] = [Handler(log)]
    root.setLevel(logging.WARNING)
    logging.getLogger("codellama_proxy").setLevel(settings.log_level.upper())
    log.start()
    try:
        yield log
    finally:
        log.stop()


async def _run(
    settings: Settings,
    live: LiveConfig,
    database: Database,
    sock: socket.socket,
    log: Log,
    timeouts: ClientTimeouts,
    sibling: Sibling | None,
) -> int:
    async with contextlib.AsyncExitStack() as stack:
        services = await assemble(stack, settings, live, database, log)
        runtime = services.runtime
        if sibling is not None:
            runtime.shared_metrics = SharedMetrics(runtime.metrics, sibling.folder, sibling.number)
            await runtime.shared_metrics.open()
            stack.push_async_callback(runtime.shared_metrics.close)

        async def changed(old: Snapshot, new: Snapshot) -> None:
            await services.apply(new)
            _keep_last_good(runtime.store.configurations, live)
            if old.auth_required and (warning := unauthenticated_warning(live.snapshot, settings)):
                log.line(warning, "warning")
            await services.warm(new)

        async def warm() -> None:
            try:
                await services.warm(live.snapshot)
            finally:
                freeze_startup_objects()

        live.listen(changed)
        _record_reloads(runtime.store.configurations, live)
        _keep_last_good(runtime.store.configurations, live)
        await _recover(runtime.store.upkeep, log)
        services.sender.start()
        _start_background(stack, services)
        if sibling is None or sibling.number == 0:
            await greet(log, live, runtime.keys, settings, sock.getsockname()[1])

        gc.freeze()  # nothing built so far is garbage: later collections need not traverse it

        def started() -> None:
            stack.callback(asyncio.create_task(warm()).cancel)

        return await UvicornServer(runtime, log, timeouts, started).run(sock)


def _start_background(stack: contextlib.AsyncExitStack, services: Services) -> None:
    """The loops that run as long as the process; `stack` cancels them."""
    runtime = services.runtime
    live = runtime.live
    retention = run_retention(
        runtime.store.upkeep,
        runtime.store.outbox,
        lambda: live.snapshot.tracking.requests_retention,
        runtime.time,
    )
    loops = [
        live.watch(),
        runtime.keys.watch(),
        retention,
        run_roll_up(runtime.store.upkeep, runtime.time),
        run_session_cleanup(runtime.store.ui_sessions, lambda: live.snapshot.ui.session, runtime.time),
        services.lookup.watch(lambda: live.snapshot),
    ]
    if runtime.store.workers is not None:
        loops.append(run_cache_purges(runtime.store.workers, services.lookup.purge, runtime.time))
    for loop in loops:
        stack.callback(asyncio.create_task(loop).cancel)


async def _recover(upkeep: Upkeep, log: Log) -> None:
    """Settles requests that were in flight when the last run ended."""
    recovered = await upkeep.recover()
    if recovered:
        were = "request was" if recovered == 1 else "requests were"
        log.line(f"{recovered} {were} in flight when the last run ended; now settled.", "warning")


def freeze_startup_objects() -> None:
    """Exempts everything built so far from garbage collection, and enables it, with rare collections.

    Requests leave no reference cycles, so frequent collections would only add pauses.
    """
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(GC_THRESHOLD, 20, 20)


def _keep_last_good(configurations: Configurations, live: LiveConfig) -> None:
    """Stores the configuration in force for `--on-invalid last-good`, unless it contains a secret in plain text."""
    kept: KeptConfiguration | None = KeptConfiguration(live.text, live.snapshot.digest, live.loaded_at)
    if contains_secret(live.text, live.snapshot):
        kept = None
        logging.getLogger(__name__).warning(
            "the configuration contains a secret in plain text, so no copy of it is kept for "
            "--on-invalid last-good; write ${NAME} instead"
        )
    configurations.keep(kept)


def _record_reloads(configurations: Configurations, live: LiveConfig) -> None:
    """Keeps a history of what was read: this start, and every reload from now on."""

    def record(ok: bool, lines: tuple[str, ...]) -> None:
        configurations.record(Reload(live.time(), live.snapshot.digest, ok, lines))

    live.record(record)
    record(live.error is None, (STARTED if live.error is None else live.error,))


class UvicornServer(uvicorn.Server):
    """Uvicorn with our own signal handling, and a drain that ends open responses with an error event."""

    def __init__(
        self, runtime: Runtime, log: Log, timeouts: ClientTimeouts, started: Callable[[], None]
    ) -> None:
        app = create_app(runtime)
        super().__init__(
            uvicorn.Config(
                app,
                http=functools.partial(  # type: ignore[arg-type]  # only called
                    Protocol,
                    timeouts=timeouts,
                    max_body=lambda: runtime.live.snapshot.server.max_body,
                    malformed=runtime.observer.malformed,
                    direct={path.encode(): endpoint for path, endpoint in app.endpoints.items()},
                ),
                loop="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
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
        for number in stop_signals():
            loop.add_signal_handler(number, self._on_signal)
        await self.serve(sockets=[sock])
        if self.server_state.tasks:  # aborted connections: their requests still settle
            await asyncio.wait(self.server_state.tasks, timeout=INTERRUPT_SECONDS)
        return 0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def _on_signal(self) -> None:
        loop, gateway = asyncio.get_running_loop(), self._runtime.gateway
        if self._runtime.draining:
            self.should_exit = True
            gateway.interrupt("shutting_down", SHUTDOWN_MESSAGE)
            loop.call_later(INTERRUPT_SECONDS, self._leave)
            return
        self._runtime.draining = True
        delay = self._runtime.live.snapshot.server.drain_delay
        if not delay:
            self._drain()
            return
        self._log.line(f"Shutting down in {delay:g} s; new requests are served until then.")
        loop.call_later(delay, self._drain)

    def _drain(self) -> None:
        """Closes the listeners; open responses may continue for `server.drain` seconds."""
        loop = asyncio.get_running_loop()
        drain = self._runtime.live.snapshot.server.drain
        self._log.line(f"Shutting down: open responses may continue for {drain:g} s.")
        self.should_exit = True
        loop.call_later(drain, self._runtime.gateway.interrupt, "shutting_down", SHUTDOWN_MESSAGE)
        loop.call_later(drain + AFTER_DRAIN_SECONDS, self._leave)

    def _leave(self) -> None:
        """Aborts the connections that are still open."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        self.force_exit = True
