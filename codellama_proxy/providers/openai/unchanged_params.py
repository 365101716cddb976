"""Which parameters of chats a deployment gets as the client sent them. Most requests have no others."""

from __future__ import annotations

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.openai_format.parameters import CHAT_PARAMETERS
from codellama_proxy.providers.common.parameters import NEED_FUNCTIONS, NEED_TOOLS
from codellama_proxy.providers.openai.capabilities import may_refuse, renames_max_tokens
from codellama_proxy.providers.openai.profiles import OpenAIProfile

IDENTIFIERS = ("user", "safety_identifier", "prompt_cache_key")


def unchanged_params(deployment: Deployment, dialect: OpenAIProfile) -> frozenset[str]:
    """The names of parameters that `request.to_request` sends as they are, whatever their values."""
    changed = {*NEED_TOOLS, *NEED_FUNCTIONS, *dialect.reject, *dialect.dropped, *dialect.rename}
    if dialect.short_ids:
        changed |= set(IDENTIFIERS)
    if dialect.sampling_above_zero:
        changed |= {"temperature", "top_p"}
    if dialect.stop_list:
        changed.add("stop")
    if dialect.integer_logprobs:
        changed |= {"logprobs", "top_logprobs"}
    if dialect.max_tokens == "by_model":
        changed |= may_refuse(deployment)
    changed.add(replaced_max_tokens(deployment, dialect))
    return frozenset(CHAT_PARAMETERS) - changed


def replaced_max_tokens(deployment: Deployment, dialect: OpenAIProfile) -> str:
    """The name of the bound on tokens that the deployment does not know; empty if it knows both."""
    if dialect.max_tokens == "by_model":
        return "max_tokens" if renames_max_tokens(deployment) else ""
    return "max_completion_tokens" if dialect.max_tokens == "max_tokens" else ""
