"""The metrics for Prometheus: names, help texts, buckets, and bounds on the number of series.

Names are public (docs/tracking.md). Labels hold project and model names, so each label has a bounded number of
values; further ones are counted as `other`. Everything here runs on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from codellama_proxy.core.money import NANOS
from codellama_proxy.limits.admission import LimitExceededError
from codellama_proxy.limits.rates import Refusal
from codellama_proxy.request.charge import RequestCharge
from codellama_proxy.request.context import RequestContext
from codellama_proxy.tracking.recent import RecentCounts

disable_created_metrics()  # type: ignore[no-untyped-call]  # `_created` samples would double the series

OTHER = "other"
NONE = "none"
"""The model of requests that were refused before a model was found."""
MAX_VALUES: Mapping[str, int] = {"project": 500, "model": 200, "deployment": 400}
MAX_SERIES = 10_000

# Seconds. Responses take from half a second to minutes; first tokens differ by tenths of a second.
REQUEST_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 180, 300)
FIRST_TOKEN_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 30)
OVERHEAD_BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)

_REQUESTS = "Requests by status: ok, error or cancelled."
_ATTEMPTS = "Upstream calls by result: ok, or a failure class."
_CAPPED = "Responses whose upstream reported more usage than is possible."
_LIMITED = "Refusals by limits, and those that shadow limits would have made."
_SIGN_INS = "Sign-ins to the dashboard by result: ok, or the code of the refusal."
_HTTP = "HTTP requests of every route, served or refused."
_SECONDS = "Seconds from the request's arrival to the end of its response."
_OVERHEAD = "Seconds of that not spent waiting for upstreams."
_UNTIL_FIRST = "Seconds until the first content of a stream."


class BoundedCounter:
    """A counter that gives its totals to the library at a scrape: the library takes locks for every increment.

    `seen` holds the values that each bounded label has had so far, in any counter.
    """

    def __init__(self, counter: Counter, labels: Sequence[str], seen: Mapping[str, set[str]]) -> None:
        self._counter = counter
        self._bounds = tuple((seen.get(label), MAX_VALUES.get(label, 0)) for label in labels)
        self._since_scrape: dict[tuple[str, ...], float] = {}
        """By label values, one entry for each series that there has been."""

    def add(self, values: tuple[str, ...], amount: float = 1) -> None:
        """`values` are those of the labels, in their order."""
        counts = self._since_scrape
        if values not in counts:
            values = self._bounded(values)
            counts.setdefault(values, 0)
        counts[values] += amount

    def flush(self) -> None:
        """Adds what was counted since the last scrape to the library's counter."""
        for values, amount in self._since_scrape.items():
            self._counter.labels(*values).inc(amount)
            self._since_scrape[values] = 0

    def _bounded(self, values: tuple[str, ...]) -> tuple[str, ...]:
        """The values, with `other` for those that would exceed a bound."""
        full = len(self._since_scrape) >= MAX_SERIES
        bounds = zip(values, self._bounds, strict=True)
        return tuple(_bounded(value, seen, limit, full=full) for value, (seen, limit) in bounds)


def _bounded(value: str, seen: set[str] | None, limit: int, *, full: bool) -> str:
    """`seen` is `None` for a label that only ever has few values."""
    if seen is None:
        return value
    if full or (value not in seen and len(seen) >= limit):
        return OTHER
    seen.add(value)
    return value


