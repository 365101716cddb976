"""The log lines of a start: what is served, what is not and why, and a first command to try."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from codellama_proxy import __version__
from codellama_proxy.auth.keys import Keys
from codellama_proxy.config.live import LiveConfig
from codellama_proxy.config.network_types import is_loopback
from codellama_proxy.config.settings import Settings
from codellama_proxy.config.validate.cross_field import UNAUTHENTICATED
from codellama_proxy.core import checkouts, mounts
from codellama_proxy.core.checkouts import CHECKOUT, INSTALLED
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.masking import mask_of
from codellama_proxy.core.snapshot import Deployment, Snapshot
from codellama_proxy.routing.selection import requested_model
from codellama_proxy.store import key_fields as key_values
from codellama_proxy.store.audit import CLI
from codellama_proxy.store.factory import engine_warning
from codellama_proxy.store.key_fields import DEFAULT_PROJECT
from codellama_proxy.store.location import DEFAULT_DATABASE
from codellama_proxy.tracking.log import Log

EXAMPLE = '{"prompt": "write me a function to print hello world"}'


def startup_lines(snapshot: Snapshot, address: str, settings: Settings) -> Iterator[str]:
    """The lines of a start, with the values of `${...}` masked."""
    return map(mask_of(snapshot), _welcome(snapshot, address, settings))


def _welcome(snapshot: Snapshot, address: str, settings: Settings) -> Iterator[str]:
    yield f"codellama-proxy {__version__} on {address} (configuration {settings.config}, {snapshot.digest})"
    enabled = [d for model in snapshot.models.values() for d in model.deployments]
    for deployment in enabled:
        yield f"  ready     {_described(deployment)}"
    for deployment in snapshot.disabled:
        yield f"  disabled  {_described(deployment)}: {deployment.disabled}"
    if all(d.provider == "mock" for d in enabled):
        set_one = " Set one of the variables above." if snapshot.disabled else ""
        yield f"  No provider's key is set, so the built-in mock model answers.{set_one}"
    yield f"  {_without_a_model(snapshot)}"
    already_listed = tuple(f"{d.name} is disabled" for d in snapshot.disabled)
    for warning in snapshot.warnings:
        if not warning.startswith(already_listed):
            yield f"  note: {warning}"
    if settings.master_key is None:
        yield f"  Admin endpoints are off (PROXY_MASTER_KEY is not set); {keys_command()} works without them."
    yield f"  Base URL for clients: {address}/v1 (how to connect: {address})"
    if snapshot.ui.enabled:
        yield f"  Dashboard: {address}/ui (sign in with {_credentials(settings)})"


def _credentials(settings: Settings) -> str:
    return "a key" if settings.master_key is None else "PROXY_MASTER_KEY, or with a key"


def _without_a_model(snapshot: Snapshot) -> str:
    try:
        start = requested_model(snapshot, None, "chat", lambda _: True)
    except ProxyError:
        return "No model serves chat: chat requests are refused."
    return f"Requests without a model go to {' -> '.join((start.name, *start.fallbacks))}."


def invalid_config_lines(live: LiveConfig, settings: Settings) -> Iterator[str]:
    """Lines that warn when the last good configuration is served instead of the file."""
    if live.error is not None:
        yield (
            f"{settings.config} is invalid; serving the last good configuration "
            f"({live.snapshot.digest}) until it is fixed."
        )
        yield from (f"  {line}" for line in live.error.splitlines())


def unauthenticated_warning(snapshot: Snapshot, settings: Settings) -> str | None:
    """A warning if callers on the network need no key."""
    if snapshot.auth_required or is_loopback(settings.host):
        return None
    return f"auth.required is false: {UNAUTHENTICATED} ({settings.host})"


def _described(deployment: Deployment) -> str:
    upstream = deployment.provider
    if deployment.model != deployment.name:
        upstream += f" {deployment.model}"
    return f"{deployment.name:<12} {upstream}"


async def greet(log: Log, live: LiveConfig, keys: Keys, settings: Settings, port: int) -> None:
    """Logs the lines of a start, and its warnings."""
    address = f"http://{_host(settings.host)}:{port}"
    for line in startup_lines(live.snapshot, address, settings):
        log.line(line)
    for line in await first_key(keys, address, settings, terminal=sys.stdout.isatty()):
        log.line(line)
    for line in invalid_config_lines(live, settings):
        log.line(line, "error", logger="codellama_proxy.config")
    for warning in (
        unauthenticated_warning(live.snapshot, settings),
        engine_warning(settings.location),
        mounts.database_warning(settings.location) if isinstance(settings.location, Path) else None,
        mounts.config_warning(settings.config),
    ):
        if warning is not None:
            log.line(warning, "warning")


def keys_command(checkout: Path = CHECKOUT) -> str:
    """The command that administers keys, wherever it is entered."""
    name = checkouts.keys_command(checkout)
    return name if name == INSTALLED or checkout == Path.cwd() else shlex.quote(str(checkout / name))


def _host(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


async def first_key(keys: Keys, address: str, settings: Settings, *, terminal: bool) -> list[str]:
    """With an empty database: creates a key on a terminal and shows it once. Else explains how to create one."""
    _, total = await keys.page(1, 1)
    in_file = isinstance(settings.location, Path) and settings.database != DEFAULT_DATABASE
    place = (
        f" --database {shlex.quote(settings.database)}" if in_file else ""
    )  # an address may have a password
    create = f"{keys_command()} create {{}}{place}"
    if total:
        exist = "1 key exists" if total == 1 else f"{total} keys exist"
        return [f"  {exist}. Create another: {create.format('PROJECT')}"]
    if not terminal:
        return [f"  There are no keys yet. Create one: {create.format(DEFAULT_PROJECT)}"]
    _, secret = await keys.create(key_values.read({"key_alias": DEFAULT_PROJECT}), by=CLI)
    return [
        "",
        f"  A key for the project default, shown only now: {secret}",
        "  Try it:",
        "",
        f"    curl {address}/v1/chat/completions -H 'Authorization: Bearer {secret}' \\",
        f"      -H 'Content-Type: application/json' -d '{EXAMPLE}'",
        "",
    ]
