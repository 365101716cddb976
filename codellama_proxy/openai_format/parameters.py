"""The parameters of OpenAI's API, one row each: every other module derives what it needs from these tables.

Types and ranges are those of platform.openai.com/docs/api-reference/{chat,completions,embeddings}; a range is given
only where it holds for every provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

MAX_INT = 2**31 - 1
MAX_TOKENS_FIELDS = ("max_tokens", "max_completion_tokens")

Kind = Literal[
    "boolean", "integer", "number", "string", "object", "array", "string or array", "string or object"
]


class Parameter(NamedTuple):
    """One field of a request body."""

    kind: Kind
    """Its JSON type."""
    range: tuple[float, float] | None = None
    """Smallest and largest value."""
    max_items: int | None = None
    """Of an array."""
    default: Any = None
    """The value that OpenAI documents as the default; `None` if there is none."""
    neutral: bool = False
    """Every provider behaves like `default` without it, so the default is never refused nor sent on."""
    bookkeeping: bool = False
    """No answer depends on it: not part of a cache key."""
    ignorable: bool = False
    """Dropped silently for providers that do not know it."""
    chat_only: bool = False
    """Completions and embeddings do not have it, or use the name for something else."""
    tracked: Literal["setting", "content"] | None = None
    """Recorded with tracked requests: always, or only where their content is."""
    span_attribute: str | None = None
    """Its name in OpenTelemetry's semantic conventions for generative AI."""


TYPES: Mapping[Kind, tuple[type, ...]] = {
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "object": (dict,),
    "array": (list,),
    "string or array": (str, list),
    "string or object": (str, dict),
}
"""The Python types of each kind. A boolean is an `int` in Python, but not an integer in JSON."""


class Parameters(dict[str, Parameter]):
    """The parameters of one endpoint, by name."""

    def __init__(self, rows: Mapping[str, Parameter]) -> None:
        super().__init__(rows)
        self.unbounded: Mapping[str, frozenset[type]] = {
            name: frozenset(TYPES[row.kind])
            for name, row in rows.items()
            if row.range is None and row.max_items is None
        }
        """Those that need only be of a type: their types, as JSON is parsed (a boolean is not an integer there)."""


