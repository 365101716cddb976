"""What a start says: what is served, what is not and why, and what to paste next."""

from __future__ import annotations

from collections.abc import Iterator

from codellama_proxy import __version__
from codellama_proxy.auth.keys import Keys
from codellama_proxy.config.field_types import is_loopback
from codellama_proxy.config.live import LiveConfig
from codellama_proxy.config.settings import Settings
from codellama_proxy.config.validate.cross_field import OPEN
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.masking import mask_of
from codellama_proxy.core.snapshot import Deployment, Snapshot
from codellama_proxy.routing.selection import asked_model
from codellama_proxy.store import key_fields as key_values
from codellama_proxy.store.sqlite import audit

EXAMPLE = '{"prompt": "write me a function to print hello world"}'


def startup_lines(snapshot: Snapshot, address: str, settings: Settings) -> Iterator[str]:
    """The lines of a start, in the order a newcomer needs them; nothing that came out of `${...}`."""
    return map(mask_of(snapshot), _welcome(snapshot, address, settings))


def _welcome(snapshot: Snapshot, address: str, settings: Settings) -> Iterator[str]:
    yield f"codellama-proxy {__version__} on {address} (configuration {settings.config}, {snapshot.digest})"
    enabled = [d for model in snapshot.models.values() for d in model.deployments]
    for deployment in enabled:
        yield f"  ready     {_described(deployment)}"
    for deployment in snapshot.disabled:
        yield f"  disabled  {_described(deployment)}: {deployment.disabled}"
    if all(d.provider == "mock" for d in enabled):
        yield "  No provider's key is set, so the built-in mock model answers. Set one of the variables above."
    yield f"  {_without_a_model(snapshot)}"
    said = tuple(f"{d.name} is disabled" for d in snapshot.disabled)
    for warning in snapshot.warnings:
        if not warning.startswith(said):
            yield f"  note: {warning}"
    if settings.master_key is None:
        yield "  Admin endpoints are off (PROXY_MASTER_KEY is not set); scripts/keys.py works without them."


def _without_a_model(snapshot: Snapshot) -> str:
    try:
        start = asked_model(snapshot, None, "chat", lambda _: True)
    except ProxyError:
        return "No model can chat: requests for chats are refused."
    return f"Requests without a model go to {' -> '.join((start.name, *start.fallbacks))}."


def alarms(live: LiveConfig, settings: Settings) -> Iterator[str]:
    """What a start on the last good configuration says, so that nobody takes it for the file's."""
    if live.error is not None:
        yield (
            f"{settings.config} IS NOT GOOD AND IS NOT SERVED. The last good configuration "
            f"({live.snapshot.digest}) serves until the file is mended."
        )
        yield from (f"  {line}" for line in live.error.splitlines())


def open_door(snapshot: Snapshot, settings: Settings) -> str | None:
    """A sentence where anybody on the network may call without a key."""
    told = f"auth.required is false: {OPEN} ({settings.host})"
    return None if snapshot.auth_required or is_loopback(settings.host) else told


def _described(deployment: Deployment) -> str:
    upstream = deployment.provider
    if deployment.model != deployment.name:
        upstream += f" {deployment.model}"
    return f"{deployment.name:<12} {upstream}"


async def first_key(keys: Keys, address: str, settings: Settings, *, terminal: bool) -> list[str]:
    """With an empty database: a key on a terminal, which shows it once; elsewhere, how to make one."""
    _, total = await keys.page(1, 1)
    if total:
        return []
    if not terminal:
        return [
            f"There are no keys yet. Make one: scripts/keys.py create default --database {settings.database}",
        ]
    _, secret = await keys.create(key_values.read({"key_alias": "default"}), by=audit.CLI)
    return [
        "",
        f"  A key for the project default, shown only now: {secret}",
        "  Try it:",
        "",
        f"    curl {address}/v1/chat/completions -H 'Authorization: Bearer {secret}' \\",
        f"      -H 'Content-Type: application/json' -d '{EXAMPLE}'",
        "",
    ]
