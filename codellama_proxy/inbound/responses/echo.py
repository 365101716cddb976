"""The fields of an answer that repeat the request, or OpenAI's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

DEFAULTS: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "user": None,
}
LARGE = ("instructions", "tools")
FIXED: Mapping[str, Any] = {
    "background": False,
    "previous_response_id": None,
    "store": False,
    "truncation": "disabled",
}
"""What this proxy does, whatever was asked for."""


def echo_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, each a JSON value; large ones are serialised once, for all events that repeat them."""
    echo = dict(_OF_DEFAULTS)
    for name, given in body.items():
        if given is not None and name in DEFAULTS:
            echo[name] = orjson.Fragment(orjson.dumps(given)) if name in LARGE else given
    if "reasoning" in body:
        echo["reasoning"] = _reasoning(body["reasoning"])
    if "text" in body:
        echo["text"] = _text(body["text"])
    return echo


def _reasoning(given: Any) -> dict[str, Any]:
    known = given if isinstance(given, dict) else {}
    return {"effort": known.get("effort"), "summary": known.get("summary")}


def _text(given: Any) -> dict[str, Any]:
    known = given if isinstance(given, dict) else {}
    return {**known, "format": known.get("format") or {"type": "text"}}


_OF_DEFAULTS: Mapping[str, Any] = {**DEFAULTS, **FIXED, "reasoning": _reasoning(None), "text": _text(None)}
"""The echo of a request without options."""
