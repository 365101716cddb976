"""The mock's log probabilities, in the form of OpenAI's chats and completions.

Every token has the same probability; the alternatives are made up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codellama_proxy.providers.mock.reply import alternatives

LOGPROB = -0.01
ALTERNATIVE_LOGPROB = -6.0
"""Of the first alternative; each further one is less likely."""


def wanted(request: Mapping[str, Any]) -> bool:
    """Whether the answer has log probabilities: a boolean in chats, a number in completions."""
    given = request.get("logprobs")
    return given is True or (isinstance(given, int) and given is not False)


def logprobs(request: Mapping[str, Any], tokens: Sequence[str], offset: int = 0) -> dict[str, Any]:
    """Those of `tokens`, the first of which begins after `offset` characters of the text."""
    count = alternatives(request)
    if "messages" in request:
        return {"content": [_of_chat(token, count) for token in tokens], "refusal": None}
    offsets, top = [], []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
        top.append(dict(_top(token, count)))
    return {
        "tokens": list(tokens),
        "token_logprobs": [LOGPROB] * len(tokens),
        "top_logprobs": top if count else None,
        "text_offset": offsets,
    }


def _of_chat(token: str, count: int) -> dict[str, Any]:
    top = [_entry(text, value) for text, value in _top(token, count)]
    return {**_entry(token, LOGPROB), "top_logprobs": top}


def _entry(text: str, value: float) -> dict[str, Any]:
    return {"token": text, "logprob": value, "bytes": list(text.encode())}


def _top(token: str, count: int) -> list[tuple[str, float]]:
    """The `count` likeliest tokens: the one that was chosen, then alternatives."""
    others = [(f"{token}{number}", ALTERNATIVE_LOGPROB - number) for number in range(1, count)]
    return [(token, LOGPROB), *others][:count]
