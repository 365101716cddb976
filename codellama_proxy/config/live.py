"""The configuration of a running proxy: one snapshot, replaced whole when proxy.yaml says something else."""

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

from codellama_proxy.config.diff import difference
from codellama_proxy.config.digest import keyed
from codellama_proxy.config.load import load
from codellama_proxy.config.problems import ConfigError, Problem
from codellama_proxy.config.yaml.document import MAX_BYTES
from codellama_proxy.config.yaml.substitution import UnsetError, lookup_in, read_regular, reason, references
from codellama_proxy.core.snapshot import Snapshot

log = logging.getLogger("codellama_proxy.config")

OnChange = Callable[[Snapshot, Snapshot], Awaitable[None]]
Environ = Callable[[], Mapping[str, str]]

SETTLING = 0.2
"""Seconds between two looks that must see the same: a file half-written is often a valid one."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a configuration is built from; two that are equal build the same one."""

    text: bytes
    inputs: tuple[tuple[str, str], ...] = ()
    """What the text refers to, variables and files, with their present values."""
    unreadable: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where a configuration comes from, and how it is built."""

    path: Path
    environ: Environ
    implemented: frozenset[str]
    digest_key: bytes | None = field(default=None, repr=False)
    """`None`: the digest holds for this process alone."""

    def look(self) -> Seen:
        try:
            text = read_regular(self.path, MAX_BYTES)
        except (OSError, ValueError) as error:
            return Seen(b"", unreadable=f"cannot be read: {reason(error)}")
        try:
            lookup = lookup_in(self.environ())
        except (OSError, ValueError) as error:
            return Seen(text, unreadable=f"the environment cannot be read: {reason(error)}")
        return Seen(text, tuple((name, _value(lookup, name)) for name in references(text)))

    def build(self, seen: Seen) -> Snapshot:
        """Raises `ConfigError`."""
        if seen.unreadable:
            raise ConfigError((Problem(1, 1, seen.unreadable, source=str(self.path)),))
        made = load(seen.text, self.environ(), source=str(self.path), implemented=self.implemented)
        return replace(made, digest=keyed(made.fingerprint, self.digest_key))

    def change(self, seen: Seen, old: Snapshot) -> ConfigChange:
        """Raises `ConfigError`."""
        with _in_the_background():
            new = self.build(seen)
            return ConfigChange(seen.text, new, tuple(difference(old, new)))


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """A new configuration, and what is new about it."""

    text: bytes
    snapshot: Snapshot
    lines: tuple[str, ...]


@contextmanager
def _in_the_background() -> Iterator[None]:
    """Hardly noticed by the event loop: long work on another thread still shares the interpreter with it.

    The cycle collector is off, because it would stop every thread for as long as it takes to walk a tree of values
    that has no cycles anyway; and the interpreter is handed over after half a millisecond instead of five.
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
    """`snapshot` is what new requests start with; only `watch` replaces it.

    Making one may raise `ConfigError`, unless there is a `last_good` text to fall back on that is still good.
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
        self._interval = interval
        self._sleep = sleep
        self._clock = clock
        self.error: str | None = None
        """What is wrong with the file now; the snapshot is then an older one."""
        self.changes: tuple[str, ...] = ()
        """What the last reload changed."""
        self.reloads = 0
        self.failures = 0
        self._seen = source.look()
        self.text, self.snapshot = self._first(last_good)
        self.loaded_at = clock()

    def _first(self, last_good: bytes | None) -> tuple[bytes, Snapshot]:
        """The text in force, and what it says."""
        try:
            return self._seen.text, self._source.build(self._seen)
        except ConfigError as error:
            if last_good is None:
                raise
            try:
                snapshot = self._source.build(Seen(last_good))
            except ConfigError:
                raise error from None
            self._stale("; ".join(map(str, error.errors)))
            return last_good, snapshot

    def key_digests(self, key: bytes) -> None:
        """The digest in force and those to come are keyed with what belongs to the installation."""
        self._source = replace(self._source, digest_key=key)
        self.snapshot = replace(self.snapshot, digest=keyed(self.snapshot.fingerprint, key))

    def listen(self, changed: OnChange) -> None:
        """Has `changed` told of every replacement from now on."""
        self._listeners.append(changed)

    async def watch(self) -> None:
        """For ever: look every `interval` seconds."""
        while True:
            await self._sleep(self._interval)
            await self.look()

    async def look(self) -> None:
        """Take over what the file says, if that is new and holds still."""
        seen = await asyncio.to_thread(self._source.look)
        if seen == self._seen:
            return
        await self._sleep(SETTLING)
        if await asyncio.to_thread(self._source.look) != seen:
            return  # still being written; the next look will see it
        self._seen = seen
        try:
            change = await asyncio.to_thread(self._source.change, seen, self.snapshot)
        except ConfigError as error:
            self._refuse(error.errors)
        except Exception:  # a bug in the loader must not end the watch
            log.exception("configuration not reloaded")
            self._stale("internal error while loading; see the log")
        else:
            await self._replace(change)

    def _refuse(self, problems: tuple[Problem, ...]) -> None:
        first, shown = problems[0], "; ".join(str(problem) for problem in problems)
        self._stale(shown)
        place = {"line": first.line, "column": first.column, "config": self.snapshot.digest}
        log.error("configuration not reloaded, the old one serves on: %s", shown, extra=place)

    def _stale(self, error: str) -> None:
        self.error = error
        self.failures += 1

    async def _replace(self, change: ConfigChange) -> None:
        old, snapshot = self.snapshot, change.snapshot
        self.snapshot, self.text, self.changes = snapshot, change.text, change.lines
        self.loaded_at = self._clock()
        self.error = None
        self.reloads += 1
        told = "; ".join(change.lines) or "nothing that matters changed"
        log.info("configuration reloaded: %s", told, extra={"config": snapshot.digest})
        known = frozenset(old.warnings)
        for warning in snapshot.warnings:
            if warning not in known:
                log.warning("%s", warning, extra={"config": snapshot.digest})
        for changed in self._listeners:
            try:
                await changed(old, snapshot)
            except Exception:  # one listener's fault must not end the watch
                log.exception("a listener failed after a reload")
