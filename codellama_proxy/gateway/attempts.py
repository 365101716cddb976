"""Tries the deployments of a request's chain, as `retries.next_step` decides, until one answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from codellama_proxy.core.clock import Time
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.offload import LARGE_BODY_BYTES
from codellama_proxy.core.snapshot import Cooldown, Deployment, Snapshot
from codellama_proxy.core.types import ChunkOutlet, Event, HttpRequest, Take, decline
from codellama_proxy.failures import repairs
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.gateway.prepared import PreparedSnapshot
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.policy.deployment_request import NOTHING
from codellama_proxy.policy.permissions import every_model
from codellama_proxy.pricing.charge import CANCELLED, Call
from codellama_proxy.providers.registry import adapter_of
from codellama_proxy.request.context import RequestContext
from codellama_proxy.routing import retries, selection, sticky
from codellama_proxy.routing.chain import Chain
from codellama_proxy.routing.cooldown import Cooldowns
from codellama_proxy.routing.missing_endpoints import MissingEndpoints
from codellama_proxy.routing.retries import GiveUp, Try
from codellama_proxy.upstream.attempt import open_reply
from codellama_proxy.upstream.pools import Pools, identity_of
from codellama_proxy.upstream.reply import Reply


class TrackedReply:
    """A reply whose end is recorded once, in the context and for the deployment's cooldown."""

    def __init__(self, reply: Reply, call: Call, cooldowns: Cooldowns, rules: Cooldown, time: Time) -> None:
        self._reply = reply
        self.deployment = reply.deployment
        self.dropped = reply.dropped
        self.first = reply.first
        self._call = call
        self._time = time
        self._note_end()
        self._cooldowns = cooldowns
        self._rules = rules
        self._noted = False

    @property
    def ended(self) -> bool:
        return self._reply.ended

    async def more(
        self, seconds: float, take: Take = decline, outlet: ChunkOutlet | None = None
    ) -> Sequence[Event]:
        """`upstream.reply.Reply.more`. Raises `AttemptError`."""
        try:
            events = await self._reply.more(seconds, take, outlet)
        except AttemptError as failed:
            self._call.failed(failed.failure)
            self._call.end(self._time.monotonic())
            self._noted = True
            self._cooldowns.end(self.deployment, failed.failure, self._rules)
            raise
        self._note_end()
        return events

    def _note_end(self) -> None:
        if self._reply.ended:
            self._call.whole = True
            self._call.end(self._time.monotonic())

    async def close(self) -> None:
        """Closes the reply. An answer that was abandoned before its end does not affect the cooldown."""
        self._call.leave(self._time.monotonic())
        if not self._noted:
            self._noted = True
            if self.ended:
                self._cooldowns.end(self.deployment, None, self._rules)
        await self._reply.close()


class WholeReply:
    """A reply that arrived as a whole: its call has ended, and its connection is free."""

    __slots__ = ("deployment", "dropped", "first")

    ended = True

    def __init__(self, reply: Reply) -> None:
        self.deployment = reply.deployment
        self.dropped = reply.dropped
        self.first = reply.first

    async def more(
        self, seconds: float, take: Take = decline, outlet: ChunkOutlet | None = None
    ) -> Sequence[Event]:
        """Nothing more."""
        del seconds, take, outlet
        return ()

    async def close(self) -> None:
        """It is closed."""


HasBudget = Callable[[RequestContext, Deployment], Awaitable[bool]]
"""Called before each further attempt: whether the budgets have room for one on that deployment."""


async def unlimited(context: RequestContext, deployment: Deployment) -> bool:
    """A `HasBudget` for attempts without budgets."""
    del context, deployment
    return True


