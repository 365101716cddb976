"""What one upstream call costs: observed while it lasts, worked out once when it has ended.

A `Call` collects what its upstream reported and said. `charge` turns that into a `Charge`, which never changes
afterwards; a request costs the `total` of its charges. Rules, the first that fits:

1. a whole answer costs what was reported of it, else what we count;
2. usage that came with a failure itself is the upstream's last word;
3. text that came before an end of any other kind is counted, and never at less than what was reported so far;
4. a refusal, and what was never sent, costs nothing;
5. what was sent and not answered costs its prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from codellama_proxy.core.snapshot import Deployment, Price
from codellama_proxy.core.types import Attempt, Basis, Charge, Event, Failure, Usage
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.openai_format.usage import merged
from codellama_proxy.pricing import cost as pricing
from codellama_proxy.pricing.extras import asked_tier, with_asked_calls
from codellama_proxy.pricing.plausible_usage import Bounds, Window, believed, bounded_count

CERTAINTY: Sequence[Basis] = ("exact", "estimated", "ambiguous", "crash_estimate")
"""From the most certain to the least."""
MAX_TOKEN_CHARACTERS = 16
"""On average; of usual text it is about four."""
MAX_COUNTED_CHARACTERS = 4 << 20
"""More than the longest answer that is booked."""
FEW_TOKENS = 16
"""So many tokens may be missing from a report on a short answer."""
UNKNOWN_BOUNDS = Bounds()
LEFT = Failure("client_left", reason="client_left")
LEFT_MIDWAY = Failure("client_left", 200, reason="client_left")
"""The answer had begun."""


@dataclass(slots=True)
class Call:
    """One upstream call. Times are monotonic seconds."""

    deployment: Deployment
    sent: InferenceRequest
    """The request as it was addressed: what a count of the prompt counts."""
    started: float
    at: float = 0.0
    """Milliseconds since the request's start."""
    ended: float | None = None
    failure: Failure | None = None
    bounds: Bounds = UNKNOWN_BOUNDS
    """What it can use at most."""
    usage: Usage | None = None
    """Its upstream's reports, the latest first."""
    told_at: int = 0
    """How many pieces of `said` had come by the latest report."""
    doubtful: bool = False
    """Its reports contradict each other, or what was said."""
    last_word: bool = False
    """The latest report came with the failure itself."""
    said: list[str] = field(default_factory=list)
    characters: int = 0
    """Of all that was said."""
    whole: bool = False
    """The whole answer came."""
    counted: Usage | None = None
    """Our own count."""
    charge: Charge | None = None

    def note(self, events: Sequence[Event]) -> None:
        """Takes down what the events say about usage and content."""
        for event in events:
            if event.text:
                room = max(MAX_COUNTED_CHARACTERS - self.characters, 0)
                self.said.append(event.text if len(event.text) <= room else event.text[:room])
                self.characters += len(event.text)
            if event.usage is not None:
                self._report(event.usage)

    def _report(self, usage: Usage) -> None:
        earlier, self.usage = self.usage, merged(self.usage, usage)
        if earlier is not None and usage.completion_tokens:
            # One that does not grow with what is said is no running total: the parts of one, perhaps.
            grows = usage.completion_tokens > earlier.completion_tokens or not said_more(self)
            self.doubtful |= not grows or usage.completion_tokens < earlier.completion_tokens
        if earlier is not None and 0 < usage.prompt_tokens < earlier.prompt_tokens:
            self.doubtful = True
        if usage.completion_tokens or earlier is None:
            self.told_at = len(self.said)

    def failed(self, failure: Failure) -> None:
        """Record the failure and the usage that it reports."""
        self.failure = failure
        if failure.usage is not None:
            self._report(failure.usage)
            self.last_word = True

    def end(self, now: float) -> None:
        """The first end counts."""
        if self.ended is None:
            self.ended = now

    def leave(self, now: float, failure: Failure = LEFT_MIDWAY) -> None:
        """It is given up, unless it has ended."""
        if self.ended is None:
            self.failure = failure
            self.end(now)

    @property
    def text(self) -> str:
        return "".join(self.said)

    @property
    def free(self) -> bool:
        """Whether nothing was generated: refused, or never sent."""
        received = self.whole or self.said or self.usage is not None
        return not received and self.failure is not None and (self.failure.refused or not self.failure.sent)

    def attempt(self) -> Attempt:
        """The record of it, as far as it is known."""
        ms = 0.0 if self.ended is None else (self.ended - self.started) * 1000
        return Attempt(self.deployment.id, self.failure, ms, self.started, self.at, self.charge)


def must_count(call: Call) -> bool:
    """Whether its charge needs a count of tokens that has not been made."""
    if call.counted is not None or call.free:
        return False
    return lacking(call) or not (call.whole or call.last_word)


def lacking(call: Call) -> bool:
    """Whether a class of the usage is to be counted: the upstream did not report it, or said more after its report."""
    usage = call.usage
    if usage is None:
        return True
    if not usage.prompt_tokens or (not usage.completion_tokens and bool(call.said)):
        return True
    return call.doubtful or said_more(call) or too_few(call, usage)


def too_few(call: Call, usage: Usage) -> bool:
    """Whether no tokenizer makes so few tokens of what was said."""
    return call.characters > MAX_TOKEN_CHARACTERS * (usage.completion_tokens + FEW_TOKENS)


def said_more(call: Call) -> bool:
    """Whether something was said after the latest report on usage."""
    return len(call.said) > call.told_at


def charge(call: Call, price: Price | None) -> Charge:
    """Of an ended call, counted where `must_count` says so."""
    window = _window(call.deployment, price)
    counted = bounded_count(call.counted or Usage(), call.bounds, window)
    if call.usage is not None:
        ended = call.whole or call.last_word
        unsure = call.doubtful or too_few(call, call.usage)
        more = said_more(call) or not ended or unsure
        found = believed(call.usage, counted, call.bounds, window, said_more=more)
        sure = ended and not found.counted and not found.capped and not unsure
        basis: Basis = "exact" if sure else "estimated"
        return Charge(found.usage, basis, priced(call, found.usage, price), found.capped)
    if call.whole or call.said:
        return Charge(counted, "estimated", priced(call, counted, price))
    if call.free:
        return Charge()
    sent = Usage(counted.prompt_tokens)
    return Charge(sent, "ambiguous", priced(call, sent, price))


def priced(call: Call, usage: Usage, price: Price | None) -> int | None:
    """Nano-USD; `None` where the price is unknown and something was used."""
    if price is not None:
        charged = with_asked_calls(usage, call.sent) if usage != Usage() else usage
        return pricing.cost(charged, price, asked_tier(call.sent.params))
    return None if usage.prompt_tokens or usage.completion_tokens or usage.tool_calls else 0


def _window(deployment: Deployment, price: Price | None) -> Window:
    longest = price.above[-1][0] if price is not None and price.above else 0
    return Window(deployment.context_window, longest)


def total(charges: Iterable[Charge]) -> Charge:
    """Their sum, on the least certain basis among them; unknown if the cost of any is unknown."""
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
