"""`codellama-proxy explain`: what would happen to a request, and why; `--simulate`: with upstream failures."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import click

from codellama_proxy.auth.keys import require_usable
from codellama_proxy.cli.check import valid_snapshot
from codellama_proxy.cli.database import location_of
from codellama_proxy.cli.keys import find_key
from codellama_proxy.cli.options import Command, config_option, database_option, json_option
from codellama_proxy.cli.output import say
from codellama_proxy.cli.run import CommandError
from codellama_proxy.config.digest import keyed
from codellama_proxy.config.settings import Settings, config_path
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.masking import mask_of, masked, without_credentials
from codellama_proxy.core.snapshot import Deployment, Limits, Snapshot
from codellama_proxy.core.types import Key
from codellama_proxy.diagnostics import decision
from codellama_proxy.diagnostics import explain_report as explained
from codellama_proxy.diagnostics.decision import (
    Count,
    Explanation,
    World,
    admitted,
    trace_of,
    unused,
)
from codellama_proxy.diagnostics.simulation import Course, Plan, PlanError, parse, simulate
from codellama_proxy.gateway.admission_request import scopes_of
from codellama_proxy.inbound.registry import DIALECTS
from codellama_proxy.openai_format.request import InferenceRequest, label
from codellama_proxy.providers.openai.embeddings import has_ids
from codellama_proxy.request.context import ANONYMOUS
from codellama_proxy.routing.cooldown import Cooling
from codellama_proxy.store.factory import inspect_session
from codellama_proxy.store.interfaces import KeySession
from codellama_proxy.tokens import tokenizers as tokens
from codellama_proxy.tokens.counter import Counter, tokenizer_files

DEFAULT_BODY = b'{"prompt": "Hello"}'
DEFAULT_BODIES = {
    "embeddings": b'{"input": "Hello"}',
    "messages": b'{"max_tokens": 1024, "messages": [{"role": "user", "content": "Hello"}]}',
    "responses": b'{"input": "Hello"}',
}
MAX_BODY_BYTES = 1 << 26
NO_KEY = "none"
"""The id of a key that stands for none."""
ANY_KEY = "any"
"""The id of a key that stands for every key of a project."""


@click.command(cls=Command)
@click.argument("body", required=False)
@click.option("--body", "body_option", metavar="FILE", help="The same as BODY.")
@click.option("--key", metavar="ID", help="The caller: a key_id, or a prefix of its secret.")
@click.option(
    "--project", metavar="NAME", help="The caller: any key of this project. Default: a caller without a key."
)
@click.option(
    "--endpoint",
    type=click.Choice([*DIALECTS]),
    default="chat/completions",
    show_default=True,
    help="The endpoint the request is sent to.",
)
@click.option("--model", metavar="NAME", help="The model the request asks for.")
@click.option(
    "--session", metavar="ID", help="The client's session, which stays on one deployment of a name."
)
@click.option(
    "--simulate", "plan", metavar="PLAN", help='Failures: "codellama: 429 retry-after 20; gpt-4: 500, ok".'
)
@click.option(
    "--server", metavar="URL", help="Read cooldowns from this running proxy (needs PROXY_MASTER_KEY)."
)
@config_option
@database_option
@json_option
def explain(**options: Any) -> int:
    """Show what would happen to a request, and why.

    BODY: a file with the request's JSON; - for stdin; default: a short prompt.

    Exit code 0: the request would be sent, and answered if that was simulated; 1: it would not.
    """
    return _explain(Options(**options))


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line gives."""

    body: str | None
    body_option: str | None
    key: str | None
    project: str | None
    endpoint: str
    model: str | None
    session: str | None
    plan: str | None
    server: str | None
    config: str | None
    database: str | None
    as_json: bool


def _explain(options: Options) -> int:
    _check(options)
    snapshot = valid_snapshot(config_path(options.config))
    chat = _chat(options)
    plan = _plan(options.plan, snapshot)
    now = time.time()
    with inspect_session(location_of(options.database)) as db:
        key = _key(options, db, snapshot)
        if key.key_id == NO_KEY:  # requests without a key have no limits of a key
            snapshot = replace(snapshot, limits={**snapshot.limits, "key": Limits()})
        if db is not None:
            snapshot = replace(snapshot, digest=keyed(snapshot.fingerprint, db.digest_key()))
        standings = unused(now) if db is None else (lambda scopes: db.standings(scopes, now))
        cooling = _cooling(options.server, now)
        world = World(_count(snapshot, key), standings, now, cooling, _session(options, chat))
        explanation = _explained(snapshot, key, chat, world)
    course = None if plan is None or explanation.error else _simulated(snapshot, key, chat, explanation, plan)
    clean = mask_of(snapshot)
    if options.as_json:
        shown = masked(explained.as_json(snapshot, key, chat, explanation, course), clean)
        say(json.dumps(shown, ensure_ascii=False))
    else:
        used = None if db is None else location_of(options.database)
        for line in explained.as_text(snapshot, key, chat, explanation, course, used):
            say(clean(line))
    return 1 if explanation.error or (course and course.error) else 0


