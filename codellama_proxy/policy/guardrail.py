"""The guardrail: which text comes first, for whom, and the request as one deployment gets it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codellama_proxy.core.snapshot import Deployment, Guardrail, Project
from codellama_proxy.openai_format.fields import invalid_value
from codellama_proxy.openai_format.parameters import CHAT_ONLY, MAX_TOKENS_FIELDS
from codellama_proxy.openai_format.request import SYSTEM_ROLES, InferenceRequest, Message
from codellama_proxy.policy import privileged_fields as privileged


def check_client_system(messages: Sequence[Message], policy: str) -> None:
    """Refuses system messages of the client when the configuration says so."""
    if policy != "reject":
        return
    for index, message in enumerate(messages):
        if message["role"] in SYSTEM_ROLES:
            at = f"messages[{index}].role"
            raise invalid_value(at, "System messages are set by this proxy and not accepted from clients.")


def apply_guardrail(messages: Sequence[Message], text: str, policy: str) -> list[Message]:
    """The messages as every upstream gets them: the guardrail first, then the client's as `policy` has it."""
    if policy == "drop":
        messages = [message for message in messages if message["role"] not in SYSTEM_ROLES]
    first = [{"role": "system", "content": text}] if text else []
    return [*first, *messages]


def request_for(
    chat: InferenceRequest, deployment: Deployment, text: str, policy: str, max_tokens: int | None
) -> InferenceRequest:
    """The request as this deployment gets it: guarded, with the entry's `params` and the ledger's bound.

    What only the configuration may set is left out of the client's parameters.
    """
    chat = privileged.without(chat)
    if chat.endpoint != "chat/completions":
        params: Mapping[str, Any] = {**_not_for_chats(deployment.params), **chat.params}
        messages: Sequence[Message] = ()
    else:
        params = with_entry_params(chat.params, deployment)
        messages = apply_guardrail(chat.messages, text, policy)
    bound = chat.max_tokens if max_tokens is None else max_tokens
    if bound is not None:
        # The field has two names: neither may say something else.
        params = {name: value for name, value in params.items() if name not in MAX_TOKENS_FIELDS}
        params[chat.max_tokens_field] = bound
    return chat._replace(messages=messages, params=params)


def with_entry_params(params: Mapping[str, Any], deployment: Deployment) -> Mapping[str, Any]:
    """A chat's parameters over the entry's own."""
    return {**deployment.params, **params} if deployment.params else params


def _not_for_chats(params: Mapping[str, Any]) -> dict[str, Any]:
    """Of an entry's parameters, those that mean something where nobody chats."""
    return {name: value for name, value in params.items() if name not in CHAT_ONLY}


def guardrail_text(guardrail: Guardrail, project: Project, deployment: Deployment) -> str:
    """The text that comes first. The project has the last word, then the model entry; empty for none."""
    for own in (project.guardrail, deployment.system_prompt):
        if own is not None:
            return own or ""
    return guardrail.system_prompt or ""