_CHAT: Mapping[str, Parameter] = {
    "model": Parameter("string"),
    "messages": Parameter("array", max_items=20_000),
    "prompt": Parameter("string"),
    "stream": Parameter("boolean"),
    "stream_options": Parameter("object"),
    "temperature": Parameter(
        *("number", (0, 2)),
        default=1,
        tracked="setting",
        span_attribute="gen_ai.request.temperature",
    ),
    "top_p": Parameter(
        *("number", (0, 1)),
        default=1,
        tracked="setting",
        span_attribute="gen_ai.request.top_p",
    ),
    "max_tokens": Parameter("integer", (1, MAX_INT), tracked="setting"),
    "max_completion_tokens": Parameter("integer", (1, MAX_INT), tracked="setting"),
    "n": Parameter(
        *("integer", (1, 128)),
        default=1,
        neutral=True,
        tracked="setting",
        span_attribute="gen_ai.request.choice.count",
    ),
    "stop": Parameter("string or array", max_items=16, default=[], tracked="content"),
    "presence_penalty": Parameter(
        *("number", (-2, 2)),
        default=0,
        neutral=True,
        tracked="setting",
        span_attribute="gen_ai.request.presence_penalty",
    ),
    "frequency_penalty": Parameter(
        *("number", (-2, 2)),
        default=0,
        neutral=True,
        tracked="setting",
        span_attribute="gen_ai.request.frequency_penalty",
    ),
    "logit_bias": Parameter("object", default={}, neutral=True, tracked="content"),
    "logprobs": Parameter("boolean", default=False, neutral=True, chat_only=True, tracked="setting"),
    "top_logprobs": Parameter("integer", (0, 20), default=0, chat_only=True, tracked="setting"),
    "seed": Parameter(
        *("integer", (-(2**63), 2**63 - 1)), tracked="setting", span_attribute="gen_ai.request.seed"
    ),
    "tools": Parameter("array", max_items=1024, default=[], neutral=True, chat_only=True),
    "tool_choice": Parameter("string or object", default="auto", neutral=True, chat_only=True),
    "parallel_tool_calls": Parameter(
        "boolean", default=True, neutral=True, chat_only=True, tracked="setting"
    ),
    "functions": Parameter("array", max_items=1024, default=[], neutral=True, chat_only=True),
    "function_call": Parameter("string or object", default="auto", chat_only=True),
    "response_format": Parameter(
        "object", default={"type": "text"}, neutral=True, chat_only=True, tracked="content"
    ),
    "reasoning_effort": Parameter("string", chat_only=True, tracked="setting"),
    "verbosity": Parameter("string", chat_only=True, tracked="setting"),
    "modalities": Parameter("array", default=["text"], neutral=True, chat_only=True),
    "audio": Parameter("object", chat_only=True),
    "prediction": Parameter("object", chat_only=True, tracked="content"),
    "metadata": Parameter("object", ignorable=True),
    "store": Parameter("boolean", bookkeeping=True, ignorable=True),
    "service_tier": Parameter("string", default="auto", ignorable=True, tracked="setting"),
    "user": Parameter("string", bookkeeping=True),
    "safety_identifier": Parameter("string", bookkeeping=True, ignorable=True),
    "prompt_cache_key": Parameter("string", bookkeeping=True, ignorable=True),
    "prompt_cache_options": Parameter("object", bookkeeping=True, ignorable=True),
    "prompt_cache_retention": Parameter("string", bookkeeping=True, ignorable=True),
    "moderation": Parameter("object"),
    "web_search_options": Parameter("object", chat_only=True),
    "cache": Parameter("object"),
}

CHAT_PARAMETERS = Parameters(_CHAT)

# Prices, limits and logs read the parameters of chats at every endpoint, so they are checked at every endpoint.
COMPLETION_PARAMETERS = Parameters(
    {
        **CHAT_PARAMETERS,
        "prompt": Parameter("string or array"),
        "suffix": Parameter("string"),
        # 0 with `echo`: only the prompt's logprobs are wanted.
        "max_tokens": Parameter("integer", (0, MAX_INT)),
        "best_of": Parameter("integer", (1, 128), default=1, neutral=True),
        "echo": Parameter("boolean", default=False, neutral=True),
        "logprobs": Parameter("integer", (0, MAX_INT)),
    }
)

EMBEDDING_PARAMETERS = Parameters(
    {
        **CHAT_PARAMETERS,
        "input": Parameter("string or array"),
        "dimensions": Parameter("integer", (1, MAX_INT)),
        "encoding_format": Parameter("string"),
    }
)

_ALL: Mapping[str, Parameter] = {**EMBEDDING_PARAMETERS, **COMPLETION_PARAMETERS, **CHAT_PARAMETERS}

CHAT_ONLY = frozenset(name for name, row in _ALL.items() if row.chat_only)
BOOKKEEPING = frozenset(name for name, row in _ALL.items() if row.bookkeeping)
IGNORABLE = frozenset(name for name, row in _ALL.items() if row.ignorable)
DEFAULTS: Mapping[str, Any] = {name: row.default for name, row in _ALL.items() if row.default is not None}
NEUTRAL_DEFAULTS: Mapping[str, Any] = {name: row.default for name, row in _ALL.items() if row.neutral}
TRACKED_SETTINGS = tuple(name for name, row in _ALL.items() if row.tracked == "setting")
TRACKED_CONTENT = tuple(name for name, row in _ALL.items() if row.tracked == "content")
SPAN_ATTRIBUTES: Mapping[str, str] = {
    name: row.span_attribute for name, row in _ALL.items() if row.span_attribute is not None
}
