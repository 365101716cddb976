"""The limit of `max_tokens` in the words of each provider."""

from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.failures.stated_limits import stated_max_tokens
from tests.support.cases import each


@each(
    ("message", "tokens"),
    [
        (
            "max_tokens is too large: 32000. This model supports at most 16384 completion tokens, whereas you "
            "provided 32000.",
            16_384,
        ),
        (
            "max_tokens: 128000 > 64000, which is the maximum allowed number of output tokens for claude-opus-4-5",
            64_000,
        ),
        ("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", 8192),
        (
            "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less than the "
            "`context_window` for this model",
            8192,
        ),
        ("`max_completion_tokens` must be less than or equal to `65536`", 65_536),
        ("too many tokens: max tokens must be less than or equal to 4096, the maximum output length", 4096),
        ("The maximum tokens you requested exceeds the model limit of 8192. Try again.", 8192),
        (
            "Unable to submit request because it has a maxOutputTokens value of 128000 but the supported range is "
            "from 1 (inclusive) to 65537 (exclusive).",
            65_536,
        ),
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 32000. This model's maximum context length is "
            "16384 tokens and your request has 384 input tokens (32000 > 16384 - 384).",
            16_000,
        ),
        (
            "This model's maximum context length is 16384 tokens. However, you requested 32384 tokens (384 in the "
            "messages, 32000 in the completion). Please reduce the length of the messages or completion.",
            16_000,
        ),
        (
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. Given: 97 `inputs` tokens "
            "and 32000 `max_new_tokens`",
            4000,
        ),
        (
            "input length and `max_tokens` exceed context limit: 190000 + 32000 > 200000, decrease input",
            10_000,
        ),
        (
            "This model's maximum context length is 16384 tokens. However, your messages resulted in 20000 tokens. "
            "Please reduce the length of the messages.",
            None,
        ),
        (
            "This model's maximum context length is 16384 tokens. However, you requested 52384 tokens (20384 in the "
            "messages, 32000 in the completion).",
            None,
        ),
        ("max_tokens must be at least 1", None),
        ("prompt is too long: 210000 tokens > 200000 maximum", None),
        ("", None),
    ],
)
def test_limits_of_all_wordings(message: str, tokens: int | None) -> None:
    assert stated_max_tokens(message) == tokens


@given(st.text())
def test_any_message_is_read(message: str) -> None:
    found = stated_max_tokens(message)
    assert found is None or found >= 16
