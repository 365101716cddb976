"""The gateway's side of the ledger: admits requests before they start and books their cost when they end."""

from __future__ import annotations

import asyncio
import logging

from codellama_proxy.core.clock import Time
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.offload import off_loop
from codellama_proxy.core.snapshot import Deployment, Snapshot
from codellama_proxy.core.types import Charge, Usage
from codellama_proxy.gateway import admission_request as admissions
from codellama_proxy.gateway.progress import Progress
from codellama_proxy.gateway.settlement import settlement
from codellama_proxy.limits.admission import Extension, LimitExceededError, Settlement
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.pricing import charge as charging
from codellama_proxy.pricing.catalogue import price_of
from codellama_proxy.pricing.charge import Call
from codellama_proxy.providers.openai.embeddings import TAKE_IDS, has_ids
from codellama_proxy.request.charge import RequestCharge, request_charge, uncharged
from codellama_proxy.request.context import RequestContext
from codellama_proxy.routing.chain import Chain
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
    """Admits requests and settles each admitted one exactly once, however it ended."""

    def __init__(
        self,
        ledger: Ledger,
        counter: Counter,
        lines: Log,
        metrics: Metrics,
        time: Time,
        spans: Spans | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._ledger = ledger
        self._counter = counter
        self._lines = lines
        self._metrics = metrics
        self._spans = spans
        self._time = time
        self._progress = progress or Progress(time.monotonic)
        self._counting: set[asyncio.Task[None]] = set()

    @property
    def traced(self) -> bool:
        """Whether OpenTelemetry spans are exported."""
        return self._spans is not None

    async def admit(
        self, context: RequestContext, request: InferenceRequest, chain: Chain, snapshot: Snapshot
    ) -> Chain:
        """Write a held row; returns the chain that may be called: with a budget, what has a price.

        Called before anything is sent upstream. Raises `ProxyError`: a limit, model_not_priced or
        accounting_unavailable.
        """
        scopes, budgeted, counts_tokens = admissions.scopes_of(context, request, snapshot)
        context.budgeted = budgeted
        if budgeted:
            chain = chain.payable()
        # Prompt tokens are counted only if a token rate is limited; otherwise they are estimated from the size.
        if counts_tokens:
            estimate = await self._counter.prompt(request, chain.deployments[0])
        else:
            estimate = tokens.of_size(request.size)
        context.needs_settlement = True
        ask = await off_loop(
            request.size, admissions.admission_request, context, request, chain, snapshot, scopes, estimate
        )
        context.scopes = scopes
        admission = context.admission = await self._ledger.admit(ask)
        if not context.cached:
            context.bounds = admissions.bounds_of(ask, admission, budgeted=budgeted)
        context.held_nanos = admission.hold_nanos
        if self._progress.watched:
            self._progress.note(context.id)
        return chain

    async def admit_follower(self, context: RequestContext, chain: Chain, snapshot: Snapshot) -> None:
        """Write a row without cost for a request that ended while it waited for a shared call."""
        assert context.request is not None
        context.cache = "hit"
        try:
            await self.admit(context, context.request, chain, snapshot)
        except ProxyError:
            context.needs_settlement = False  # a limit would refuse it, and refused requests have no row

    async def with_text(self, request: InferenceRequest, chain: Chain) -> InferenceRequest:
        """The request; with its token IDs decoded to text as well if a candidate accepts only text."""
        if request.endpoint != "embeddings" or not has_ids(request):
            return request
        if all(d.provider in TAKE_IDS for d in chain.deployments):
            return request
        return request._replace(texts=await self._counter.texts(request))

    async def extend(self, context: RequestContext, deployment: Deployment) -> bool:
        """Before another attempt: hold what the earlier ones may have cost, in addition to its own bound.

        Returns `False` if a budget has no room for that. Raises `ProxyError` accounting_unavailable.
        """
        await self.charge(context)
        spent = sum([call.charge.cost_nanos or 0 for call in context.calls if call.charge is not None])
        held = context.admission.hold_nanos if context.admission else 0
        attempts = tuple([call.attempt() for call in context.calls])
        more = max(held + spent - context.held_nanos, 0)
        wanted = Extension(context.id, context.scopes, more, deployment, attempts, price_of(deployment))
        if not wanted.nanos or not any(scope.limits.max_budget is not None for scope in context.scopes):
            self._ledger.note(wanted)
            return True
        try:
            context.held_nanos += await self._ledger.extend(wanted)
        except LimitExceededError:
            return False
        return True

    async def estimated(self, call: Call) -> Usage:
        """Our own count of the usage that no upstream reported; counted once per call."""
        if call.counted is None:
            try:
                call.counted = await self._counter.usage(call.sent, call.text, call.deployment)
            except Exception:
                log.exception("tokens could not be counted; estimated from their size")
                call.counted = Usage(tokens.of_size(call.sent.size), tokens.estimate(call.text))
        return call.counted

    async def charge(self, context: RequestContext) -> Charge | None:
        """Sets the charge of every ended call, which never changes afterwards.

        Returns that of the latest call; `None` while it is in progress.
        """
        for call in uncharged(context):
            if charging.must_count(call):
                await self.estimated(call)
            call.charge = charging.charge(call, price_of(call.deployment))
        return context.calls[-1].charge if context.calls else None

    def settle(self, context: RequestContext) -> asyncio.Task[None] | None:
        """Book and log the end of a request.

        Done before returning if no tokens need counting; otherwise by the returned task.
        """
        context.ended = self._time.monotonic()
        context.leave_calls()
        if not any(map(charging.must_count, uncharged(context))):
            self._book(context)
            return None
        task = asyncio.get_running_loop().create_task(self._count_and_book(context))
        self._counting.add(task)
        task.add_done_callback(self._counting.discard)
        return task

    async def _count_and_book(self, context: RequestContext) -> None:
        try:
            await self.charge(context)
        finally:
            self._book(context)

    def _book(self, context: RequestContext) -> None:
        for call in uncharged(context):
            call.charge = charging.charge(call, price_of(call.deployment))
        context.record_calls()
        done = request_charge(context, price_of)
        end = settlement(context, done)
        if context.needs_settlement:
            self._ledger.settle(_tracked(end, context, done))
            if self._progress.watched:
                self._progress.note(context.id)
        self._lines.request(request_record(context, done, end))
        self._metrics.finished(context, done)
        if self._spans is not None:
            self._spans.finished(context, done)

    async def close(self) -> None:
        """Waits for requests whose tokens are still being counted."""
        await asyncio.gather(*self._counting)


def _tracked(end: Settlement, context: RequestContext, done: RequestCharge) -> Settlement:
    """The settlement with stored content and the tracking record; an error there never prevents booking."""
    wanted = context.tracking
    if not wanted.requests_content and wanted.promptlayer_key is None:
        return end
    try:
        return end._replace(
            content=content.stored_content(context) if wanted.requests_content else None,
            record=promptlayer.record(context, done, wanted) if wanted.promptlayer_key else None,
        )
    except Exception:
        log.exception("a request could not be tracked")
        return end
