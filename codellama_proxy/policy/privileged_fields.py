"""Fields of a chat that clients may not set, because they could bypass the guardrail.

Such a field replaces the chat template, adds instructions or documents, truncates the beginning of the prompt, or
passes the prompt in another form. It is refused with 400, or dropped if the entry has `drop_params`; the entry's own
`params` may contain it. The rule is the same for every provider and also covers unknown fields, by their names.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.openai_format.fields import folded
from codellama_proxy.openai_format.parameters import CHAT_PARAMETERS
from codellama_proxy.openai_format.request import InferenceRequest

_PRIVILEGED = re.compile(
    r"template|guardrail|jinja"  # vLLM, SGLang, llama.cpp, Hugging Face, Together, Bedrock
    r"|^system|^instructions?$|^preamble|^pre_?prompt|tool_?prompt|^prompt(?!_?logprobs)"
    r"|raw_?prompt|^raw$|^nvext$"
    r"|^(?:add_?(?:generation_prompt|special_tokens)|continue_?final_message)$"
    r"|trunc|^transforms$|^context|^n_(?:keep|discard)$|^num_(?:ctx|keep)$|^options$"
    r"|^documents?$|^data_?sources?$|^connectors$|^plugins$|^cached_?content|^google$|^provider$"
    r"|^(?:input|prompt|token)_?(?:ids|embeds|embeddings)$"
    r"|logits?_?processors?|^lora|^adapter|^(?:id_slot|slot_id)$"
    r"|^(?:conversation|thread|agent|assistant)(?:_?id)?$|^previous_response",
)


_PARAMETERS = frozenset(CHAT_PARAMETERS)


def privileged(names: Collection[str]) -> tuple[str, ...]:
    """The names that only the configuration may set for a chat, sorted."""
    if _PARAMETERS.issuperset(names):
        return ()
    return tuple(
        sorted([name for name in names if name not in _PARAMETERS and _PRIVILEGED.search(folded(name))])
    )


def refused_from(chat: InferenceRequest, deployment: Deployment) -> tuple[str, ...]:
    """The client's fields that are dropped for this deployment. Raises `ProxyError` if it does not drop any."""
    found = privileged(chat.params) if chat.endpoint == "chat/completions" else ()
    if not found:
        return ()
    if not deployment.drop_params:
        message = (
            f"'{found[0][:64]}' is for the proxy's configuration alone. Remove it or set drop_params: true."
        )
        raise ProxyError("unsupported_parameter", message, param=found[0][:64])
    return tuple(name[:64] for name in found)


def without(chat: InferenceRequest) -> InferenceRequest:
    """The request without privileged fields."""
    found = privileged(chat.params) if chat.endpoint == "chat/completions" else ()
    if not found:
        return chat
    return chat._replace(params={name: value for name, value in chat.params.items() if name not in found})
