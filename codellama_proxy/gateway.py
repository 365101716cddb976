"""The way of a request, stage after stage, and the only place that knows the whole of it.

    bytes -> authenticate -> parse -> chain -> admit -> attempt* (-> next_step ->) -> first event -> client
                                                                                        '-> settle -> log

Streams and plain answers take the same way: a plain answer is a stream of one event. One request is one call
of `Gateway.chat`; whatever happens in it, its `finally` settles, once.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from codellama_proxy import limits, routing, sse
from codellama_proxy import trace as traces
from codellama_proxy.admission import Ask
from codellama_proxy.chat import (
    ChatRequest,
    addressed,
    check_client_system,
    guardrail_text,
    parse_chat,
)
from codellama_proxy.cooldowns import Cooldowns
from codellama_proxy.errors import ProxyError
from codellama_proxy.failures import AttemptFailed
from codellama_proxy.providers import ADAPTERS
from codellama_proxy.routing import GiveUp, Try, allows
from codellama_proxy.store.keys import Keys
from codellama_proxy.store.ledger import Ledger
from codellama_proxy.trace import Trace
from codellama_proxy.tracking.log import Log
from codellama_proxy.types import Attempt, Deployment, Event, Failure, Key, Model, Price, Snapshot
from codellama_proxy.upstream import Pools, Reply, open_reply

ANONYMOUS = "anonymous"
"""The project of calls without a key, where those are allowed."""


class Client(Protocol):
    """The caller, as the web layer shows it."""

    begun: bool
    """The status line has been sent."""

    def credential(self) -> str | None:
        """The secret it presented. Raises `ProxyError` when it presented two."""

    async def body(self, limit: int) -> bytes:
        """The whole request body. Raises `ClientLeft`, or `ProxyError`: too large, wrong content type, too slow."""

    async def begin(self, status: int, headers: dict[str, str]) -> None: ...

    async def write(self, data: bytes, *, last: bool) -> None:
        """Raises `ClientLeft` when it does not read what it is sent."""


class ClientLeft(Exception):  # noqa: N818 - it is news, not an error
    """Nobody is there any more to answer."""


@dataclass(frozen=True, slots=True)
class Time:
    """The clocks and the dice, passed in so that tests own them."""

    monotonic: Callable[[], float]
    wall: Callable[[], float]
    sleep: Callable[[float], Awaitable[Any]]
    jitter: Callable[[], float]


class Gateway:
    """Holds what outlives requests: connections, cooldowns, keys and the ledger; never a setting."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        keys: Keys,
        ledger: Ledger,
        pools: Pools,
        cooldowns: Cooldowns,
        log: Log,
        time: Time,
    ) -> None:
        self._snapshot = snapshot
        self._keys = keys
        self._ledger = ledger
        self._pools = pools
        self._cooldowns = cooldowns
        self._log = log
        self._time = time
        self.running = 0
        """Requests in flight."""

    async def chat(self, client: Client) -> None:
        """Answers one chat request, whatever it takes. Only bugs and cancellation get out."""
        snapshot = self._snapshot()
        now = self._time.monotonic()
        trace = Trace(
            f"req_{secrets.token_hex(12)}", now, self._time.wall(), "chat/completions", snapshot.digest
        )
        reply: Reply | None = None
        self.running += 1
        try:
            self._check_room(snapshot)
            await self._authenticate(trace, client, snapshot)
            chat = self._parse(trace, await client.body(snapshot.server.max_body), snapshot)
            models = self._chain(trace, chat, snapshot)
            await self._admit(trace, chat, models, snapshot)
            reply = await self._open(trace, chat, models, snapshot)
            await self._deliver(trace, chat, reply, client, snapshot)
        except ProxyError as error:
            trace.error = error
            await self._refuse(trace, client, error)
        except (asyncio.CancelledError, ClientLeft):
            trace.gone = True
            raise
        finally:
            self.running -= 1
            self._settle(trace)
            if reply is not None:
                await reply.close()

    # --- before the ledger ---------------------------------------------------------------------------------

    def _check_room(self, snapshot: Snapshot) -> None:
        if self.running > snapshot.server.max_parallel_requests:
            raise ProxyError("overloaded", "The proxy has no room for more requests now.", retry_after=1.0)

    async def _authenticate(self, trace: Trace, client: Client, snapshot: Snapshot) -> None:
        secret = client.credential()
        if secret is None and not snapshot.auth_required:
            trace.project = ANONYMOUS
            return
        trace.key = self._keys.cached(secret) or await self._keys.authenticate(secret)
        trace.project = trace.key.project

    def _parse(self, trace: Trace, body: bytes, snapshot: Snapshot) -> ChatRequest:
        chat = replace(parse_chat(body), id=trace.id, created=int(trace.created_at))
        check_client_system(chat.messages, snapshot.guardrail.client_system)
        trace.chat = chat
        return chat

    def _chain(self, trace: Trace, chat: ChatRequest, snapshot: Snapshot) -> Sequence[Model]:
        """The asked model and its fallbacks, as far as the key and its project may use them."""
        permitted = permission(snapshot, trace.key)
        asked = routing.asked_model(snapshot, chat.model, "chat", permitted)
        return routing.models_of_chain(snapshot, asked, permitted)

    # --- the ledger ----------------------------------------------------------------------------------------

    async def _admit(
        self, trace: Trace, chat: ChatRequest, models: Sequence[Model], snapshot: Snapshot
    ) -> None:
        """One row, held, before any byte goes upstream. From here on the request must be settled."""
        trace.asked_ledger = True
        project = trace.project or ANONYMOUS
        deployments = [d for model in models for d in model.deployments]
        ask = Ask(
            request_id=trace.id,
            created_at=trace.created_at,
            project=project,
            key=trace.key,
            user=chat.user,
            endpoint=trace.endpoint,
            model_requested=chat.model,
            stream=chat.stream,
            config=snapshot.digest,
            scopes=limits.scopes_of(snapshot, project, trace.key, chat.user),
            prompt_estimate=chat.size // 4,
            prompt_bound=chat.size,
            max_tokens=chat.max_tokens,
            default_max_tokens=max(d.max_output_tokens for d in deployments),
            n=chat.n,
            prices=tuple(self._price_of(d) for d in deployments),
            candidate_names=tuple(d.name for d in deployments),
        )
        trace.admission = await self._ledger.admit(ask)

    def _price_of(self, deployment: Deployment) -> Price | None:
        return deployment.price

    def _settle(self, trace: Trace) -> None:
        """The one place where a request ends in the books and in the log."""
        now = self._time.monotonic()
        done = traces.books(trace, self._price_of, lambda: 0, lambda text: 0)
        if trace.asked_ledger:
            self._ledger.settle(traces.settlement(trace, done, now))
        self._log.request(traces.record(trace, done, now))

    # --- upstream ------------------------------------------------------------------------------------------

    async def _open(
        self, trace: Trace, chat: ChatRequest, models: Sequence[Model], snapshot: Snapshot
    ) -> Reply:
        """Walks the chain until somebody answers. Raises `ProxyError` when nobody does."""
        while True:
            now, jitter = self._time.monotonic(), self._time.jitter
            chain = routing.candidates(models, "chat", self._cooldowns.states(), now, jitter)
            step = routing.next_step(chain, trace.attempts, now - trace.started, snapshot.routing, jitter)
            if isinstance(step, GiveUp):
                raise routing.final_error(trace.attempts, step)
            if step.delay:
                await self._time.sleep(step.delay)
                trace.waited += step.delay
            reply = await self._attempt(trace, chat, step, snapshot)
            if reply is not None:
                trace.serving, trace.dropped = step.deployment, reply.dropped
                return reply

    async def _attempt(self, trace: Trace, chat: ChatRequest, step: Try, snapshot: Snapshot) -> Reply | None:
        """One upstream call, noted in the trace and in the deployment's record."""
        deployment = step.deployment
        here = self._addressed(trace, chat, deployment, snapshot)
        sent = ADAPTERS[deployment.provider].to_request(here, deployment)
        before, trace.silent = trace.silent, deployment
        started = self._time.monotonic()
        self._cooldowns.begin(deployment)
        failure: Failure | None = None
        reply: Reply | None = None
        try:
            reply = await open_reply(self._pools, sent, here, deployment, step.budget)
        except AttemptFailed as failed:
            failure = failed.failure
        except asyncio.CancelledError:
            self._cooldowns.abandon(deployment)
            failure = Failure("client_left", reason="client_left")
            raise
        finally:
            waited = self._time.monotonic() - started
            trace.waited += waited
            trace.attempts.append(Attempt(deployment.id, failure, waited * 1000))
        if failure is None:
            self._cooldowns.answered(deployment)
            return reply
        self._cooldowns.end(deployment, failure, snapshot.routing.cooldown)
        if not failure.sent or failure.status is not None:
            trace.silent = before
        return None

    def _addressed(
        self, trace: Trace, chat: ChatRequest, deployment: Deployment, snapshot: Snapshot
    ) -> ChatRequest:
        project = snapshot.project(trace.project or ANONYMOUS)
        text = guardrail_text(snapshot.guardrail, project.guardrail, deployment.system_prompt)
        held = trace.admission.max_tokens if trace.admission else None
        return addressed(chat, deployment, text, snapshot.guardrail.client_system, held)

    # --- to the client -------------------------------------------------------------------------------------

    async def _deliver(
        self, trace: Trace, chat: ChatRequest, reply: Reply, client: Client, snapshot: Snapshot
    ) -> None:
        """Hands the answer on as it comes. Raises `ProxyError` when it breaks off."""
        deadline = trace.started + snapshot.routing.deadline
        events = reply.first
        try:
            while True:
                trace.note(events)
                if not client.begun:
                    await client.begin(200, self._headers(trace, chat, events))
                await client.write(_wire_form(chat, events, ended=reply.ended), last=reply.ended)
                if reply.ended:
                    break
                events = await self._more(trace, reply, deadline)
        except AttemptFailed as failed:
            self._broke(trace, reply, failed.failure, snapshot)
            raise ProxyError(failed.failure.code, failed.failure.message) from None
        except (asyncio.CancelledError, ClientLeft):
            self._cooldowns.abandon(reply.deployment)
            raise
        trace.complete = True
        self._cooldowns.end(reply.deployment, None, snapshot.routing.cooldown)

    async def _more(self, trace: Trace, reply: Reply, deadline: float) -> Sequence[Event]:
        started = self._time.monotonic()
        left = deadline - started
        try:
            return await reply.more(min(reply.deployment.timeouts.idle, max(left, 0.0)))
        except AttemptFailed:
            if self._time.monotonic() >= deadline:
                raise ProxyError(
                    "deadline_exceeded", "The answer was not complete at the deadline."
                ) from None
            raise
        finally:
            trace.waited += self._time.monotonic() - started

    def _broke(self, trace: Trace, reply: Reply, failure: Failure, snapshot: Snapshot) -> None:
        """The serving attempt turned out to be a failure after all."""
        trace.attempts[-1] = replace(trace.attempts[-1], failure=failure)
        self._cooldowns.end(reply.deployment, failure, snapshot.routing.cooldown)

    def _headers(self, trace: Trace, chat: ChatRequest, events: Sequence[Event]) -> dict[str, str]:
        headers = traces.headers(trace, self._time.monotonic())
        if chat.stream:
            return {**traces.stream_headers(), **headers}
        body = events[0].body
        cost = self._cost(trace)
        if cost is not None:
            headers["x-proxy-cost-usd"] = f"{cost:.9f}"
        return {"content-type": "application/json", "content-length": str(len(body)), **headers}

    def _cost(self, trace: Trace) -> float | None:
        """USD of a plain answer in hand."""
        finished = replace(trace, complete=True)
        return traces.usd(traces.books(finished, self._price_of, lambda: 0, lambda text: 0).cost_nanos)

    async def _refuse(self, trace: Trace, client: Client, error: ProxyError) -> None:
        """An error in the form that is still possible: a JSON answer, or the stream's last event without [DONE]."""
        if client.begun:
            await client.write(sse.encode(error.body()), last=True)
            return
        body = error.body()
        headers = {**traces.headers(trace, self._time.monotonic()), **error.wire_headers()}
        await client.begin(error.status, {**headers, "content-length": str(len(body))})
        await client.write(body, last=True)


def permission(snapshot: Snapshot, key: Key | None) -> Callable[[str], bool]:
    """Which models a key may use: its own list and its project's both have to let a name through."""
    of_key = key.models if key else None
    of_project = snapshot.project(key.project if key else ANONYMOUS).models
    return lambda name: allows(of_key, name) and allows(of_project, name)


def _wire_form(chat: ChatRequest, events: Sequence[Event], *, ended: bool) -> bytes:
    if not chat.stream:
        return events[0].body
    shown = [sse.encode(e.body) for e in events if e.body and (chat.include_usage or not e.usage_only)]
    if ended:
        shown.append(sse.encode(sse.DONE))
    return b"".join(shown)
