"""Translates a request's parameters to a provider's.

`translate` applies a table of rules. A rule is the parameter's name there, or a function from its value to the fields
it becomes; one that raises `UnsupportedError` rejects the value. A parameter without a rule that is not ignorable is
refused with 400, or left out and reported if the entry sets `drop_params`.

`ParameterSet` is for dialects whose rules depend on the model and on each other, with the same outcomes. Parameters
that OpenAI does not have are refused from clients and sent as they are if the entry itself sets them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment, Json
from codellama_proxy.openai_format.fields import invalid_value
from codellama_proxy.openai_format.parameters import CHAT_PARAMETERS, IGNORABLE, NEUTRAL_DEFAULTS
from codellama_proxy.openai_format.request import CACHE_MARKS, InferenceRequest

Rule = str | Callable[[Any], Json]


def unsupported(provider: str, name: str) -> ProxyError:
    message = f"Provider '{provider}' does not support '{name}'. Remove it or set drop_params: true."
    return ProxyError("unsupported_parameter", message, param=name)


class UnsupportedError(Exception):
    """Raised by a rule for a value that the provider has no equivalent of."""


class Policy(NamedTuple):
    rules: Mapping[str, Rule]
    drop: frozenset[str] = IGNORABLE | {"user"}
    """Dropped silently: it cannot change the answer."""
    extras: Callable[[str], bool] = lambda _name: False
    """Whether clients may use a parameter that OpenAI does not know; it is sent as it is."""


def translate(
    params: Json, policy: Policy, deployment: Deployment, soft: Set[str] = frozenset()
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The provider's parameters, and the names of those left out. Raises `ProxyError` unsupported_parameter.

    `soft` ones are left out rather than refused.
    """
    sent: dict[str, Any] = {}
    dropped: list[str] = []
    for name, value in meaningful(params).items():
        if name in policy.drop or (name in CACHE_MARKS and name not in policy.rules):
            continue
        try:
            sent |= _translated(policy, name, value, own=deployment.params)
        except UnsupportedError:
            if not deployment.drop_params and name not in soft:
                raise unsupported(deployment.provider, name) from None
            dropped.append(name)
    return sent, tuple(sorted(dropped))


def _translated(policy: Policy, name: str, value: Any, own: Json) -> Json:
    rule = policy.rules.get(name)
    if rule is None:
        # Parameters that OpenAI does not have: the entry may set any, clients only harmless ones.
        if name in CHAT_PARAMETERS or not (policy.extras(name) or is_own(name, value, own)):
            raise UnsupportedError
        rule = name
    return {rule: value} if isinstance(rule, str) else rule(value)


def is_own(name: str, value: Any, own: Json) -> bool:
    """Whether a parameter that OpenAI does not have comes from the entry's own parameters."""
    return name not in CHAT_PARAMETERS and name in own and own[name] == value


def meaningful(params: Json) -> dict[str, Any]:
    """The parameters without neutral defaults, which many clients send and no provider should refuse."""
    params = with_tools_only(params)
    idle = {name for name, value in params.items() if value is None or value == NEUTRAL_DEFAULTS.get(name)}
    if not params.get("logprobs"):
        idle |= {"top_logprobs"}
    return {name: value for name, value in params.items() if name not in idle}


def one_of(*values: str) -> Callable[[Any], str]:
    """A rule that accepts only the given values."""

    def check(value: Any) -> str:
        if value not in values:
            raise UnsupportedError
        return str(value)

    return check


# --- rules in code -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ParameterSet:
    """The parameters of one request that remain to be translated."""

    provider: str
    lenient: bool
    """The entry's `drop_params`."""
    params: Mapping[str, Any]
    dropped: frozenset[str] = frozenset()
    """Parameters that were removed although they could change the answer."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """The entry's own parameters in the provider's words."""
    soft: Set[str] = frozenset()
    """Parameters that are left out rather than refused."""

    def without(self, *names: str) -> ParameterSet:
        return replace(self, params={name: v for name, v in self.params.items() if name not in names})

    def given(self, **values: Any) -> ParameterSet:
        return replace(self, params={**self.params, **values})

    def drop(self, name: str) -> ParameterSet:
        """Removes and reports it."""
        return replace(self.without(name), dropped=self.dropped | {name})

    def refuse(self, name: str, *, unless: object = None) -> ParameterSet:
        """The set without a parameter. Raises `ProxyError` unsupported_parameter if it is set, except to `unless`."""
        if self.params.get(name) in (None, unless):
            return self.without(name)
        if self.lenient or name in self.soft:
            return self.drop(name)
        raise unsupported(self.provider, name)


def parameter_set(
    chat: InferenceRequest,
    deployment: Deployment,
    taken: Set[str],
    dropped: Set[str],
    reported: Set[str] = frozenset(),
) -> ParameterSet:
    """The request's parameters that are `taken`.

    `dropped` ones are removed silently, `reported` ones are removed and reported, others are refused.
    """
    extras = {
        name: value
        for name, value in chat.params.items()
        if name not in taken and is_own(name, value, deployment.params)
    }
    params = {name: value for name, value in meaningful(chat.params).items() if name not in extras}
    asked = ParameterSet(deployment.provider, deployment.drop_params, params, extras=extras, soft=chat.soft)
    for name in sorted(params.keys() - taken - dropped):
        asked = asked.drop(name) if name in reported else asked.refuse(name)
    return asked.without(*dropped)


# --- tools ---------------------------------------------------------------------------------------------------

NEED_TOOLS = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
NEED_FUNCTIONS = frozenset({"functions", "function_call"})


def with_tools_only(params: Json) -> dict[str, Any]:
    """Without empty lists of tools and without choices among none: many providers refuse both."""
    idle = frozenset[str]() if params.get("tools") else NEED_TOOLS
    idle |= frozenset() if params.get("functions") else NEED_FUNCTIONS
    if idle.isdisjoint(params):
        return dict(params)
    return {name: value for name, value in params.items() if name not in idle}


def narrow_tool_choice(params: Json) -> dict[str, Any]:
    """A choice of certain tools as fewer tools and a plain `tool_choice`, which most providers support."""
    params = with_tools_only(params)
    choice = params.get("tool_choice")
    match choice:
        case {"type": "function", "function": {"name": str(name)}}:
            return _only(params, {name}, "required")
        case {"type": "allowed_tools", "allowed_tools": {"tools": [*allowed]} as chosen}:
            names = {name_of(tool) for tool in allowed}
            return _only(params, names, chosen.get("mode", "auto"))
    return params


def _only(params: Json, names: set[str], choice: Any) -> dict[str, Any]:
    tools = [tool for tool in params.get("tools", ()) if name_of(tool) in names]
    if not tools:
        raise invalid_value("tool_choice", "'tool_choice' names no tool that is in 'tools'.")
    return {**params, "tools": tools, "tool_choice": choice}


def name_of(tool: Any) -> str:
    """The name of a function tool; nothing else has one."""
    match tool:
        case {"function": {"name": str(name)}}:
            return name
    return ""


def functions(tools: Sequence[Json]) -> list[dict[str, Any]]:
    """The functions of function tools, each with its parameters spelled out. `UnsupportedError` for other kinds."""
    found = [tool.get("function") for tool in tools if tool.get("type", "function") == "function"]
    if len(found) < len(tools) or not all(isinstance(one, Mapping) for one in found):
        raise UnsupportedError
    return [{"parameters": {"type": "object", "properties": {}}, **one} for one in found if one is not None]
