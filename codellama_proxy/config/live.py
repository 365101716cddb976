"""The configuration of a running proxy: one snapshot, replaced as a whole when proxy.yaml changes."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from codellama_proxy.config.diff import difference
from codellama_proxy.config.digest import keyed
from codellama_proxy.config.load import load
from codellama_proxy.config.problems import ConfigError, Problem
from codellama_proxy.config.yaml.document import MAX_BYTES
from codellama_proxy.config.yaml.substitution import UnsetError, lookup_in, read_regular, reason, references
from codellama_proxy.core.snapshot import Snapshot

log = logging.getLogger("codellama_proxy.config")

OnChange = Callable[[Snapshot, Snapshot], Awaitable[None]]
OnResult = Callable[[bool, tuple[str, ...]], None]
Environ = Callable[[], Mapping[str, str]]

SETTLE_SECONDS = 0.2
"""Between two reads that must be equal: a file that is half-written is often valid."""


class SourceState(NamedTuple):
    """What a configuration is built from. Equal states build equal configurations."""

    text: bytes
    inputs: tuple[tuple[str, str], ...] = ()
    """The variables and files that the text refers to, with their current values."""
    unreadable: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where a configuration comes from, and how it is built."""

    path: Path
    environ: Environ
    implemented: frozenset[str]
    digest_key: bytes | None = field(default=None, repr=False)
    """`None`: the digest is comparable within this process only."""

    def read(self) -> SourceState:
        try:
            text = read_regular(self.path, MAX_BYTES)
        except (OSError, ValueError) as error:
            return SourceState(b"", unreadable=f"cannot be read: {reason(error)}")
        try:
            lookup = lookup_in(self.environ())
        except (OSError, ValueError) as error:
            return SourceState(text, unreadable=f"the environment cannot be read: {reason(error)}")
        return SourceState(text, tuple((name, _value(lookup, name)) for name in references(text)))

    def build(self, state: SourceState) -> Snapshot:
        """Raises `ConfigError`."""
        if state.unreadable:
            raise ConfigError((Problem(1, 1, state.unreadable, source=str(self.path)),))
        made = load(state.text, self.environ(), source=str(self.path), implemented=self.implemented)
        return replace(made, digest=keyed(made.fingerprint, self.digest_key))

    def change(self, state: SourceState, old: Snapshot) -> ConfigChange:
        """Build the new configuration and compare it. Raises `ConfigError`."""
        with _yielding_to_event_loop():
            new = self.build(state)
            return ConfigChange(state.text, new, tuple(difference(old, new)))


class ConfigChange(NamedTuple):
    """A new configuration, and the lines that describe its changes."""

    text: bytes
    snapshot: Snapshot
    lines: tuple[str, ...]


@contextmanager
def _yielding_to_event_loop() -> Iterator[None]:
    """Keeps work on this thread from delaying the event loop, which shares the interpreter with it.

    Both settings are those of the whole process. The cycle collector is off: it would stop every thread while it
    traverses a new tree of values, which has no cycles. The interpreter switches threads after 0.5 ms instead of 5.
    """
    was_on, interval = gc.isenabled(), sys.getswitchinterval()
    gc.disable()
    sys.setswitchinterval(0.0005)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        if was_on:
            gc.enable()


def _value(lookup: Callable[[str], str], name: str) -> str:
    try:
        return lookup(name)
    except UnsetError as unset:
        return f"\0{unset}"


