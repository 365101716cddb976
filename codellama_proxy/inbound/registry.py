"""Which dialect is spoken at which endpoint. Adding one is a package beside `openai` and a line here."""

from __future__ import annotations

from collections.abc import Mapping

from codellama_proxy.inbound.dialect import Dialect
from codellama_proxy.inbound.messages import MESSAGES
from codellama_proxy.inbound.openai import OPENAI_DIALECTS
from codellama_proxy.inbound.responses import RESPONSES

DIALECTS: Mapping[str, Dialect] = {
    dialect.endpoint: dialect for dialect in (*OPENAI_DIALECTS.values(), MESSAGES, RESPONSES)
}
"""By endpoint, which is its path without `/v1/`."""
