"""Build the immutable snapshot that requests read from the validated file, with defaults filled in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from codellama_proxy.config import model_schema, schema
from codellama_proxy.config.secret_values import secrets_of_entry
from codellama_proxy.config.validate.availability import unsupported
from codellama_proxy.config.yaml.document import Document
from codellama_proxy.core import snapshot as t
from codellama_proxy.limits.rates import overlay
from codellama_proxy.pricing.catalogue import usual_cache_write
from codellama_proxy.providers.registry import relays_of
from codellama_proxy.routing.sticky import identity_of

BUILT_IN_MOCK = "mock"


def freeze(value: Any) -> Any:
    """An immutable copy of a JSON value."""
    if isinstance(value, Mapping):
        return MappingProxyType({name: freeze(content) for name, content in value.items()})
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    return value


def snapshot(
    file: schema.File, deployments: Sequence[t.Deployment], *, digest: str, warnings: tuple[str, ...] = ()
) -> t.Snapshot:
    """`deployments`: the entries of `file.models`, and those added to them."""
    scopes = _scopes(file.limits)
    return t.Snapshot(
        digest=digest,
        models=_models(deployments, _explicit_fallbacks(file.models)),
        disabled=tuple(d for d in deployments if d.disabled is not None),
        guardrail=t.Guardrail(file.guardrail.system_prompt or None, file.guardrail.client_system),
        routing=_routing(file.routing),
        limits=MappingProxyType(scopes),
        projects=MappingProxyType({n: _project(n, p, scopes["project"]) for n, p in file.projects.items()}),
        cache=_cache(file.cache),
        tracking=_tracking(file.tracking),
        server=t.Server(**dict(file.server)),
        egress=t.Egress(file.egress.proxy or None, file.egress.ca_bundle),
        aliases=MappingProxyType(dict(file.aliases)),
        auth_required=file.auth.required,
        metrics_public=file.metrics.public,
        ui=t.Ui(**dict(file.ui)),
        warnings=warnings,
    )


def deployment(
    entry: model_schema.Entry,
    number: int,
    general: schema.Timeouts,
    disabled: str | None,
    egress: schema.Egress | None = None,
) -> t.Deployment:
    """`number` counts from 1 among the entries that share a name."""
    egress = egress or schema.Egress()
    proxy = egress.proxy if entry.proxy is None else entry.proxy
    one = t.Deployment(
        id=f"{entry.name}#{number}",
        name=entry.name,
        provider=entry.provider,
        model=entry.model or entry.name,
        base_url=entry.base_url,
        api_key=entry.api_key,
        price=_price(entry.price, entry.provider),
        context_window=entry.context_window,
        max_output_tokens=entry.max_output_tokens,
        output_limit=entry.max_output_tokens if "max_output_tokens" in entry.model_fields_set else None,
        weight=entry.weight,
        timeouts=_timeouts(entry.timeouts, general),
        params=freeze(entry.params),
        headers=freeze(entry.headers),
        system_prompt=_prompt(entry.system_prompt),
        drop_params=entry.drop_params,
        mode=entry.mode,
        also=frozenset({"completion"}) if entry.completions else frozenset(),
        mock=t.Mock(**dict(entry.mock or model_schema.Mock())) if entry.provider == "mock" else None,
        base_model=entry.base_model,
        extra=_extra(entry),
        fallback=entry.fallback,
        cache_prompts=entry.cache_prompts,
        proxy=proxy or None,
        ca_bundle=egress.ca_bundle,
        disabled=disabled,
    )
    return replace(one, relays=relays_of(one))


def deployments(file: schema.File, document: Document, implemented: frozenset[str]) -> list[t.Deployment]:
    """The entries of `models:` in file order, each with the reason if it is disabled."""
    numbers: Counter[str] = Counter()
    alike: Counter[str] = Counter()
    made = []
    for index, entry in enumerate(file.models):
        numbers[entry.name] += 1
        disabled = unsupported(entry, implemented) or document.missing.get(("models", index, "api_key"))
        one = deployment(entry, numbers[entry.name], file.timeouts, disabled, file.egress)
        identity = identity_of(one)
        alike[identity] += 1
        secrets = secrets_of_entry(document, index)
        made.append(replace(one, secrets=secrets, identity=f"{identity}#{alike[identity]}"))
    return made


def as_if_complete(
    file: schema.File, entries: Iterable[model_schema.Entry], implemented: frozenset[str]
) -> t.Snapshot:
    """The snapshot as if every API key were set."""
    numbers: Counter[str] = Counter()
    made = []
    for entry in entries:
        numbers[entry.name] += 1
        made.append(deployment(entry, numbers[entry.name], file.timeouts, unsupported(entry, implemented)))
    return snapshot(file, made, digest="")


def built_in_mock(others: Iterable[t.Deployment], file: schema.File) -> t.Deployment:
    """A deployment that answers when no other can."""
    entry = model_schema.Entry(name=BUILT_IN_MOCK, provider="mock", fallback=False)
    number = 1 + sum(one.name == BUILT_IN_MOCK for one in others)
    return deployment(entry, number, file.timeouts, None)


def _price(price: model_schema.Price | None, provider: str) -> t.Price | None:
    if price is None:
        return None
    written = usual_cache_write(provider, price.input) if price.cache_write is None else price.cache_write
    base = t.Tariff(price.input, price.output or 0, price.cached_input, written, price.cache_write_1h)
    above = ((price.above.tokens, _rates(price.above, base)),) if price.above else ()
    return t.Price(
        **{name: getattr(base, name) for name in _CLASSES},
        above=above,
        service_tiers=tuple((name, _rates(tier, base)) for name, tier in price.service_tiers.items()),
        server_tools=tuple((name, usd * _KILO) for name, usd in price.server_tools.items()),
    )


_CLASSES = ("input", "output", "cached_input", "cache_write", "cache_write_1h")
_KILO = 1000
"""The file has prices of server tools per thousand calls."""


def _rates(tier: model_schema.TierPrice, base: t.Tariff) -> t.Tariff:
    """A tier's rates. Input and output default to the base's; other missing rates scale with input."""
    paid_in = base.input if tier.input is None else tier.input

    def grown(own: int | None, usual: int | None) -> int | None:
        if own is not None or usual is None or not base.input:
            return usual if own is None else own
        return -(-usual * paid_in // base.input)

    return t.Tariff(
        paid_in,
        base.output if tier.output is None else tier.output,
        grown(tier.cached_input, base.cached_input),
        grown(tier.cache_write, base.cache_write),
        grown(tier.cache_write_1h, base.cache_write_1h),
    )


def _timeouts(own: model_schema.OwnTimeouts, general: schema.Timeouts) -> t.Timeouts:
    return t.Timeouts(**{**dict(general), **{name: value for name, value in own if value is not None}})


def _prompt(written: str | bool | None) -> Any:
    return written if isinstance(written, str) or written is None else False


def _extra(entry: model_schema.Entry) -> t.Json:
    own = {
        "deployment": entry.deployment,
        "api_version": entry.api_version,
        "input_map": entry.input_map,
        "prompt_format": entry.prompt_format,
    }
    return MappingProxyType({key: freeze(value) for key, value in own.items() if value is not None})


def _explicit_fallbacks(entries: Iterable[model_schema.Entry]) -> dict[str, tuple[str, ...]]:
    return {entry.name: entry.fallbacks for entry in entries if entry.fallbacks is not None}


def _models(
    deployments: Sequence[t.Deployment], explicit: Mapping[str, tuple[str, ...]]
) -> Mapping[str, t.Model]:
    enabled = [d for d in deployments if d.disabled is None]
    names = dict.fromkeys(d.name for d in enabled)
    models: dict[str, t.Model] = {}
    for name in names:
        wanted = explicit.get(name)
        if wanted is None:
            wanted = tuple(_below(name, deployments))
        fallbacks = tuple(dict.fromkeys(other for other in wanted if other in names))
        models[name] = t.Model(name, tuple(d for d in enabled if d.name == name), fallbacks)
    return MappingProxyType(models)


def _below(name: str, deployments: Sequence[t.Deployment]) -> Iterable[str]:
    """The models with an enabled entry under this model's first that may be a backup for its mode."""
    first = next(place for place, d in enumerate(deployments) if d.name == name)
    for other in deployments[first + 1 :]:
        able = other.fallback and other.disabled is None and other.serves(deployments[first].mode)
        if able and other.name != name:
            yield other.name


