"""What an adapter for a provider with a format of its own needs: see docs/adding-a-provider.md."""

from codellama_proxy.openai_format.completion import CHAT_CHUNK, CHAT_COMPLETION
from codellama_proxy.openai_format.fields import invalid_value
from codellama_proxy.openai_format.request import SYSTEM_ROLES
from codellama_proxy.providers.common import answers, legacy_functions
from codellama_proxy.providers.common.finish_reasons import finish_reason
from codellama_proxy.providers.common.identity import bearer_headers, impersonal
from codellama_proxy.providers.common.json_reading import (
    count_at,
    dig,
    failure_in_band,
    is_error,
    listed,
    load_answer,
    load_object,
    model_of,
    piece_of,
    text_at,
    words_at,
    wrong,
)
from codellama_proxy.providers.common.parameters import (
    ParameterSet,
    Policy,
    UnsupportedError,
    functions,
    narrow_tool_choice,
    one_of,
    parameter_set,
    translate,
)

__all__ = [
    "CHAT_CHUNK",
    "CHAT_COMPLETION",
    "SYSTEM_ROLES",
    "ParameterSet",
    "Policy",
    "UnsupportedError",
    "answers",
    "bearer_headers",
    "count_at",
    "dig",
    "failure_in_band",
    "finish_reason",
    "functions",
    "impersonal",
    "invalid_value",
    "is_error",
    "legacy_functions",
    "listed",
    "load_answer",
    "load_object",
    "model_of",
    "narrow_tool_choice",
    "one_of",
    "parameter_set",
    "piece_of",
    "text_at",
    "translate",
    "words_at",
    "wrong",
]
