"""What a request may ask for beyond its tokens that costs extra: the one table of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codellama_proxy.pricing import PLAIN_TIERS

FAST = "fast"
"""The service tier that stands for a vendor's fast mode."""


def asked_tier(params: Mapping[str, Any]) -> str:
    """The service tier that a request names; empty for none."""
    if params.get("speed") == FAST:
        return FAST
    tier = params.get("service_tier")
    return tier if isinstance(tier, str) and tier not in (PLAIN_TIERS - {"auto"}) else ""
