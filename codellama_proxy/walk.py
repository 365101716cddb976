"""Walks the chain of a request: one attempt after another, as `routing.next_step` says, until somebody answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from codellama_proxy import privileged, repairs, routing
from codellama_proxy.chat import ChatRequest
from codellama_proxy.clock import Time
from codellama_proxy.cooldowns import Cooldowns
from codellama_proxy.errors import ProxyError
from codellama_proxy.failures import AttemptFailed
from codellama_proxy.guardrail import addressed, guardrail_of
from codellama_proxy.pools import Pools
from codellama_proxy.providers import SPOKEN
from codellama_proxy.routing import GiveUp, Try
from codellama_proxy.trace import Trace
from codellama_proxy.types import Attempt, Cooldown, Deployment, Event, Failure, Model, Snapshot
from codellama_proxy.upstream import Reply, open_reply

LEFT = Failure("client_left", reason="client_left")


class Served:
    """A reply whose end is noted in the trace and in the deployment's record, once."""

    def __init__(self, reply: Reply, trace: Trace, cooldowns: Cooldowns, rules: Cooldown) -> None:
        self._reply = reply
        self._trace = trace
        self._cooldowns = cooldowns
        self._rules = rules
        self._noted = False

    @property
    def deployment(self) -> Deployment:
        return self._reply.deployment

    @property
    def dropped(self) -> tuple[str, ...]:
        return self._reply.dropped

    @property
    def first(self) -> Sequence[Event]:
        return self._reply.first

    @property
    def ended(self) -> bool:
        return self._reply.ended

    async def more(self, seconds: float) -> Sequence[Event]:
        """The next batch. Raises `AttemptFailed`."""
        try:
            return await self._reply.more(seconds)
        except AttemptFailed as failed:
            self._trace.note_usage(failed.failure.usage)
            last = self._trace.attempts[-1]
            self._trace.attempts[-1] = Attempt(last.deployment, failed.failure, last.ms, last.started)
            self._noted = True
            self._cooldowns.end(self.deployment, failed.failure, self._rules)
            raise

    async def close(self) -> None:
        """An answer we or the client gave up says nothing about its upstream."""
        if not self._noted:
            self._noted = True
            if self.ended:
                self._cooldowns.end(self.deployment, None, self._rules)
        await self._reply.close()


class Walk:
    """Holds the connections and the cooldowns; what happens is noted in the trace."""

    def __init__(self, pools: Pools, cooldowns: Cooldowns, time: Time) -> None:
        self._pools = pools
        self._cooldowns = cooldowns
        self._time = time

    def chain(
        self, chat: ChatRequest, permitted: Callable[[str], bool], snapshot: Snapshot
    ) -> Sequence[Model]:
        """The asked model and its fallbacks. Raises `ProxyError` model_not_found."""
        asked = routing.asked_model(snapshot, chat.model, chat.mode, permitted)
        cooling, now = self._cooldowns.states(), self._time.monotonic()
        return routing.models_of_chain(snapshot, asked, permitted, cooling, now, chat.mode)

    async def open(
        self, trace: Trace, chat: ChatRequest, models: Sequence[Model], snapshot: Snapshot
    ) -> Served:
        """An answer that has begun. Raises `ProxyError` when nobody gives one."""
        while True:
            now, jitter = self._time.monotonic(), self._time.jitter
            ordered = routing.candidates(models, self._cooldowns.states(), now, jitter)
            chain = [d for d in ordered if d.id not in trace.unable] if trace.unable else ordered
            elapsed, states = now - trace.started, self._cooldowns.states()
            step = routing.next_step(chain, trace.attempts, elapsed, snapshot.routing, jitter, states, now)
            if isinstance(step, GiveUp):
                raise routing.final_error(trace.attempts, step, snapshot.routing)
            if step.delay:
                await self._time.sleep(step.delay)
                trace.waited += step.delay
                if self._cooldowns.is_probed(step.deployment):
                    continue  # another request was there first
            reply = await self._attempt(trace, chat, step, snapshot)
            if reply is not None:
                trace.serving, trace.dropped = step.deployment, reply.dropped
                return Served(reply, trace, self._cooldowns, snapshot.routing.cooldown)

    async def _attempt(self, trace: Trace, chat: ChatRequest, step: Try, snapshot: Snapshot) -> Reply | None:
        """One upstream call, noted in the trace and in the deployment's record."""
        deployment = step.deployment
        addressed_chat = _addressed(trace, chat, deployment, snapshot)
        here, gone = repairs.repaired(addressed_chat, repairs.left_out(trace.attempts, deployment))
        try:
            gone = (*gone, *privileged.refused_from(chat, deployment))
            sent = SPOKEN[chat.endpoint][deployment.provider].to_request(here, deployment)
            sent = sent._replace(dropped=(*sent.dropped, *gone)) if gone else sent
        except ProxyError:
            if not trace.attempts:
                raise
            trace.unable.add(
                deployment.id
            )  # a backup that cannot be asked this is none; the first failure stands
            return None
        silent_before, trace.silent, trace.sent = trace.silent, deployment, here
        trace.tried = deployment
        started = self._time.monotonic()
        again = any(attempt.deployment == deployment.id for attempt in trace.attempts)
        probe = self._cooldowns.begin(deployment, again=again)
        failure: Failure | None = None
        reply: Reply | None = None
        try:
            reply = await open_reply(self._pools, sent, here, deployment, step.budget)
        except AttemptFailed as failed:
            failure = repairs.judged(failed.failure, here, deployment)
        except BaseException:
            self._cooldowns.abandon(deployment, probe)
            failure = LEFT
            raise
        finally:
            waited = self._time.monotonic() - started
            trace.waited += waited
            trace.attempts.append(Attempt(deployment.id, failure, waited * 1000, started))
        if failure is None:
            self._cooldowns.answered(deployment, probe)
            return reply
        self._cooldowns.end(deployment, failure, snapshot.routing.cooldown, probe)
        if not failure.sent or failure.status is not None:
            trace.silent = silent_before
        return None


def _addressed(trace: Trace, chat: ChatRequest, deployment: Deployment, snapshot: Snapshot) -> ChatRequest:
    text = guardrail_of(snapshot.guardrail, trace.settings, deployment)
    bound = trace.admission.max_tokens if trace.admission else None
    return addressed(chat, deployment, text, snapshot.guardrail.client_system, bound)
