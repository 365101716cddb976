"""The metrics for Prometheus: names, help texts, buckets, and bounds on the number of series.

Names are public (docs/tracking.md). Labels hold project and model names, so each label has a bounded number of
values; further ones are counted as `other`. Everything here runs on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from codellama_proxy.core.money import NANOS
from codellama_proxy.limits.admission import LimitExceededError
from codellama_proxy.limits.rates import Refusal
from codellama_proxy.request.charge import RequestCharge
from codellama_proxy.request.context import RequestContext
from codellama_proxy.tracking.recent import RecentCounts
from codellama_proxy.tracking.unlocked_metrics import (
    MAX_VALUES,
    BoundedCounter,
    UnlockedHistogram,
)

disable_created_metrics()  # type: ignore[no-untyped-call]  # `_created` samples would double the series

NONE = "none"
"""The model of requests that were refused before a model was found."""
MAX_GROUPS = 1_000
"""Groups of requests whose sums are kept; with more they are added to the counters."""

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


class Sums:
    """What requests of the same project, model, status and cache result have used together."""

    __slots__ = (
        "capped",
        "completion_tokens",
        "cost_nanos",
        "priced",
        "prompt_tokens",
        "requests",
        "unpriced",
    )

    def __init__(self) -> None:
        self.requests = self.prompt_tokens = self.completion_tokens = 0
        self.priced = self.unpriced = self.cost_nanos = self.capped = 0

    def add(self, charge: RequestCharge) -> None:
        """Add what one request has used."""
        usage, _, cost, _, capped = charge
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        self.capped += capped
        if cost is None:
            self.unpriced += 1
        else:
            self.priced += 1
            self.cost_nanos += cost


class Metrics:
    """Counts finished requests. `model_of` returns the model that a requested name stands for, `None` for no model."""

    def __init__(self, model_of: Callable[[str], str | None]) -> None:
        self._model_of = model_of
        self._registry = CollectorRegistry()
        seen: Mapping[str, set[str]] = {label: set() for label in MAX_VALUES}

        self._counters: list[BoundedCounter] = []
        self.recent_refusals = RecentCounts()
        """By scope and kind, as `proxy_limited`."""
        self._sums: dict[tuple[str, str, str, str], Sums] = {}
        """Since the last scrape, by project, model, status and cache result."""

        def counter(name: str, help_text: str, *labels: str) -> BoundedCounter:
            counted = BoundedCounter(Counter(name, help_text, labels, registry=self._registry), labels, seen)
            self._counters.append(counted)
            return counted

        def histogram(name: str, help_text: str, buckets: Sequence[float]) -> UnlockedHistogram:
            made = UnlockedHistogram(name, help_text, buckets)
            self._registry.register(made)
            return made

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
        group = (context.settings.name, self._model(context), context.status, context.cache)
        sums = self._sums.get(group)
        if sums is None:
            sums = self._new_sums(group)
        sums.requests += 1
        seconds = context.ended - context.started
        own = seconds - context.waited
        self._seconds.observe(seconds)
        self._overhead.observe(max(0.0, own))
        if context.first_at is not None and context.request is not None and context.request.stream:
            self._first_token.observe(context.first_at - context.started)
        attempts = context.attempts
        for deployment, failure, *_ in attempts:
            self._attempts.add((deployment, failure.cls if failure else "ok"))
        if attempts or context.serving is not None:
            sums.add(charge)
        admission = context.admission
        if context.error is not None or (admission is not None and admission.shadowed):
            self._refusals(context)

    def _new_sums(self, group: tuple[str, str, str, str]) -> Sums:
        if len(self._sums) >= MAX_GROUPS:
            self._flush()
        self._sums[group] = sums = Sums()
        return sums

    def _model(self, context: RequestContext) -> str:
        if context.serving is not None:
            return context.serving.name
        if context.attempts:
            return context.attempts[-1].deployment.rpartition("#")[0]
        asked = context.request.model if context.request else None
        return NONE if asked is None else self._model_of(asked) or NONE

    def _flush(self) -> None:
        """Adds the sums to the counters, and those to the library's."""
        for (project, model, status, cache), sums in self._sums.items():
            self._requests.add((project, model, status), sums.requests)
            self._cache.add((cache,), sums.requests)
            if sums.prompt_tokens:
                self._tokens.add((model, "prompt"), sums.prompt_tokens)
            if sums.completion_tokens:
                self._tokens.add((model, "completion"), sums.completion_tokens)
            if sums.capped:
                self._capped.add((model,), sums.capped)
            if sums.unpriced:
                self._unpriced.add((model,), sums.unpriced)
            if sums.priced:
                self._cost.add((project, model), sums.cost_nanos / NANOS)
        self._sums.clear()
        for counter in self._counters:
            counter.flush()

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
        self._flush()
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


def installation(configurations: Mapping[str, int], late_settlements: int) -> Iterator[Metric]:
    """The number of processes by the digest of their configuration, and of requests that ended here too late."""
    family = GaugeMetricFamily(
        "proxy_workers", "Processes of the installation by configuration.", labels=["config"]
    )
    for digest, count in configurations.items():
        family.add_metric([digest], count)
    yield family
    yield CounterMetricFamily(
        "proxy_late_settlements",
        "Requests that another process had settled before they ended.",
        value=late_settlements,
    )


def cache_troubles(kinds: Mapping[str, int]) -> Metric:
    """Failures of the response cache by kind; each is a cache miss."""
    family = CounterMetricFamily("proxy_cache_troubles", "Failures of the response cache.", labels=["kind"])
    for kind, count in kinds.items():
        family.add_metric([kind], count)
    return family