def _check(options: Options) -> None:
    """Raises `CommandError` for options that do not go together."""
    if options.key is not None and options.project is not None:
        raise CommandError("give either --key or --project", 2)
    if options.body and options.body_option:
        raise CommandError("give the body once", 2)
    if options.server and options.plan:
        raise CommandError("--simulate starts without cooldowns: leave --server out", 2)
    if options.plan and options.endpoint in ("completions", "embeddings"):
        raise CommandError("--simulate supports chats, messages and responses only", 2)


def _explained(snapshot: Snapshot, key: Key, chat: InferenceRequest, world: World) -> Explanation:
    try:
        require_usable(key, None, world.now)
    except ProxyError as error:
        return Explanation(error=error)
    return decision.explain(snapshot, key, chat, world)


def _simulated(
    snapshot: Snapshot, key: Key, chat: InferenceRequest, explanation: Explanation, plan: Plan
) -> Course:
    trace = admitted(snapshot, key, chat, explanation)
    return simulate(trace, chat, explanation.models, snapshot, plan)


# --- the request -------------------------------------------------------------------------------------------


def _chat(options: Options) -> InferenceRequest:
    try:
        given = options.body or options.body_option
        body = DEFAULT_BODIES.get(options.endpoint, DEFAULT_BODY) if given is None else _body(given)
        chat = DIALECTS[options.endpoint].parse(body, dict, "req_explained", 0)
    except ProxyError as error:
        raise CommandError(f"the request would get {error.status} {error.code}: {error.message}") from None
    if chat.endpoint == "embeddings" and has_ids(chat):
        chat = chat._replace(texts=asyncio.run(Counter(tokenizer_files()).texts(chat)))
    return chat if options.model is None else chat._replace(model=options.model)


def _session(options: Options, chat: InferenceRequest) -> str | None:
    """The session, as the gateway takes it from headers or else from the body."""
    return label(options.session) or label(chat.params.get("prompt_cache_key"))


def _body(given: str) -> bytes:
    try:
        with sys.stdin.buffer if given == "-" else Path(given).open("rb") as file:
            body = file.read(MAX_BODY_BYTES + 1)
    except OSError as error:
        raise CommandError(f"cannot read {given}: {error.strerror}", 2) from error
    if len(body) > MAX_BODY_BYTES:
        raise CommandError(f"{given} has more than {MAX_BODY_BYTES} bytes", 2)
    return body


def _plan(text: str | None, snapshot: Snapshot) -> Plan | None:
    try:
        return None if text is None else parse(text, snapshot)
    except PlanError as error:
        raise CommandError(str(error), 2) from None


# --- the caller and what is used ---------------------------------------------------------------------------


def _key(options: Options, db: KeySession | None, snapshot: Snapshot) -> Key:
    """The caller: by default one without a key, where that is allowed. Raises `CommandError`."""
    if options.project is not None:
        return Key(ANY_KEY, options.project)
    if options.key is None:
        if snapshot.auth_required:
            raise CommandError(
                "this configuration requires a key: give --project NAME for any key of that project "
                "(such as --project default), or --key ID for one that exists",
                2,
            )
        return Key(NO_KEY, ANONYMOUS)
    if db is None:
        raise CommandError(f"there is no database {location_of(options.database)} to find the key in")
    assert options.key is not None
    try:
        return find_key(db, options.key)
    except ProxyError as error:
        raise CommandError(error.message) from None


def _cooling(server: str | None, now: float) -> dict[str, Cooling]:
    """The cooldowns of a running proxy, on a clock that stands at 0; empty without `server`. Raises `CommandError`."""
    if server is None:
        return {}
    master = Settings().master_key
    if master is None:
        raise CommandError("PROXY_MASTER_KEY is not set; reading the cooldowns needs the master key", 2)
    headers = {"authorization": f"Bearer {master.get_secret_value()}"}
    try:
        asked = Request(f"{server.rstrip('/')}/health", headers=headers)  # noqa: S310 - the operator's own URL
        with urlopen(asked, timeout=10) as answer:  # noqa: S310
            models = json.load(answer)["models"]
    except (OSError, ValueError, LookupError) as error:
        raise CommandError(f"{without_credentials(server)} did not report its cooldowns: {error}") from None
    return {one["deployment"]: _cooled(one, now) for one in models if one["state"] == "cooling"}


def _cooled(one: dict[str, Any], now: float) -> Cooling:
    left = datetime.fromisoformat(one["until"]).timestamp() - now
    return Cooling(failures=1, until=max(left, 0.001), rounds=1, why=one["why"])


def _count(snapshot: Snapshot, key: Key) -> Count:
    """As `Accounting` does: counts where tokens are limited, else estimates from the size."""
    counter = Counter(tokenizer_files())

    def count(chat: InferenceRequest, first: Deployment) -> int:
        trace = trace_of(snapshot, key, chat, 0.0)
        if scopes_of(trace, chat, snapshot).counts_tokens:
            return asyncio.run(counter.prompt(chat, first))
        return tokens.of_size(chat.size)

    return count
