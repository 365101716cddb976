"""The cost of one upstream call: recorded during the call, computed once at its end.

A `Call` collects the usage and the text from its upstream. `charge` computes a `Charge`, which never changes
afterwards; a request costs the `total` of its charges. The first rule that applies:

1. a complete answer costs the reported usage, else our count;
2. usage reported together with a failure is final;
3. the text of any other incomplete answer is counted, but never below the usage reported so far;
4. a refused request, or one that was never sent, costs nothing;
5. a request that was sent and not answered costs its prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from codellama_proxy.core.snapshot import Deployment, Price
from codellama_proxy.core.types import Attempt, Basis, Charge, Event, Failure, Usage
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.openai_format.usage import merged
from codellama_proxy.pricing import cost as pricing
from codellama_proxy.pricing.extras import (
    PRICED_PARAMETERS,
    priced_fields,
    requested_tier,
    with_requested_calls,
)
from codellama_proxy.pricing.plausible_usage import Bounds, ContextWindow, believed, bounded_count, is_within

CERTAINTY: Sequence[Basis] = ("exact", "estimated", "ambiguous", "crash_estimate")
"""From the most certain to the least."""
MAX_TOKEN_CHARACTERS = 16
"""Upper bound of the average length of a token; about 4 in ordinary text."""
MAX_COUNTED_CHARACTERS = 4 << 20
"""Text beyond this is not kept for counting; longer than any booked answer."""
TOLERATED_TOKENS = 16
"""Tolerance for the completion tokens of short answers."""
UNKNOWN_BOUNDS = Bounds()
CANCELLED = Failure("client_left", reason="client_left")
CANCELLED_MIDWAY = Failure("client_left", 200, reason="client_left")
"""The client disconnected after the answer had begun."""


@dataclass(slots=True)
class Call:
    """One upstream call. Times are monotonic seconds."""

    deployment: Deployment
    sent: InferenceRequest
    """The request as it was sent, for counting prompt tokens."""
    started: float
    at: float = 0.0
    """Milliseconds from the start of the request to that of the call."""
    ended: float | None = None
    failure: Failure | None = None
    bounds: Bounds = UNKNOWN_BOUNDS
    """The maximum usage of the call."""
    usage: Usage | None = None
    """The usage that the upstream reported, merged from its reports."""
    reported_pieces: int = 0
    """Number of `pieces` received before the latest report of completion tokens."""
    inconsistent: bool = False
    """Whether its reports contradict each other or the text."""
    reported_with_failure: bool = False
    """Whether the latest report came with the failure."""
    pieces: list[str] = field(default_factory=list)
    """The generated text."""
    characters: int = 0
    """Length of the generated text, including text that was not kept."""
    whole: bool = False
    """Whether the complete answer was received."""
    counted: Usage | None = None
    """Our own count of the usage."""
    charge: Charge | None = None

    def note(self, events: Sequence[Event]) -> None:
        """Records the text and the usage in the events."""
        for event in events:
            if text := event.text:
                before, self.characters = self.characters, self.characters + len(text)
                if self.characters > MAX_COUNTED_CHARACTERS:
                    text = text[: max(MAX_COUNTED_CHARACTERS - before, 0)]
                self.pieces.append(text)
            if event.usage is not None:
                self._report(event.usage)

    def _report(self, usage: Usage) -> None:
        earlier, self.usage = self.usage, merged(self.usage, usage)
        if earlier is not None and usage.completion_tokens:
            # A report that does not grow with the text is not a running total; it may be a part of one.
            grows = usage.completion_tokens > earlier.completion_tokens or not has_unreported_text(self)
            self.inconsistent |= not grows or usage.completion_tokens < earlier.completion_tokens
        if earlier is not None and 0 < usage.prompt_tokens < earlier.prompt_tokens:
            self.inconsistent = True
        if usage.completion_tokens or earlier is None:
            self.reported_pieces = len(self.pieces)

    def failed(self, failure: Failure) -> None:
        """Record the failure and the usage that it reports."""
        self.failure = failure
        if failure.usage is not None:
            self._report(failure.usage)
            self.reported_with_failure = True

    def end(self, now: float) -> None:
        """Records the end; later calls are ignored."""
        if self.ended is None:
            self.ended = now

    def leave(self, now: float, failure: Failure = CANCELLED_MIDWAY) -> None:
        """Ends the call because it was abandoned; ignored if it has ended."""
        if self.ended is None:
            self.failure = failure
            self.end(now)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def free(self) -> bool:
        """Whether nothing was generated: refused, or never sent."""
        received = self.whole or self.pieces or self.usage is not None
        return not received and self.failure is not None and (self.failure.refused or not self.failure.sent)

    def attempt(self) -> Attempt:
        """The attempt record of the call, as far as it is known."""
        ms = 0.0 if self.ended is None else (self.ended - self.started) * 1000
        return Attempt(self.deployment.id, self.failure, ms, self.started, self.at, self.charge)


def must_count(call: Call) -> bool:
    """Whether the charge needs a token count that has not been made."""
    if call.counted is not None or (not call.whole and call.free):
        return False
    return lacking(call) or not (call.whole or call.reported_with_failure)


def lacking(call: Call) -> bool:
    """Whether some usage must be counted: it was not reported, or text arrived after the report."""
    usage = call.usage
    if usage is None:
        return True
    if not usage.prompt_tokens or (not usage.completion_tokens and bool(call.pieces)):
        return True
    if call.inconsistent or len(call.pieces) > call.reported_pieces:
        return True
    return too_few(call, usage)


def too_few(call: Call, usage: Usage) -> bool:
    """Whether the reported completion tokens are too few for the text with any tokenizer."""
    return call.characters > MAX_TOKEN_CHARACTERS * (usage.completion_tokens + TOLERATED_TOKENS)


def has_unreported_text(call: Call) -> bool:
    """Whether text arrived after the latest usage report."""
    return len(call.pieces) > call.reported_pieces


def charge(call: Call, price: Price | None) -> Charge:
    """The charge of an ended call; `call.counted` must be set if `must_count` is true."""
    usage, window = call.usage, call.deployment.context_window
    complete = call.whole and call.counted is None and not lacking(call)
    if usage is not None and complete and is_within(usage, call.bounds, window):  # nearly every call
        return _charged(call, usage, "exact", price)
    return general_charge(call, price)


def general_charge(call: Call, price: Price | None) -> Charge:
    """`charge`, whatever was reported and counted."""
    window = _window(call.deployment, price)
    counted = bounded_count(call.counted or Usage(), call.bounds, window)
    if call.usage is not None:
        ended = call.whole or call.reported_with_failure
        unsure = call.inconsistent or too_few(call, call.usage)
        more = has_unreported_text(call) or not ended or unsure
        found = believed(call.usage, counted, call.bounds, window, has_unreported_text=more)
        sure = ended and not found.counted and not found.capped and not unsure
        basis: Basis = "exact" if sure else "estimated"
        return _charged(call, found.usage, basis, price, capped=found.capped)
    if call.whole or call.pieces:
        return Charge(counted, "estimated", priced(call, counted, price))
    if call.free:
        return Charge()
    sent = Usage(counted.prompt_tokens)
    return Charge(sent, "ambiguous", priced(call, sent, price))


def _charged(call: Call, usage: Usage, basis: Basis, price: Price | None, *, capped: bool = False) -> Charge:
    """The charge for this usage. What costs extra and has no price makes it an estimate: the cost lacks it."""
    charged, tier = _priceable(call, usage)
    if basis == "exact" and price is not None and not pricing.covers(price, charged, tier):
        basis = "estimated"
    return Charge(usage, basis, _cost(charged, tier, price), capped)


def priced(call: Call, usage: Usage, price: Price | None) -> int | None:
    """Cost in nano-USD; `None` if the price is unknown and something was used."""
    return _cost(*_priceable(call, usage), price)


def _priceable(call: Call, usage: Usage) -> tuple[Usage, str]:
    """The usage with the calls of tools that are not reported, and the requested service tier."""
    if call.sent.native is None and PRICED_PARAMETERS.isdisjoint(call.sent.params):
        return usage, ""
    charged = with_requested_calls(usage, call.sent) if usage != Usage() else usage
    return charged, requested_tier(priced_fields(call.sent))


def _cost(charged: Usage, tier: str, price: Price | None) -> int | None:
    if price is not None:
        return pricing.cost(charged, price, tier)
    return None if charged.prompt_tokens or charged.completion_tokens or charged.tool_calls else 0


def _window(deployment: Deployment, price: Price | None) -> ContextWindow:
    longest = price.above[-1][0] if price is not None and price.above else 0
    return ContextWindow(deployment.context_window, longest)


def total(charges: Iterable[Charge]) -> Charge:
    """The sum of charges, with their least certain basis; cost `None` if any cost is unknown."""
    found = list(charges)
    if len(found) == 1:
        return found[0]
    costs = [one.cost_nanos for one in found]
    known = [cost for cost in costs if cost is not None]
    used = [one.usage for one in found]
    return Charge(
        Usage(
            sum(usage.prompt_tokens for usage in used),
            sum(usage.completion_tokens for usage in used),
            sum(usage.cached_tokens for usage in used),
            sum(usage.cache_write_tokens for usage in used),
            sum(usage.reasoning_tokens for usage in used),
            sum(usage.cache_write_1h_tokens for usage in used),
        ),
        max([one.basis for one in found], key=CERTAINTY.index, default="exact"),
        sum(known) if len(known) == len(costs) else None,
        any(one.capped for one in found),
    )
