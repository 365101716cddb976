"""The differences between providers of OpenAI's dialect, as data.

Most of them are observed rather than documented by the vendor; corrections belong in this table. Fields are documented
on `OpenAIProfile`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.openai_format.parameters import IGNORABLE
from codellama_proxy.openai_format.request import CACHE_MARKS

CACHE_KEY = frozenset({"prompt_cache_key"})
"""A parameter of some providers that reduces the cost of repeated prompts."""
OTHERS_FIELDS = frozenset({"thinking_blocks", "provider_specific_fields", "is_error"})
"""Message fields of single providers; a conversation may continue at another one."""
STRICT_FIELDS = frozenset({"role", "content", "name", "tool_calls", "tool_call_id"})
"""The message fields accepted by providers that refuse unknown ones."""


@dataclass(frozen=True, slots=True)
class OpenAIProfile:
    base_url: str | None = None
    """Default base URL; `None`: the entry must set one."""
    max_tokens: Literal["as_is", "max_tokens", "by_model"] = "max_tokens"
    """The field's name: as sent by the client, always `max_tokens`, or by OpenAI's model families."""
    developer_role: bool = False
    """Supports the role `developer`; otherwise it becomes `system`."""
    stream_options: bool = True
    """Supports `stream_options.include_usage`; other providers always report usage."""
    drop: frozenset[str] = IGNORABLE
    """Dropped silently."""
    reject: frozenset[str] = frozenset()
    """Unsupported and not ignorable: 400, or dropped and reported with `drop_params`."""
    rename: Mapping[str, str] = field(default_factory=dict)
    functions: bool = False
    """Supports legacy functions; otherwise they are converted to tools and back."""
    allowed_tools: bool = False
    """Supports this kind of `tool_choice`; otherwise only those tools are sent."""
    tool_choice: Mapping[str, str] = field(default_factory=dict)
    """Other values for `tool_choice`; a named choice is looked up as `named`, and only that tool is sent."""
    short_tool_ids: bool = False
    """Accepts only tool-call ids of nine letters and digits."""
    message_fields_off: frozenset[str] = OTHERS_FIELDS
    """Message fields this provider refuses."""
    message_fields: frozenset[str] | None = None
    """All accepted message fields; `None`: any other is accepted or ignored."""
    cache_marks: frozenset[str] = frozenset()
    """The accepted ones of `CACHE_MARKS`."""
    system_first: bool = True
    """Has models that accept system messages only at the beginning."""
    top_k: bool = False
    """Accepts `top_k`."""
    thinking_parts: bool = False
    """Accepts `THINKING_PARTS` in content."""
    short_ids: bool = False
    """Refuses user identifiers and cache keys over 64 characters."""
    sampling_above_zero: bool = False
    """Refuses temperature 0 and top_p 0 or 1."""
    integer_logprobs: bool = False
    """`logprobs` is a number, and answers have the legacy format."""
    stop_list: bool = False
    """`stop` must be a list."""
    headers: Mapping[str, str] = field(default_factory=dict)
    responses: bool = False
    """Has OpenAI's Responses API, which requests of that dialect are passed on to."""
    azure: bool = False
    """URLs and credentials have Azure's form."""
    refused_marks: frozenset[str] = field(init=False)
    """The other ones of `CACHE_MARKS`."""
    dropped: frozenset[str] = field(init=False)
    """All parameters that are dropped silently."""
    message_fields_dropped: frozenset[str] = field(init=False)
    """All message fields that are known to be refused."""

    def __post_init__(self) -> None:
        marks = CACHE_MARKS - self.cache_marks
        object.__setattr__(self, "refused_marks", marks)
        object.__setattr__(self, "dropped", self.drop | marks)
        object.__setattr__(self, "message_fields_dropped", self.message_fields_off | marks)


REASONING_OFF = OTHERS_FIELDS | {"reasoning_content", "reasoning"}

OPENAI = OpenAIProfile(
    base_url="https://api.openai.com/v1",
    max_tokens="by_model",
    developer_role=True,
    drop=frozenset(),
    functions=True,
    allowed_tools=True,
    message_fields_off=REASONING_OFF,
    cache_marks=frozenset({"prompt_cache_breakpoint"}),
    short_ids=True,
    system_first=False,
    responses=True,
)
HUGGINGFACE = OpenAIProfile(
    base_url="https://router.huggingface.co/v1",
    drop=IGNORABLE | {"user", "verbosity"},
    reject=frozenset({"n", "logit_bias"}),
    message_fields_off=REASONING_OFF,
)
DEDICATED = replace(HUGGINGFACE, base_url=None, sampling_above_zero=True)
"""A dedicated Hugging Face endpoint: one of several servers, of which TGI is the strictest."""