def _routing(routing: schema.Routing) -> t.Routing:
    return t.Routing(
        max_attempts=routing.max_attempts,
        retries=routing.retries,
        deadline=routing.deadline,
        backoff_initial=routing.backoff.initial,
        backoff_max=routing.backoff.max,
        max_retry_after=routing.max_retry_after,
        fallback_on=frozenset(routing.fallback_on),
        cooldown=t.Cooldown(**dict(routing.cooldown)),
        unknown_model=routing.unknown_model,
        sticky=routing.sticky,
    )


def _scopes(scopes: schema.Scopes) -> dict[t.ScopeKind, t.Limits]:
    return {
        "global": _limits(scopes.everything),
        "project": _limits(scopes.project),
        "key": _limits(scopes.key),
        "user": _limits(scopes.user),
    }


def _limits(limits: schema.Limits) -> t.Limits:
    return t.Limits(**dict(limits), given=frozenset(limits.model_fields_set))


def _project(name: str, project: schema.Project, base: t.Limits) -> t.Project:
    return t.Project(
        name,
        limits=overlay(base, _limits(project.limits)),
        own_limits=_limits(project.limits),
        models=project.models,
        guardrail=_prompt(project.guardrail),
        cache=project.cache,
        endpoints=_endpoints(project),
    )


def _endpoints(project: schema.Project) -> frozenset[str] | None:
    if project.endpoints is None and project.completions:
        return None
    listed = frozenset(schema.ENDPOINTS if project.endpoints is None else project.endpoints)
    return listed if project.completions else listed - {"completions"}


def _cache(cache: schema.Cache) -> t.Cache:
    semantic = cache.semantic.model_dump(exclude_none=True) if cache.semantic else None
    return t.Cache(cache.enabled, cache.ttl, cache.max_entries, cache.scope, freeze(semantic))


def _tracking(tracking: schema.Tracking) -> t.Tracking:
    return t.Tracking(
        promptlayer_key=tracking.promptlayer.api_key,
        promptlayer_content=tracking.promptlayer.content,
        promptlayer_tags=tracking.promptlayer.tags,
        requests_content=tracking.requests.content,
        requests_retention=tracking.requests.retention,
    )
