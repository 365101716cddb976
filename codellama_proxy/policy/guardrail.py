"""The guardrail: its text, its position, and the request as one deployment receives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codellama_proxy.core.snapshot import Deployment, Guardrail, Project
from codellama_proxy.openai_format.fields import invalid_value
from codellama_proxy.openai_format.parameters import CHAT_ONLY, MAX_TOKENS_FIELDS
from codellama_proxy.openai_format.request import SYSTEM_ROLES, InferenceRequest, Message, Native
from codellama_proxy.openai_format.texts import Texts
from codellama_proxy.policy import privileged_fields as privileged


def check_client_system(messages: Sequence[Message], policy: str) -> None:
    """Raises `ProxyError` invalid_value for a system message of the client if `policy` is `reject`."""
    if policy != "reject":
        return
    for index, message in enumerate(messages):
        if message["role"] in SYSTEM_ROLES:
            at = f"messages[{index}].role"
            raise invalid_value(at, "System messages are set by this proxy and not accepted from clients.")


def apply_guardrail(messages: Sequence[Message], text: str, policy: str) -> Sequence[Message]:
    """The guardrail `text` as the first system message, then the client's; `policy` may drop system ones."""
    if policy == "drop":
        kept = [message for message in messages if message["role"] not in SYSTEM_ROLES]
        messages = Texts(kept) if type(messages) is Texts else kept
    if not text:
        return messages
    first = {"role": "system", "content": text}
    return Texts([first, *messages]) if type(messages) is Texts else [first, *messages]


def request_for(
    chat: InferenceRequest,
    deployment: Deployment,
    text: str,
    policy: str,
    max_tokens: int | None,
    native: Native | None = None,
) -> InferenceRequest:
    """The request as this deployment receives it: with guardrail, the entry's `params` and the bound `max_tokens`.

    `native`: the same in the client's dialect, if that is relayed. The client's privileged fields are left out.
    """
    chat = privileged.without(chat)
    if chat.endpoint != "chat/completions":
        params: Mapping[str, Any] = {**_not_for_chats(deployment.params), **chat.params}
        messages: Sequence[Message] = ()
    else:
        params = with_entry_params(chat.params, deployment)
        messages = apply_guardrail(chat.messages, text, policy)
    bound = chat.max_tokens if max_tokens is None else max_tokens
    if bound is not None and (max_tokens is not None or deployment.params):
        # Otherwise `params` has the client's bound. Remove both spellings, so that only one is sent.
        params = dict(params)
        for name in MAX_TOKENS_FIELDS:
            params.pop(name, None)
        params[chat.max_tokens_field] = bound
    return chat.with_content(messages, params, native)


def with_entry_params(params: Mapping[str, Any], deployment: Deployment) -> Mapping[str, Any]:
    """A chat's parameters, with the entry's parameters as defaults."""
    return {**deployment.params, **params} if deployment.params else params


def _not_for_chats(params: Mapping[str, Any]) -> dict[str, Any]:
    """An entry's parameters without those that only chats support."""
    return {name: value for name, value in params.items() if name not in CHAT_ONLY}


def guardrail_text(guardrail: Guardrail, project: Project, deployment: Deployment) -> str:
    """The guardrail text: the project's, else the model entry's, else the global one; empty for none."""
    for own in (project.guardrail, deployment.system_prompt):
        if own is not None:
            return own or ""
    return guardrail.system_prompt or ""