class LiveConfig:
    """`snapshot` is the one for new requests; only `poll` replaces it.

    The constructor raises `ConfigError` if the file is invalid, unless there is a `last_good` text that is valid.
    """

    def __init__(
        self,
        source: Source,
        *,
        last_good: bytes | None = None,
        interval: float = 1.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._listeners: list[OnChange] = []
        self._record: OnResult | None = None
        self._interval = interval
        self._sleep = sleep
        self.time = clock
        """The clock of `loaded_at`."""
        self.error: str | None = None
        """What is wrong with the file now; the snapshot is then that of an older file."""
        self.problems: tuple[Problem, ...] = ()
        """The same, one by one; empty if the file is good or cannot be told."""
        self.changes: tuple[str, ...] = ()
        """What the last reload changed."""
        self.reloads = 0
        self.failures = 0
        self._state = source.read()
        self.text, self.snapshot = self._first(last_good)
        self.loaded_at = clock()

    def _first(self, last_good: bytes | None) -> tuple[bytes, Snapshot]:
        """The text that is used, and its snapshot."""
        try:
            return self._state.text, self._source.build(self._state)
        except ConfigError as error:
            if last_good is None:
                raise
            try:
                snapshot = self._source.build(SourceState(last_good))
            except ConfigError:
                raise error from None
            self._stale("; ".join(map(str, error.errors)))
            self.problems = error.errors
            return last_good, snapshot

    @property
    def source(self) -> Source:
        return self._source

    @property
    def file_text(self) -> bytes:
        """The file as it is now, which may have been refused."""
        return self._state.text

    def key_digests(self, key: bytes) -> None:
        """Use the installation's key for the current digest and all later ones."""
        self._source = replace(self._source, digest_key=key)
        self.snapshot = replace(self.snapshot, digest=keyed(self.snapshot.fingerprint, key))

    def listen(self, changed: OnChange) -> None:
        """Call `changed(old, new)` after every replacement."""
        self._listeners.append(changed)

    def record(self, result: OnResult) -> None:
        """Call `result(ok, lines)` after every reload, with what changed or why the file was refused."""
        self._record = result

    async def watch(self) -> None:
        """Poll every `interval` seconds, without end."""
        while True:
            await self._sleep(self._interval)
            await self.poll()

    async def poll(self) -> None:
        """Apply the file if it changed and is not being written."""
        state = await asyncio.to_thread(self._source.read)
        if state == self._state:
            return
        await self._sleep(SETTLE_SECONDS)
        if await asyncio.to_thread(self._source.read) != state:
            return  # still being written; the next poll reads it again
        self._state = state
        try:
            change = await asyncio.to_thread(self._source.change, state, self.snapshot)
        except ConfigError as error:
            self._refuse(error.errors)
        except Exception:  # a bug in the loader must not end the watch
            log.exception("configuration not reloaded")
            self._stale("internal error while loading; see the log")
            self._recorded(False, ("internal error while loading; see the log",))
        else:
            await self._replace(change)

    def _refuse(self, problems: tuple[Problem, ...]) -> None:
        lines = tuple(str(problem) for problem in problems)
        first, shown = problems[0], "; ".join(lines)
        self._stale(shown)
        self.problems = problems
        self._recorded(False, lines)
        place = {"line": first.line, "column": first.column, "config": self.snapshot.digest}
        log.error("configuration not reloaded, keeping the previous one: %s", shown, extra=place)

    def _stale(self, error: str) -> None:
        self.error = error
        self.failures += 1

    def _recorded(self, ok: bool, lines: tuple[str, ...]) -> None:
        if self._record is not None:
            self._record(ok, lines)

    async def _replace(self, change: ConfigChange) -> None:
        old, snapshot = self.snapshot, change.snapshot
        self.snapshot, self.text, self.changes = snapshot, change.text, change.lines
        self.loaded_at = self.time()
        self.error = None
        self.problems = ()
        self.reloads += 1
        self._recorded(True, change.lines)
        changes = "; ".join(change.lines) or "no effective changes"
        log.info("configuration reloaded: %s", changes, extra={"config": snapshot.digest})
        known = frozenset(old.warnings)
        for warning in snapshot.warnings:
            if warning not in known:
                log.warning("%s", warning, extra={"config": snapshot.digest})
        for changed in self._listeners:
            try:
                await changed(old, snapshot)
            except Exception:  # one listener's fault must not end the watch
                log.exception("a listener failed after a reload")
