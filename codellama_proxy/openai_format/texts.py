"""Conversations that have only texts, recognised when a request is parsed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TEXT_ROLES = ("user", "assistant", "system")


class Texts(list[Mapping[str, Any]]):
    """Messages that have only a role of `TEXT_ROLES` and a text, as most do: providers of chats take them as they are.

    Code that changes or adds a message makes another list.
    """

    __slots__ = ()


def texts_of(messages: Any) -> Texts | None:
    """The messages, if they are a list with nothing but `Texts`."""
    if type(messages) is not list:
        return None
    for message in messages:
        if type(message) is not dict or len(message) != 2 or type(message.get("content")) is not str:
            return None
        if message.get("role") not in TEXT_ROLES:
            return None
    return Texts(messages)
