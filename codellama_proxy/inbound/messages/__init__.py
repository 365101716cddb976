"""Anthropic's Messages API at the door, the mirror of `providers.anthropic`. Pure."""

from __future__ import annotations

from codellama_proxy.inbound.dialect import Dialect
from codellama_proxy.inbound.messages.answer import MessagesEncoder
from codellama_proxy.inbound.messages.errors import PING, error_body, header_lines
from codellama_proxy.inbound.messages.request import parse

MESSAGES = Dialect("messages", parse, MessagesEncoder, error_body, PING, header_lines)

__all__ = ["MESSAGES"]