OPENAI_PROFILES: Mapping[str, OpenAIProfile] = {
    "openai": OPENAI,
    "azure": replace(OPENAI, base_url=None, azure=True),
    "huggingface": HUGGINGFACE,
    "gemini": OpenAIProfile(
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        drop=IGNORABLE | {"user", "verbosity", "parallel_tool_calls"},
        reject=frozenset({"logit_bias"}),
        message_fields_off=REASONING_OFF,
    ),
    "bedrock": OpenAIProfile(
        base_url="https://bedrock-mantle.us-east-1.api.aws/openai/v1",
        max_tokens="by_model",
        drop=IGNORABLE | {"user"},
        message_fields_off=REASONING_OFF,
    ),
    "together": OpenAIProfile(
        base_url="https://api.together.xyz/v1",
        drop=IGNORABLE | {"user", "parallel_tool_calls", "verbosity"},
        integer_logprobs=True,
        stop_list=True,
        top_k=True,
    ),
    "groq": OpenAIProfile(
        base_url="https://api.groq.com/openai/v1",
        reject=frozenset({"logprobs", "logit_bias", "top_logprobs", "n"}),
        message_fields=STRICT_FIELDS - {"name"},
    ),
    "mistral": OpenAIProfile(
        base_url="https://api.mistral.ai/v1",
        stream_options=False,
        drop=IGNORABLE - CACHE_KEY | {"user"},
        reject=frozenset({"logit_bias", "logprobs", "top_logprobs"}),
        rename={"seed": "random_seed"},
        tool_choice={"required": "any", "named": "any"},
        short_tool_ids=True,
        message_fields=STRICT_FIELDS | {"prefix"},
        thinking_parts=True,
    ),
    "deepseek": OpenAIProfile(base_url="https://api.deepseek.com", system_first=False),
    "fireworks": OpenAIProfile(
        base_url="https://api.fireworks.ai/inference/v1", drop=IGNORABLE - CACHE_KEY, top_k=True
    ),
    "openrouter": OpenAIProfile(
        base_url="https://openrouter.ai/api/v1",
        max_tokens="as_is",
        drop=IGNORABLE - CACHE_KEY,
        cache_marks=CACHE_MARKS,
        system_first=False,
        top_k=True,
    ),
    "xai": OpenAIProfile(base_url="https://api.x.ai/v1", max_tokens="as_is", system_first=False),
    "cerebras": OpenAIProfile(
        base_url="https://api.cerebras.ai/v1",
        max_tokens="as_is",
        message_fields=STRICT_FIELDS | {"reasoning"},
    ),
    "perplexity": OpenAIProfile(
        base_url="https://api.perplexity.ai",
        functions=True,  # so that the error names the client's field
        reject=frozenset({"tools", "tool_choice", "functions", "function_call"}),
        message_fields_off=REASONING_OFF,
    ),
    "nvidia": OpenAIProfile(base_url="https://integrate.api.nvidia.com/v1"),
    "ollama": OpenAIProfile(base_url="http://localhost:11434/v1"),
    "vllm": OpenAIProfile(max_tokens="as_is", top_k=True),
    "lmstudio": OpenAIProfile(base_url="http://localhost:1234/v1", top_k=True),
    "llamacpp": OpenAIProfile(base_url="http://localhost:8080/v1", top_k=True),
    "openai_compatible": OpenAIProfile(
        max_tokens="as_is",
        developer_role=True,
        drop=frozenset({"metadata"}),
        functions=True,
        allowed_tools=True,
        message_fields_off=frozenset(),
        cache_marks=CACHE_MARKS,
        thinking_parts=True,
    ),
    "mock": OpenAIProfile(base_url="mock://mock", max_tokens="as_is", functions=True),
}


def profile_of(
    deployment: Deployment, dialects: Mapping[str, OpenAIProfile] = OPENAI_PROFILES
) -> OpenAIProfile:
    """The profile of an entry: its provider's, or a more specific one if its URL shows it."""
    own = deployment.base_url
    if deployment.provider == "huggingface" and own and "//router.huggingface.co" not in own:
        return DEDICATED
    return dialects[deployment.provider]
