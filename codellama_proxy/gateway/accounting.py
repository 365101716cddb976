"""What a request may cost before it starts, and what it did cost at its end: the gateway's side of the ledger."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from codellama_proxy.core.clock import Time
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.offload import off_loop
from codellama_proxy.core.snapshot import Deployment, Model, Snapshot
from codellama_proxy.core.types import Charge, Usage
from codellama_proxy.gateway import admission_request as asking
from codellama_proxy.gateway.settlement import settlement
from codellama_proxy.limits.admission import Extension, LimitExceededError, Settlement
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.pricing import charge as charging
from codellama_proxy.pricing.catalogue import price_of
from codellama_proxy.pricing.charge import Call
from codellama_proxy.providers.openai.embeddings import TAKE_IDS, has_ids
from codellama_proxy.request.charge import RequestCharge, request_charge, uncharged
from codellama_proxy.request.context import RequestContext
from codellama_proxy.store.interfaces import Ledger
from codellama_proxy.tokens import tokenizers as tokens
from codellama_proxy.tokens.counter import Counter
from codellama_proxy.tracking import stored_content as content
from codellama_proxy.tracking.log import Log
from codellama_proxy.tracking.metrics import Metrics
from codellama_proxy.tracking.otel import Spans
from codellama_proxy.tracking.promptlayer import record as promptlayer
from codellama_proxy.tracking.request_record import request_record

log = logging.getLogger(__name__)


class Accounting:
    """Admits and settles. Every admitted trace is settled once, whatever happened to its request."""

    def __init__(
        self,
        ledger: Ledger,
        counter: Counter,
        lines: Log,
        metrics: Metrics,
        time: Time,
        spans: Spans | None = None,
    ) -> None:
        self._ledger = ledger
        self._counter = counter
        self._lines = lines
        self._metrics = metrics
        self._spans = spans
        self._time = time
        self._counting: set[asyncio.Task[None]] = set()

    @property
    def traced(self) -> bool:
        return self._spans is not None

    async def admit(
        self, trace: RequestContext, chat: InferenceRequest, models: Sequence[Model], snapshot: Snapshot
    ) -> Sequence[Model]:
        """One held row before any byte goes upstream; the models that may be asked, where a budget bears them.

        Raises `ProxyError`: a limit, a missing price, no ledger.
        """
        scopes = asking.scopes_of(trace, chat, snapshot)
        models = asking.payable(models, scopes)
        trace.budgeted = asking.budgeted(scopes)
        # Tokens of the prompt are counted where tokens are limited, else guessed from its size.
        if asking.counts_tokens(scopes):
            estimate = await self._counter.prompt(chat, asking.candidates(models)[0])
        else:
            estimate = tokens.of_size(chat.size)
        trace.asked_ledger = True
        ask = await off_loop(
            chat.size, asking.admission_request, trace, chat, models, snapshot, scopes, estimate
        )
        trace.scopes = scopes
        trace.admission = await self._ledger.admit(ask)
        trace.bounds = asking.bounds_of(ask, trace.admission)
        trace.held_nanos = trace.admission.hold_nanos
        return models

    async def admit_follower(
        self, trace: RequestContext, models: Sequence[Model], snapshot: Snapshot
    ) -> None:
        """A row that costs nothing, for a request that ended while it waited for another one's answer."""
        assert trace.chat is not None
        trace.cache = "hit"
        try:
            await self.admit(trace, trace.chat, models, snapshot)
        except ProxyError:
            trace.asked_ledger = False  # a limit would have refused it: refused requests have no row

    async def in_words(self, chat: InferenceRequest, models: Sequence[Model]) -> InferenceRequest:
        """The same; with its token ids as text too if one of its candidates reads only text."""
        if chat.endpoint != "embeddings" or not has_ids(chat):
            return chat
        if all(d.provider in TAKE_IDS for d in asking.candidates(models)):
            return chat
        return chat._replace(texts=await self._counter.texts(chat))

    async def extend(self, trace: RequestContext, deployment: Deployment) -> bool:
        """Before one more attempt: has the ledger hold what the earlier ones may have cost, beside its own bound.

        `False` where a budget has no room for that. Raises `ProxyError` accounting_unavailable.
        """
        await self._charge(trace)
        spent = sum([call.charge.cost_nanos or 0 for call in trace.calls if call.charge is not None])
        held = trace.admission.hold_nanos if trace.admission else 0
        attempts = tuple([call.attempt() for call in trace.calls])
        more = max(held + spent - trace.held_nanos, 0)
        wanted = Extension(trace.id, trace.scopes, more, deployment, attempts, price_of(deployment))
        if not wanted.nanos or not any(scope.limits.max_budget is not None for scope in trace.scopes):
            self._ledger.note(wanted)
            return True
        try:
            trace.held_nanos += await self._ledger.extend(wanted)
        except LimitExceededError:
            return False
        return True

    async def estimated(self, call: Call) -> Usage:
        """Usage that no upstream reported, counted once."""
        if call.counted is None:
            try:
                call.counted = await self._counter.usage(call.sent, call.text, call.deployment)
            except Exception:
                log.exception("tokens could not be counted; estimated from their size")
                call.counted = Usage(tokens.of_size(call.sent.size), tokens.estimate(call.text))
        return call.counted

    async def charge(self, trace: RequestContext) -> Charge | None:
        """Of the latest call; `None` while it lasts."""
        await self._charge(trace)
        return trace.calls[-1].charge

    async def cost_nanos(self, trace: RequestContext) -> int | None:
        """Of a request whose answer is in hand whole."""
        await self._charge(trace)
        return request_charge(trace, price_of).cost_nanos

    async def _charge(self, trace: RequestContext) -> None:
        """Every ended call has its charge afterwards, for good."""
        for call in uncharged(trace):
            if charging.must_count(call):
                await self.estimated(call)
            call.charge = charging.charge(call, price_of(call.deployment))

    def settle(self, trace: RequestContext) -> asyncio.Task[None] | None:
        """The end of a request, in the books and in the log: now, or as soon as its tokens are counted, by a task."""
        trace.ended = self._time.monotonic()
        trace.close_calls()
        if not any(charging.must_count(call) for call in uncharged(trace)):
            self._book(trace)
            return None
        task = asyncio.get_running_loop().create_task(self._count_and_book(trace))
        self._counting.add(task)
        task.add_done_callback(self._counting.discard)
        return task

    async def _count_and_book(self, trace: RequestContext) -> None:
        try:
            await self._charge(trace)
        finally:
            self._book(trace)

    def _book(self, trace: RequestContext) -> None:
        for call in uncharged(trace):
            call.charge = charging.charge(call, price_of(call.deployment))
        trace.close_calls()
        done = request_charge(trace, price_of)
        if trace.asked_ledger:
            self._ledger.settle(_tracked(settlement(trace, done), trace, done))
        self._lines.request(request_record(trace, done))
        self._metrics.finished(trace, done)
        if self._spans is not None:
            self._spans.finished(trace, done)

    async def close(self) -> None:
        """Waits for what is still being counted."""
        await asyncio.gather(*self._counting)


def _tracked(end: Settlement, trace: RequestContext, done: RequestCharge) -> Settlement:
    """With what is to be kept of it and told to others; the books never depend on that."""
    wanted = trace.tracking
    if not wanted.requests_content and wanted.promptlayer_key is None:
        return end
    try:
        return end._replace(
            content=content.stored_content(trace) if wanted.requests_content else None,
            record=promptlayer.record(trace, done, wanted) if wanted.promptlayer_key else None,
        )
    except Exception:
        log.exception("a request could not be tracked")
        return end
