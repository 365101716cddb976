"""Parameters on their way into a dialect whose rules depend on the model and on each other.

Where a table of rules is enough, `policy` is it. What is refused here is 400 as there, or dropped and reported
where the entry has `drop_params`. Parameters OpenAI does not know are refused from clients and passed on as
they are when the entry itself sets them.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.common.parameter_rules import is_own, meaningful, unsupported


@dataclass(frozen=True, slots=True)
class ParameterSet:
    """The parameters of one request, on their way into a dialect."""

    provider: str
    lenient: bool
    """The entry's `drop_params`."""
    params: Mapping[str, Any]
    dropped: frozenset[str] = frozenset()
    """What was taken away though it would have mattered."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """The entry's own parameters in the provider's words."""

    def without(self, *names: str) -> ParameterSet:
        return replace(self, params={name: v for name, v in self.params.items() if name not in names})

    def given(self, **values: Any) -> ParameterSet:
        return replace(self, params={**self.params, **values})

    def drop(self, name: str) -> ParameterSet:
        """Takes it away and tells."""
        return replace(self.without(name), dropped=self.dropped | {name})

    def refuse(self, name: str, *, unless: object = None) -> ParameterSet:
        """Without it. Raises `ProxyError` unsupported_parameter if it is there, unless it says only `unless`."""
        if self.params.get(name) in (None, unless):
            return self.without(name)
        if self.lenient:
            return self.drop(name)
        raise unsupported(self.provider, name)


def parameter_set(
    chat: InferenceRequest,
    deployment: Deployment,
    taken: Set[str],
    dropped: Set[str],
    reported: Set[str] = frozenset(),
) -> ParameterSet:
    """What is left of the request's parameters for a dialect that has rules for `taken`."""
    extras = {
        name: value
        for name, value in chat.params.items()
        if name not in taken and is_own(name, value, deployment.params)
    }
    params = {name: value for name, value in meaningful(chat.params).items() if name not in extras}
    asked = ParameterSet(deployment.provider, deployment.drop_params, params, extras=extras)
    for name in sorted(params.keys() - taken - dropped):
        asked = asked.drop(name) if name in reported else asked.refuse(name)
    return asked.without(*dropped)
