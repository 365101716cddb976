"""Which deployments may serve a request, and in which order: pure functions.

A request's *chain* is the asked model's deployments, then those of its fallbacks in file order; deployments that are
cooling come last. Within a name they have the order of the request's conversation (`sticky`), else a weighted random
one. `retries` decides where in the chain the next attempt goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment, Model, Snapshot
from codellama_proxy.routing import sticky
from codellama_proxy.routing.cooldown import Cooling, is_cooling
from codellama_proxy.routing.sticky import Conversation

Jitter = Callable[[], float]
"""A random number in [0, 1)."""
MAX_ADVISED_MODELS = 3
"""Names of models in one message."""
WILDCARDS = frozenset("*?[")
NO_MODEL = "There is no model for this endpoint, or you do not have access to one."


def model_name(snapshot: Snapshot, name: str) -> str:
    """The name of the model that `name` stands for: its own, that of its alias, or `name` if there is none.

    A model's own name comes first, also that of a disabled one.
    """
    if name in snapshot.models or not snapshot.aliases or any(d.name == name for d in snapshot.disabled):
        return name
    found = (model for alias, model in snapshot.aliases.items() if fnmatchcase(name, alias))
    return next(found, name)


def known_model(snapshot: Snapshot, name: str) -> str | None:
    """The enabled model that `name` stands for, `None` for no model."""
    model = model_name(snapshot, name)
    return model if model in snapshot.models else None


def exact_aliases(snapshot: Snapshot) -> dict[str, str]:
    """The aliases without wildcards, and the names of their models."""
    exact = [alias for alias in snapshot.aliases if not set(alias) & WILDCARDS]
    return {alias: model_name(snapshot, alias) for alias in exact}


def requested_model(
    snapshot: Snapshot, name: str | None, mode: str, permitted: Callable[[str], bool]
) -> Model:
    """The model that serves `name`, a model or an alias, or the default one.

    Raises `ProxyError` model_not_found, with one message for names that are unknown, disabled or not permitted. Its
    `detail` is the reason.
    """
    known = None
    if name is not None:
        known = snapshot.models.get(name) or snapshot.models.get(model_name(snapshot, name))
    if known is not None and mode in known.modes and permitted(known.name):
        return known
    if name is None or (snapshot.routing.unknown_model == "default" and known is None):
        start = starting_model(m for m in snapshot.models.values() if mode in m.modes and permitted(m.name))
        if start is not None:
            return start
    if known is not None and mode not in known.modes and permitted(known.name):
        able = [m.name for m in snapshot.models.values() if mode in m.modes and permitted(m.name)]
        message = f"The model '{(name or '')[:200]}' does not serve {mode} requests. {_advice(able, mode)}"
    elif name is not None:
        message = f"The model '{name[:200]}' does not exist or you do not have access to it."
    else:
        message = NO_MODEL
    error = ProxyError("model_not_found", message, param="model")
    if name is not None:
        error.detail = _why_not_found(snapshot, name, mode)
    raise error


def _advice(able: Sequence[str], mode: str) -> str:
    """Names some of the models that serve a mode."""
    if not able:
        return f"No model does, for this key: an entry needs mode: {mode}."
    return f"Use {' or '.join(able[:MAX_ADVISED_MODELS])}."


def _why_not_found(snapshot: Snapshot, name: str, mode: str) -> str:
    """The reason for the log; it does not contain the name, which is the client's text."""
    found = model_name(snapshot, name)
    known = snapshot.models.get(name) or snapshot.models.get(found)
    if known is not None:
        return "not permitted" if mode in known.modes else f"does not serve {mode} requests"
    reasons = dict.fromkeys(d.disabled for d in snapshot.disabled if d.name == found and d.disabled)
    return f"disabled: {'; '.join(reasons)}" if reasons else "not in proxy.yaml"


def starting_model(usable: Iterable[Model]) -> Model | None:
    """The model of a request that names none: the first one; a stand-in mock only if there is no other."""
    stand_in = None
    for model in usable:
        if not _stands_in(model):
            return model
        stand_in = stand_in or model
    return stand_in


def serving(model: Model, mode: str) -> Model:
    """The model with only the deployments that serve `mode`."""
    found = tuple([d for d in model.deployments if d.serves(mode)])
    return model if len(found) == len(model.deployments) else replace(model, deployments=found)


def _stands_in(model: Model) -> bool:
    return all(d.provider == "mock" and not d.fallback for d in model.deployments)


def models_of_chain(
    snapshot: Snapshot,
    first: Model,
    permitted: Callable[[str], bool],
    cooling: Mapping[str, Cooling],
    now: float,
    mode: str = "chat",
) -> list[Model]:
    """The asked model and its fallbacks, in order, without those not permitted or not serving `mode`.

    Ends once `max_attempts` deployments are ready: no request can get further.
    """
    chain: list[Model] = []
    ready = 0
    for name in (first.name, *first.fallbacks):
        model = snapshot.models.get(name)
        if model is None or model in chain or not permitted(name):
            continue
        model = serving(model, mode)
        if not model.deployments:
            continue
        chain.append(model)
        ready += len([d for d in model.deployments if not is_cooling(cooling.get(d.id), now)])
        if ready >= snapshot.routing.max_attempts:
            break
    return chain


def weighted(deployments: Sequence[Deployment], jitter: Jitter) -> list[Deployment]:
    """A random order in which each deployment comes first in proportion to its weight."""
    if len(deployments) == 1:
        return list(deployments)
    # Efraimidis and Spirakis (2006): the largest of u**(1/w) is deployment d with probability w_d / sum(w).
    keyed = [(jitter() ** (1 / d.weight) if d.weight > 0 else -1.0, d) for d in deployments]
    return [d for _, d in sorted(keyed, key=lambda pair: pair[0], reverse=True)]


def candidates(
    models: Sequence[Model],
    cooling: Mapping[str, Cooling],
    now: float,
    jitter: Jitter,
    conversation: Conversation | None = None,
) -> list[Deployment]:
    """Every deployment of the chain; cooling ones last, soonest ready first.

    `conversation` decides the order within a name; without one it is a weighted random draw.
    """
    if len(models) == 1 and len(models[0].deployments) == 1:
        return list(models[0].deployments)
    if conversation is None:
        in_order = [d for model in models for d in weighted(model.deployments, jitter)]
    else:
        in_order = [d for model in models for d in sticky.ranked(model.deployments, conversation)]
    if not cooling:
        return in_order
    ready = [d for d in in_order if not is_cooling(cooling.get(d.id), now)]
    waiting = [d for d in in_order if is_cooling(cooling.get(d.id), now)]
    return ready + sorted(waiting, key=lambda d: cooling[d.id].until)
