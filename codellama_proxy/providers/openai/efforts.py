"""The reasoning efforts that models accept in OpenAI's format, as data; corrections belong here.

Only for efforts that a client did not mean for this model: those of other dialects, which clients send to every model.
"""

from __future__ import annotations

import re

from codellama_proxy.core.snapshot import Deployment

ORDER = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_THREE = ("low", "medium", "high")

# The first pattern found in the name decides (platform.openai.com/docs/guides/reasoning).
FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"gpt-oss", _THREE),
    (r"gpt-5(?:\.\d+)?-chat", ()),
    (r"o[1-9](?![\w.])(?!-(?:mini|preview)-?\d*$)|o[34]-mini", _THREE),
    (r"gpt-5(?![\d.])", ("minimal", *_THREE)),
    (r"gpt-5\.1(?!\d)", ("none", *_THREE)),
    (r"gpt-5\.\d", ("none", *_THREE, "xhigh")),
    (r"gpt-6-(?:sol|luna)|gpt-6\.1-terra", ("none", *_THREE, "xhigh", "max")),
    (r"gpt-[6-9]", (*_THREE, "xhigh", "max")),
    (r"gemini-(?:2\.5|[3-9])", _THREE),
    (r"grok-3-mini", ("low", "high")),
)
EVERY_MODEL = {"openrouter": ("minimal", *_THREE, "xhigh")}
"""Providers that ignore the effort where a model has none."""


def nearest_effort(effort: str, deployment: Deployment) -> str | None:
    """The nearest effort that the model is known to accept, the lower one of two; `None` if it accepts none."""
    known = _known(deployment)
    if effort in known:
        return effort
    if effort not in ORDER or effort == "none":
        return None
    levels = [word for word in known if word != "none"]
    below = [word for word in levels if ORDER.index(word) < ORDER.index(effort)]
    return below[-1] if below else next(iter(levels), None)


def _known(deployment: Deployment) -> tuple[str, ...]:
    if deployment.provider in EVERY_MODEL:
        return EVERY_MODEL[deployment.provider]
    name = deployment.base_model or deployment.model
    for pattern, efforts in FAMILIES:
        if re.search(rf"(?:^|[./:-])(?:{pattern})", name, re.IGNORECASE):
            return efforts
    return ()