class AttemptRunner:
    """Runs attempts on the given connections and cooldowns; records each one in the request's context."""

    def __init__(self, pools: Pools, cooldowns: Cooldowns, time: Time, room: HasBudget = unlimited) -> None:
        self.missing = MissingEndpoints(identity_of, time.monotonic)
        self._pools = pools
        self._cooldowns = cooldowns
        self._time = time
        self._room = room

    def chain(
        self, request: InferenceRequest, permitted: Callable[[str], bool], prepared: PreparedSnapshot
    ) -> Chain:
        """The requested model and its fallbacks. Raises `ProxyError` model_not_found."""
        cooling = self._cooldowns.states()
        if permitted is every_model and not cooling:  # nearly every request
            return prepared.whole_chain(request.model, request.mode)
        now, snapshot = self._time.monotonic(), prepared.snapshot
        asked = selection.requested_model(snapshot, request.model, request.mode, permitted)
        return Chain(selection.models_of_chain(snapshot, asked, permitted, cooling, now, request.mode))

    def plan(
        self, context: RequestContext, request: InferenceRequest, chain: Chain, snapshot: Snapshot
    ) -> None:
        """Sets the order of the deployments before the first attempt, because the ledger records the first one."""
        if chain.has_choice:
            key_id = context.key.key_id if context.key else None
            context.conversation = sticky.conversation_of(
                request, chain.models, snapshot.routing, context.session, key_id
            )
        context.planned, context.planned_for = self._order(context, chain), chain

    def _order(self, context: RequestContext, chain: Chain) -> Sequence[Deployment]:
        cooling = self._cooldowns.states()
        if not cooling and not chain.has_choice:
            return chain.deployments
        now, jitter = self._time.monotonic(), self._time.jitter
        return selection.candidates(chain.models, cooling, now, jitter, context.conversation)

    def _planned(self, context: RequestContext, chain: Chain) -> Sequence[Deployment]:
        """The planned order, for the first attempt only, without deployments that admission ruled out."""
        planned, context.planned = context.planned, ()
        if not planned or context.planned_for is chain:
            return planned
        return [d for d in planned if d in chain.deployments]

    async def run(
        self, context: RequestContext, request: InferenceRequest, chain: Chain, snapshot: Snapshot
    ) -> TrackedReply | WholeReply:
        """Returns an answer that has begun. Raises `ProxyError` if every deployment failed."""
        while True:
            now, jitter = self._time.monotonic(), self._time.jitter
            ordered = self._planned(context, chain) or self._order(context, chain)
            able = [d for d in ordered if d.id not in context.unable] if context.unable else ordered
            elapsed, states = now - context.started, self._cooldowns.states()
            step = retries.next_step(able, context.attempts, elapsed, snapshot.routing, jitter, states, now)
            if isinstance(step, GiveUp):
                raise retries.final_error(context.attempts, step, snapshot.routing)
            if step.delay:
                await self._time.sleep(step.delay)
                context.waited += step.delay
            if context.attempts and not await self._goes_on(context, step.deployment):
                raise retries.final_error(context.attempts, GiveUp("exhausted"), snapshot.routing)
            if self._cooldowns.is_probed(step.deployment):
                continue  # another request started the probe while this one waited
            reply = await self._attempt(context, request, step, snapshot)
            if reply is not None:
                context.serving, context.dropped = step.deployment, reply.dropped
                call, rules = context.calls[-1], snapshot.routing.cooldown
                if not (reply.ended and reply.end_read()):
                    return TrackedReply(reply, call, self._cooldowns, rules, self._time)
                call.whole = True
                call.end(self._time.monotonic())
                self._cooldowns.end(step.deployment, None, rules)
                return WholeReply(reply)

    async def _goes_on(self, context: RequestContext, deployment: Deployment) -> bool:
        """Whether to try again: a client still waits and the budgets have room. If not, the last failure is final."""
        if context.gone and not context.others():
            return False
        return await self._room(context, deployment)

    async def _attempt(
        self, context: RequestContext, request: InferenceRequest, step: Try, snapshot: Snapshot
    ) -> Reply | None:
        """One upstream call, recorded in the context and for the cooldown; `None` if it failed."""
        deployment = step.deployment
        try:
            refused = self._refused(context, request, deployment)
            if request.size < LARGE_BODY_BYTES:
                here, sent = _prepared(context, request, deployment, snapshot, refused)
            else:
                here, sent = await asyncio.to_thread(
                    _prepared, context, request, deployment, snapshot, refused
                )
        except ProxyError:
            if not context.attempts:
                raise
            # This fallback does not support the request, so the failure of the first attempt is reported.
            context.unable.add(deployment.id)
            return None
        if self._cooldowns.is_probed(deployment):
            return None  # another request started the probe while a thread prepared this one
        context.sent, context.tried = here, deployment
        started = self._time.monotonic()
        again = bool(context.attempts) and deployment.id in [one.deployment for one in context.attempts]
        probe = self._cooldowns.begin(deployment, again=again)
        call = Call(deployment, here, started, at=(started - context.started) * 1000, bounds=context.bounds)
        context.calls.append(call)
        try:
            reply = await open_reply(self._pools, sent, here, deployment, step.budget, note=call.note)
        except AttemptError as failed:
            call.failed(repairs.judged(failed.failure, here, deployment))
            call.end(self._time.monotonic())
            self._cooldowns.end(deployment, call.failure, snapshot.routing.cooldown, probe)
            return None
        except BaseException:
            call.leave(self._time.monotonic(), CANCELLED)
            self._cooldowns.abandon(deployment, probe)
            raise
        else:
            self._cooldowns.answered(deployment, probe)
            if context.attempts and repairs.ENDPOINT in repairs.left_out(context.attempts, deployment):
                self.missing.add(deployment, request.dialect)
            return reply
        finally:
            context.waited += self._time.monotonic() - started
            # Otherwise the request was settled in the meantime.
            if len(context.attempts) < len(context.calls):
                context.attempts.append(call.attempt())

    def _refused(
        self, context: RequestContext, request: InferenceRequest, deployment: Deployment
    ) -> frozenset[str]:
        """What the deployment refused: in earlier attempts, and the endpoint that it is known to lack."""
        refused = repairs.left_out(context.attempts, deployment) if context.attempts else NOTHING
        if request.native is not None and self.missing.lacks(deployment, request.dialect):
            refused |= {repairs.ENDPOINT}
        return refused


def _prepared(
    context: RequestContext,
    request: InferenceRequest,
    deployment: Deployment,
    snapshot: Snapshot,
    refused: frozenset[str],
) -> tuple[InferenceRequest, HttpRequest]:
    """The request for this deployment without what it `refused`, and its HTTP request. Raises `ProxyError`."""
    at = context.requests_for(request, snapshot).at(deployment)
    bound = context.admission.max_tokens if context.admission else None
    here, gone = at.to_send(bound, budgeted=context.budgeted, refused=refused)
    sent = adapter_of(here, deployment).to_request(here, deployment)
    return here, sent._replace(dropped=(*sent.dropped, *gone)) if gone else sent