class Metrics:
    """Counts finished requests. `model_of` returns the model that a requested name stands for, `None` for no model."""

    def __init__(self, model_of: Callable[[str], str | None]) -> None:
        self._model_of = model_of
        self._registry = CollectorRegistry()
        seen: Mapping[str, set[str]] = {label: set() for label in MAX_VALUES}

        self._counters: list[BoundedCounter] = []
        self.recent_refusals = RecentCounts()
        """By scope and kind, as `proxy_limited`."""

        def counter(name: str, help_text: str, *labels: str) -> BoundedCounter:
            counted = BoundedCounter(Counter(name, help_text, labels, registry=self._registry), labels, seen)
            self._counters.append(counted)
            return counted

        def histogram(name: str, help_text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, help_text, buckets=buckets, registry=self._registry)

        self._requests = counter("proxy_requests", _REQUESTS, "project", "model", "status")
        self._tokens = counter("proxy_tokens", "Tokens of prompts and completions.", "model", "direction")
        self._cost = counter("proxy_cost_usd", "Cost of responses in USD.", "project", "model")
        self._unpriced = counter("proxy_unpriced_requests", "Requests of unknown cost.", "model")
        self._capped = counter("proxy_usage_capped", _CAPPED, "model")
        self._attempts = counter("proxy_attempts", _ATTEMPTS, "deployment", "class")
        self._http = counter("proxy_http_requests", _HTTP, "route", "method", "status")
        self._cache = counter("proxy_cache", "Requests by cache result.", "result")
        self._sign_ins = counter("proxy_ui_sign_ins", _SIGN_INS, "result")
        self._limited = counter("proxy_limited", _LIMITED, "scope", "kind")
        self._seconds = histogram("proxy_request_seconds", _SECONDS, REQUEST_BUCKETS)
        self._overhead = histogram("proxy_overhead_seconds", _OVERHEAD, OVERHEAD_BUCKETS)
        self._first_token = histogram("proxy_time_to_first_token_seconds", _UNTIL_FIRST, FIRST_TOKEN_BUCKETS)

    def sign_in(self, result: str) -> None:
        """Count a sign-in to the dashboard: `ok`, or the code of its refusal."""
        self._sign_ins.add((result,))

    def http(self, route: str, method: str, status: int) -> None:
        """Count one HTTP request. Each of the labels has few values."""
        self._http.add((route, method, str(status)))

    def finished(self, context: RequestContext, charge: RequestCharge) -> None:
        """Count one request that has ended."""
        model = self._model(context)
        self._requests.add((context.settings.name, model, context.status))
        seconds = context.ended - context.started
        self._seconds.observe(seconds)
        self._overhead.observe(max(seconds - context.waited, 0.0))
        if context.first_at is not None and context.request is not None and context.request.stream:
            self._first_token.observe(context.first_at - context.started)
        self._cache.add((context.cache,))
        for attempt in context.attempts:
            self._attempts.add((attempt.deployment, attempt.failure.cls if attempt.failure else "ok"))
        if context.attempts or context.serving is not None:
            self._used(context.settings.name, model, charge)
        self._refusals(context)

    def _model(self, context: RequestContext) -> str:
        if context.serving is not None:
            return context.serving.name
        if context.attempts:
            return context.attempts[-1].deployment.rpartition("#")[0]
        asked = context.request.model if context.request else None
        return NONE if asked is None else self._model_of(asked) or NONE

    def _used(self, project: str, model: str, charge: RequestCharge) -> None:
        if charge.usage.prompt_tokens:
            self._tokens.add((model, "prompt"), charge.usage.prompt_tokens)
        if charge.usage.completion_tokens:
            self._tokens.add((model, "completion"), charge.usage.completion_tokens)
        if charge.capped:
            self._capped.add((model,))
        if charge.cost_nanos is None:
            self._unpriced.add((model,))
        else:
            self._cost.add((project, model), charge.cost_nanos / NANOS)

    def _refusals(self, context: RequestContext) -> None:
        refusals: tuple[Refusal, ...] = context.admission.shadowed if context.admission else ()
        if isinstance(context.error, LimitExceededError):
            refusals += (context.error.refusal,)
        for refusal in refusals:
            self._limited.add((refusal.scope, refusal.kind))
            self.recent_refusals.add((refusal.scope, refusal.kind), context.ended)

    def register(self, read: Callable[[], Iterable[Metric]]) -> None:
        """Include what `read` returns in every scrape: values that other modules count."""
        self._registry.register(_Callback(read))

    def page(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that the `Accept` header asks for, and the content type."""
        for counter in self._counters:
            counter.flush()
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _Callback(Collector):
    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()


def cooldown(cooling: Mapping[str, bool]) -> Metric:
    """`cooling` maps the id of every deployment to whether it is in cooldown."""
    family = GaugeMetricFamily(
        "proxy_cooldown", "1 while the deployment is in cooldown.", labels=["deployment"]
    )
    for deployment, is_cooling in cooling.items():
        family.add_metric([deployment], float(is_cooling))
    return family


def reloads(applied: int, rejected: int, loaded_at: float) -> Iterator[Metric]:
    """Counts of applied and of rejected changes of proxy.yaml; `loaded_at` is in Unix seconds."""
    family = CounterMetricFamily(
        "proxy_config_reload", "Changes of proxy.yaml: ok if applied, error if rejected.", labels=["result"]
    )
    family.add_metric(["ok"], applied)
    family.add_metric(["error"], rejected)
    yield family
    yield GaugeMetricFamily(
        "proxy_config_loaded_timestamp_seconds", "When the configuration was loaded.", value=loaded_at
    )


def dropped(records: int) -> Metric:
    """The number of PromptLayer records that were dropped."""
    return CounterMetricFamily("proxy_tracking_dropped", "Tracking records that were dropped.", value=records)


def lines_dropped(lines: int) -> Metric:
    """The number of log lines that were dropped because stdout was not read in time."""
    return CounterMetricFamily("proxy_log_lines_dropped", "Log lines that were dropped.", value=lines)


def cache_troubles(kinds: Mapping[str, int]) -> Metric:
    """Failures of the response cache by kind; each is a cache miss."""
    family = CounterMetricFamily("proxy_cache_troubles", "Failures of the response cache.", labels=["kind"])
    for kind, count in kinds.items():
        family.add_metric([kind], count)
    return family
