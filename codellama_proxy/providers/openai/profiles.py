"""What differs between the providers that speak OpenAI's dialect, as data.

Most of these quirks are known from the field rather than promised by the vendor, so they are corrected here,
in a table, and nowhere in code. Fields are documented on `OpenAIProfile`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.openai_format.parameters import IGNORABLE
from codellama_proxy.openai_format.request import CACHE_MARKS

CACHE_KEY = frozenset({"prompt_cache_key"})
"""A parameter that some providers want: repeated prompts then cost a fraction."""
OTHERS_FIELDS = frozenset({"thinking_blocks", "provider_specific_fields"})
"""Message fields that only another provider understands: a conversation may go on at a new one."""
STRICT_FIELDS = frozenset({"role", "content", "name", "tool_calls", "tool_call_id"})
"""All the message fields that providers take which refuse what they do not know."""


@dataclass(frozen=True, slots=True)
class OpenAIProfile:
    base_url: str | None = None
    """`None`: the entry must give one."""
    max_tokens: Literal["as_is", "max_tokens", "by_model"] = "max_tokens"
    """The field's name: as the client wrote it, always the old one, or by OpenAI's model families."""
    developer_role: bool = False
    """Knows the role `developer`; else it becomes `system`."""
    stream_options: bool = True
    """Takes `stream_options.include_usage`; the others report usage unasked."""
    drop: frozenset[str] = IGNORABLE
    """Dropped silently."""
    reject: frozenset[str] = frozenset()
    """Would change the answer and is not supported: 400, or dropped and reported with `drop_params`."""
    rename: Mapping[str, str] = field(default_factory=dict)
    functions: bool = False
    """Knows the legacy functions; else they become tools, and calls of tools become theirs on the way back."""
    allowed_tools: bool = False
    """Knows that kind of `tool_choice`; else only those tools are sent."""
    tool_choice: Mapping[str, str] = field(default_factory=dict)
    """Other words for `tool_choice`; a named choice is looked up as `named`, and only that tool is sent."""
    short_tool_ids: bool = False
    """Takes ids of tool calls only if they are nine letters and digits."""
    message_fields_off: frozenset[str] = OTHERS_FIELDS
    """Message fields this provider refuses."""
    message_fields: frozenset[str] | None = None
    """All the message fields it takes; `None`: it takes or ignores any other."""
    cache_marks: frozenset[str] = frozenset()
    """Those of `CACHE_MARKS` that it takes."""
    thinking_parts: bool = False
    """Takes `THINKING_PARTS` in content."""
    short_ids: bool = False
    """Refuses identifiers of users and of cache keys over 64 characters."""
    sampling_above_zero: bool = False
    """Refuses temperature 0 and top_p 0 or 1."""
    integer_logprobs: bool = False
    """`logprobs` is a number here and answers carry the legacy shape."""
    stop_list: bool = False
    """`stop` must be a list."""
    headers: Mapping[str, str] = field(default_factory=dict)
    azure: bool = False
    """Addresses and credentials are Azure's."""


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
)
HUGGINGFACE = OpenAIProfile(
    base_url="https://router.huggingface.co/v1",
    drop=IGNORABLE | {"user", "verbosity"},
    reject=frozenset({"n", "logit_bias"}),
    message_fields_off=REASONING_OFF,
)
DEDICATED = replace(HUGGINGFACE, base_url=None, sampling_above_zero=True)
"""A Hugging Face endpoint of one's own: any of several servers, the strictest of which is TGI."""

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
    "deepseek": OpenAIProfile(base_url="https://api.deepseek.com"),
    "fireworks": OpenAIProfile(base_url="https://api.fireworks.ai/inference/v1", drop=IGNORABLE - CACHE_KEY),
    "openrouter": OpenAIProfile(
        base_url="https://openrouter.ai/api/v1",
        max_tokens="as_is",
        drop=IGNORABLE - CACHE_KEY,
        cache_marks=CACHE_MARKS,
    ),
    "xai": OpenAIProfile(base_url="https://api.x.ai/v1", max_tokens="as_is"),
    "cerebras": OpenAIProfile(
        base_url="https://api.cerebras.ai/v1",
        max_tokens="as_is",
        message_fields=STRICT_FIELDS | {"reasoning"},
    ),
    "perplexity": OpenAIProfile(
        base_url="https://api.perplexity.ai",
        functions=True,  # so that they are refused by the name the client used
        reject=frozenset({"tools", "tool_choice", "functions", "function_call"}),
        message_fields_off=REASONING_OFF,
    ),
    "nvidia": OpenAIProfile(base_url="https://integrate.api.nvidia.com/v1"),
    "ollama": OpenAIProfile(base_url="http://localhost:11434/v1"),
    "vllm": OpenAIProfile(max_tokens="as_is"),
    "lmstudio": OpenAIProfile(base_url="http://localhost:1234/v1"),
    "llamacpp": OpenAIProfile(base_url="http://localhost:8080/v1"),
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
    """The row of an entry: its provider's, unless its address says more."""
    own = deployment.base_url
    if deployment.provider == "huggingface" and own and "//router.huggingface.co" not in own:
        return DEDICATED
    return dialects[deployment.provider]
