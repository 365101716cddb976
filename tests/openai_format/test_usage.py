"""What upstreams report as used: every spelling is read, and it is believed as far as it makes sense."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codellama_proxy.core.types import Usage
from codellama_proxy.openai_format import usage
from codellama_proxy.openai_format.usage import MAX_REPORTED_TOKENS, merged, read_usage, usage_in
from codellama_proxy.pricing.plausible_usage import Bounds, ContextWindow, believed
from tests.support.cases import each

NONSENSE: tuple[Any, ...] = (
    None,
    -1,
    -1.5,
    "",
    "-1",
    "many",
    "1e9",
    True,
    [],
    {},
    float("nan"),
    float("inf"),
)

SPELLINGS: tuple[tuple[str, dict[str, Any], Usage], ...] = (
    ("plain", {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}, Usage(5, 7)),
    ("floats", {"prompt_tokens": 5.0, "completion_tokens": 7.0}, Usage(5, 7)),
    ("fractions", {"prompt_tokens": 5.2, "completion_tokens": 7.0}, Usage(6, 7)),
    ("strings", {"prompt_tokens": "5", "completion_tokens": "7.0", "total_tokens": "12"}, Usage(5, 7)),
    (
        "anthropic's names, exclusive, by the total",
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 165,
            "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 50,
        },
        Usage(160, 5, 100, 50),
    ),
    (
        "anthropic's names, exclusive, by their size",
        {"prompt_tokens": 10, "completion_tokens": 5, "cache_read_input_tokens": 100},
        Usage(110, 5, 100),
    ),
    (
        "cached beside the prompt, with reasoning beside the completion",
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 145,
            "prompt_tokens_details": {"cached_tokens": 100},
            "completion_tokens_details": {"reasoning_tokens": 30},
        },
        Usage(110, 35, 100, 0, 30),
    ),
    (
        "hits beside the prompt",
        {
            "prompt_tokens": 100,
            "completion_tokens": 10,
            "total_tokens": 1010,
            "prompt_cache_hit_tokens": 900,
            "prompt_cache_miss_tokens": 100,
        },
        Usage(1000, 10, 900),
    ),
    (
        "misses as the prompt",
        {
            "prompt_tokens": 900,
            "completion_tokens": 10,
            "prompt_cache_hit_tokens": 100,
            "prompt_cache_miss_tokens": 900,
        },
        Usage(1000, 10, 100),
    ),
    (
        "gemini",
        {
            "promptTokenCount": 100,
            "candidatesTokenCount": 10,
            "thoughtsTokenCount": 50,
            "cachedContentTokenCount": 40,
            "toolUsePromptTokenCount": 7,
            "totalTokenCount": 167,
        },
        Usage(107, 60, 40, 0, 50),
    ),
    ("embeddings", {"total_tokens": 12}, Usage(12)),
    ("embeddings in both", {"prompt_tokens": 12, "total_tokens": 12}, Usage(12)),
    (
        "details",
        {
            "prompt_tokens": 10,
            "completion_tokens": 4,
            "prompt_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
        Usage(10, 4, 6, 4, 3),
    ),
    (
        "responses",
        {"input_tokens": 10, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 6}},
        Usage(10, 4, 6),
    ),
    ("kimi", {"prompt_tokens": 1000, "completion_tokens": 10, "cached_tokens": 900}, Usage(1000, 10, 900)),
    (
        "deepseek",
        {
            "prompt_tokens": 1000,
            "completion_tokens": 10,
            "prompt_cache_hit_tokens": 900,
            "prompt_cache_miss_tokens": 100,
        },
        Usage(1000, 10, 900),
    ),
    (
        "deepseek without the sum",
        {"completion_tokens": 10, "prompt_cache_hit_tokens": 900, "prompt_cache_miss_tokens": 100},
        Usage(1000, 10, 900),
    ),
    (
        "a second spelling that stays at 0",
        {"prompt_tokens": 9, "cached_tokens": 8, "prompt_tokens_details": {"cached_tokens": 0}},
        Usage(9, 0, 8),
    ),
    (
        "anthropic",
        {
            "input_tokens": 10,
            "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 50,
            "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 30},
            "output_tokens": 5,
            "server_tool_use": {"web_search_requests": 2},
            "service_tier": "priority",
        },
        Usage(160, 5, 100, 50, 0, 30, (("web_search", 2),), "priority"),
    ),
    (
        "anthropic, split only",
        {
            "input_tokens": 10,
            "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 30},
            "output_tokens": 5,
        },
        Usage(60, 5, 0, 50, 0, 30),
    ),
    (
        "anthropic's names beside openai's",
        {"prompt_tokens": 110, "completion_tokens": 5, "cache_read_input_tokens": 100},
        Usage(110, 5, 100),
    ),
    (
        "reasoning beside the completion",
        {
            "prompt_tokens": 36,
            "completion_tokens": 10,
            "total_tokens": 736,
            "completion_tokens_details": {"reasoning_tokens": 690},
        },
        Usage(36, 700, 0, 0, 690),
    ),
    (
        "reasoning that only the total tells",
        {"prompt_tokens": 36, "completion_tokens": 10, "total_tokens": 736},
        Usage(36, 700),
    ),
    (
        "reasoning beside, smaller than the completion",
        {"prompt_tokens": 36, "completion_tokens": 100, "total_tokens": 186, "reasoning_tokens": 50},
        Usage(36, 150, 0, 0, 50),
    ),
    (
        "reasoning larger than the completion, in no total",
        {"prompt_tokens": 7, "completion_tokens": 10, "total_tokens": 17, "reasoning_tokens": 90},
        Usage(7, 100, 0, 0, 90),
    ),
    ("a prompt that only the total tells", {"completion_tokens": 6, "total_tokens": 16}, Usage(10, 6)),
    ("an explicit nothing", {"prompt_tokens": 0, "completion_tokens": 0}, Usage()),
    ("no prompt", {"prompt_tokens": 0, "completion_tokens": 6, "total_tokens": 6}, Usage(0, 6)),
    ("absurd", {"prompt_tokens": 10**30, "completion_tokens": 1}, Usage(MAX_REPORTED_TOKENS, 1)),
)


@each(("reported", "usage"), [(a, b) for _, a, b in SPELLINGS])
def test_every_usage_format_is_read(reported: dict[str, Any], usage: Usage) -> None:
    assert read_usage(reported) == usage
    assert usage_in({"usage": reported}) == usage


@pytest.mark.parametrize("missing", [None, {}, [], "usage", {"unheard": 5}, {"prompt_tokens": None}])
def test_an_object_without_counts_is_not_usage(missing: Any) -> None:
    assert read_usage(missing) is None


@each("nonsense", NONSENSE)
def test_an_invalid_count_is_treated_as_missing(nonsense: Any) -> None:
    assert read_usage({"prompt_tokens": nonsense, "completion_tokens": 5}) == Usage(0, 5)
    assert read_usage({"prompt_tokens": 5, "completion_tokens": nonsense}) == Usage(5)
    details = {"cached_tokens": nonsense, "cache_write_tokens": nonsense}
    assert read_usage({"prompt_tokens": 5, "prompt_tokens_details": details}) == Usage(5)


@pytest.mark.parametrize("place", ["x_groq", "error", "message", "response"])
def test_usage_is_found_in_every_location(place: str) -> None:
    assert usage_in({place: {"usage": {"prompt_tokens": 5, "completion_tokens": 7}}}) == Usage(5, 7)


def test_kimi_reports_usage_in_the_last_choice() -> None:
    assert usage_in({"choices": [{"delta": {}, "usage": {"prompt_tokens": 5}}]}) == Usage(5)


def test_openai_reports_the_service_tier_beside_the_usage() -> None:
    assert usage_in({"usageMetadata": {"promptTokenCount": 5}}) == Usage(5)
    told = usage_in({"service_tier": "priority", "usage": {"prompt_tokens": 5}})
    assert told is not None
    assert told.service_tier == "priority"


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from([name for _, told, _ in SPELLINGS for name in told]), inner, max_size=6
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["usage", "x_groq", "error", "choices", "service_tier"]), json))
def test_arbitrary_usage_is_read_with_parts_not_above_the_total(found: dict[str, Any]) -> None:
    told = usage_in(found)
    if told is not None:
        assert 0 <= told.cached_tokens + told.cache_write_tokens <= told.prompt_tokens <= MAX_REPORTED_TOKENS
        assert 0 <= told.reasoning_tokens <= told.completion_tokens <= MAX_REPORTED_TOKENS
        assert 0 <= told.cache_write_1h_tokens <= told.cache_write_tokens


def test_a_later_report_overrides_each_token_class() -> None:
    early = Usage(20, 1, 10, 5, 0, 5, (), "priority")
    assert merged(None, early) == early
    assert merged(Usage(20, 9), Usage(15, 5)) == Usage(20, 9), "never lowered"
    assert merged(early, Usage(25, 7, 3)) == Usage(25, 7, 3, 0, 0, 0, (), "priority")
    assert merged(early, Usage(0, 7, reasoning_tokens=2)) == Usage(20, 7, 10, 5, 2, 5, (), "priority")


# --- how far it is believed ----------------------------------------------------------------------------------

BOUNDS = Bounds(prompt=100, completion=50)


def test_plausible_usage_is_booked_as_reported() -> None:
    told = Usage(90, 40, 10)
    assert believed(told, Usage(), BOUNDS, ContextWindow(), has_unreported_text=False) == (told, False, False)


def test_possible_usage_above_the_bound_is_booked_as_reported() -> None:
    told = Usage(900, 300)
    assert believed(told, Usage(), BOUNDS, ContextWindow(), has_unreported_text=False) == (told, False, False)


@pytest.mark.parametrize(
    ("told", "booked"),
    [
        (Usage(0, 6), Usage(11, 6)),
        (Usage(9, 0), Usage(9, 22)),
        (Usage(0, 0), Usage(11, 22)),
    ],
)
def test_a_missing_token_class_is_estimated(told: Usage, booked: Usage) -> None:
    assert believed(told, Usage(11, 22), BOUNDS, ContextWindow(), has_unreported_text=False) == (
        booked,
        True,
        False,
    )


def test_text_after_the_report_is_counted() -> None:
    counted = Usage(11, 22)
    assert believed(Usage(9, 1), counted, BOUNDS, ContextWindow(), has_unreported_text=True) == (
        Usage(9, 22),
        True,
        False,
    )
    assert believed(Usage(9, 30), counted, BOUNDS, ContextWindow(), has_unreported_text=True) == (
        Usage(9, 30),
        False,
        False,
    )


@pytest.mark.parametrize(
    ("told", "window", "booked"),
    [
        (Usage(999_999_999, 7), ContextWindow(), Usage(100, 7)),
        (Usage(90, 999_999_999), ContextWindow(), Usage(90, 50)),
        (Usage(8193, 7), ContextWindow(8192), Usage(100, 7)),
        (Usage(90, 8193), ContextWindow(8192), Usage(90, 50)),
        (Usage(999_999_999, 7, cached_tokens=999_999_999), ContextWindow(), Usage(100, 7)),
    ],
)
def test_impossible_usage_is_capped_at_the_bound(told: Usage, window: ContextWindow, booked: Usage) -> None:
    assert believed(told, Usage(), BOUNDS, window, has_unreported_text=False) == (booked, False, True)


def test_a_long_prompt_price_makes_long_prompts_possible() -> None:
    told = Usage(300_000, 7)
    assert believed(told, Usage(), BOUNDS, ContextWindow(None, 200_000), has_unreported_text=False) == (
        told,
        False,
        False,
    )


def test_an_unbounded_answer_may_be_long() -> None:
    told = Usage(90, 120_000)
    open_end = BOUNDS._replace(bounded=False)
    assert believed(told, Usage(), open_end, ContextWindow(), has_unreported_text=False) == (
        told,
        False,
        False,
    )
    absurd = believed(Usage(90, 300_000), Usage(), open_end, ContextWindow(), has_unreported_text=False)
    assert absurd == (Usage(90, 50), False, True)


COUNTS = st.sampled_from([0, 1, 5, 10, 15, MAX_REPORTED_TOKENS, -1, True, None, 2.0, "7"])
DETAILS = st.none() | st.dictionaries(
    st.sampled_from(["cached_tokens", "audio_tokens", "reasoning_tokens", "rejected_prediction_tokens"]),
    COUNTS,
)
USUAL = st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": COUNTS,
        "completion_tokens": COUNTS,
        "total_tokens": COUNTS,
        "prompt_tokens_details": DETAILS,
        "completion_tokens_details": DETAILS,
        "input_tokens": COUNTS,
    },
)


@given(USUAL)
@example({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15})
def test_the_fast_path_reads_the_same_usage(reported: dict[str, Any]) -> None:
    usual = usage.usual_usage(reported)
    assert usual is None or usual == usage._any_spelling(reported)
