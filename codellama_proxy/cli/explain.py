"""`codellama-proxy explain`: what would happen to a request, and why; `--simulate`, when upstreams fail as planned."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from codellama_proxy.auth.keys import require_usable
from codellama_proxy.cli import explain_report as explained
from codellama_proxy.cli.command import Command, CommandError, database_path, note, say
from codellama_proxy.cli.keys import find_key
from codellama_proxy.config.check_report import inspect
from codellama_proxy.config.digest import keyed
from codellama_proxy.config.settings import Settings, config_path, environment
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.masking import mask_of, masked, without_credentials
from codellama_proxy.core.snapshot import Deployment, Snapshot
from codellama_proxy.core.types import Key
from codellama_proxy.diagnostics.decision import (
    Count,
    Explanation,
    World,
    explain,
    trace_of,
    unused,
)
from codellama_proxy.diagnostics.simulation import Course, Plan, PlanError, parse, simulate
from codellama_proxy.gateway.admission_request import counts_tokens, scopes_of
from codellama_proxy.inbound.openai import PARSERS
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.openai.embeddings import has_ids
from codellama_proxy.providers.registry import IMPLEMENTED
from codellama_proxy.routing.cooldown import Cooling
from codellama_proxy.store.factory import inspect_session
from codellama_proxy.store.interfaces import KeySession
from codellama_proxy.tokens import tokenizers as tokens
from codellama_proxy.tokens.counter import Counter, tokenizer_files

HELLO = b'{"prompt": "Hello"}'
HELLOS = {"embeddings": b'{"input": "Hello"}'}
MOST_BYTES = 1 << 26
"""Of a request's body."""
ANY_KEY = "any"
"""The id of a key that stands for every key of a project."""


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "body", nargs="?", help="a file with the request's JSON; - for stdin; default: a short prompt"
    )
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--key", metavar="ID", help="who asks: a key_id, or how its secret begins")
    who.add_argument("--project", metavar="NAME", help="who asks: any key of this project")
    parser.add_argument(
        "--endpoint",
        choices=[*PARSERS],
        default="chat/completions",
        help="where it is sent (chat/completions)",
    )
    parser.add_argument("--model", metavar="NAME", help="the model that is asked for")
    parser.add_argument("--simulate", metavar="PLAN", help='"codellama: 429 retry-after 20; gpt-4: 500, ok"')
    parser.add_argument(
        "--server", metavar="URL", help="ask this running proxy what is cooling (needs PROXY_MASTER_KEY)"
    )
    parser.add_argument("--config", help="the configuration file (PROXY_CONFIG; proxy.yaml)")
    parser.add_argument("--database", help="the database file (PROXY_DATABASE; data/proxy.db)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Namespace) -> int:
    """Exit code 0: the request would be sent, and answered if that was simulated; 1: it would not."""
    if args.server and args.simulate:
        raise CommandError("--simulate begins with nothing cooling: leave --server out", 2)
    if args.simulate and args.endpoint != "chat/completions":
        raise CommandError("--simulate knows the answers to chats only: leave --endpoint out", 2)
    snapshot = _snapshot(args)
    chat = _chat(args)
    plan = _plan(args.simulate, snapshot)
    now = time.time()
    with inspect_session(database_path(args)) as db:
        key = _key(args, db)
        if db is not None:
            snapshot = replace(snapshot, digest=keyed(snapshot.fingerprint, db.digest_key()))
        standings = unused(now) if db is None else (lambda scopes: db.standings(scopes, now))
        told = _explained(
            snapshot, key, chat, World(_count(snapshot, key), standings, now, _cooling(args, now))
        )
    course = None if plan is None or told.error else _simulated(snapshot, key, chat, told, plan)
    clean = mask_of(snapshot)
    if args.json:
        shown = masked(explained.as_json(snapshot, key, chat, told, course), clean)
        say(json.dumps(shown, ensure_ascii=False))
    else:
        used = None if db is None else database_path(args)
        for line in explained.as_text(snapshot, key, chat, told, course, used):
            say(clean(line))
    return 1 if told.error or (course and course.error) else 0


def _explained(snapshot: Snapshot, key: Key, chat: InferenceRequest, world: World) -> Explanation:
    try:
        require_usable(key, None, world.now)
    except ProxyError as error:
        return Explanation(error=error)
    return explain(snapshot, key, chat, world)


def _simulated(snapshot: Snapshot, key: Key, chat: InferenceRequest, told: Explanation, plan: Plan) -> Course:
    trace = trace_of(snapshot, key, chat, 0.0)
    trace.admission = told.admission
    return simulate(trace, chat, told.models, snapshot, plan)


# --- what is asked about -----------------------------------------------------------------------------------


def _snapshot(args: Namespace) -> Snapshot:
    report = inspect(config_path(args.config), environment(), implemented=IMPLEMENTED)
    if report.snapshot is None:
        for problem in report.problems:
            note(str(problem))
        raise CommandError(report.verdict)
    return report.snapshot


def _chat(args: Namespace) -> InferenceRequest:
    try:
        body = HELLOS.get(args.endpoint, HELLO) if args.body is None else _body(args.body)
        chat = PARSERS[args.endpoint](body, "req_explained", 0)
    except ProxyError as error:
        raise CommandError(f"the request would get {error.status} {error.code}: {error.message}") from None
    if chat.endpoint == "embeddings" and has_ids(chat):
        chat = chat._replace(texts=asyncio.run(Counter(tokenizer_files()).texts(chat)))
    return chat if args.model is None else chat._replace(model=args.model)


def _body(given: str) -> bytes:
    try:
        with sys.stdin.buffer if given == "-" else Path(given).open("rb") as file:
            body = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise CommandError(f"cannot read {given}: {error.strerror}", 2) from error
    if len(body) > MOST_BYTES:
        raise CommandError(f"{given} has more than {MOST_BYTES} bytes", 2)
    return body


def _plan(text: str | None, snapshot: Snapshot) -> Plan | None:
    try:
        return None if text is None else parse(text, snapshot)
    except PlanError as error:
        raise CommandError(str(error), 2) from None


# --- who asks ----------------------------------------------------------------------------------------------


def _key(args: Namespace, db: KeySession | None) -> Key:
    if args.project is not None:
        return Key(ANY_KEY, args.project)
    if db is None:
        raise CommandError(f"there is no database {database_path(args)} that could know the key")
    try:
        return find_key(db, args.key)
    except ProxyError as error:
        raise CommandError(error.message) from None


def _cooling(args: Namespace, now: float) -> dict[str, Cooling]:
    """What a running proxy says is cooling, on a clock that stands at 0; nothing without one."""
    if args.server is None:
        return {}
    master = Settings().master_key
    if master is None:
        raise CommandError(
            "PROXY_MASTER_KEY is not set, and only an administrator may ask what is cooling", 2
        )
    headers = {"authorization": f"Bearer {master.get_secret_value()}"}
    try:
        asked = Request(f"{args.server.rstrip('/')}/health", headers=headers)  # noqa: S310 - the operator's own URL
        with urlopen(asked, timeout=10) as answer:  # noqa: S310
            models = json.load(answer)["models"]
    except (OSError, ValueError, LookupError) as error:
        raise CommandError(
            f"{without_credentials(args.server)} does not say what is cooling: {error}"
        ) from None
    return {one["deployment"]: _cooled(one, now) for one in models if one["state"] == "cooling"}


def _cooled(one: dict[str, Any], now: float) -> Cooling:
    left = datetime.fromisoformat(one["until"]).timestamp() - now
    return Cooling(failures=1, until=max(left, 0.001), rounds=1, why=one["why"])


def _count(snapshot: Snapshot, key: Key) -> Count:
    """As `Accounts` does: counted where tokens are limited, else guessed from the size."""
    counter = Counter(tokenizer_files())

    def count(chat: InferenceRequest, first: Deployment) -> int:
        trace = trace_of(snapshot, key, chat, 0.0)
        if counts_tokens(scopes_of(trace, chat, snapshot)):
            return asyncio.run(counter.prompt(chat, first))
        return tokens.of_size(chat.size)

    return count


COMMAND = Command("explain", "say what would happen to a request, and why", arguments, run)
