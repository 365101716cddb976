"""The classifier: every status, wording and header of an upstream, and what of it a caller may see."""

import string
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.errors import CODES
from codellama_proxy.core.masking import sentence
from codellama_proxy.core.snapshot import Cooldown
from codellama_proxy.core.types import Failure, FailureClass
from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import disclosed, of_status, retry_after
from codellama_proxy.failures.error_body import UpstreamError, parse_error
from codellama_proxy.routing import cooldown as cooling
from tests.support.cases import each

NOW = 1_800_000_000.0


def answer(status: int, body: Any = b"", headers: Mapping[str, str] | None = None) -> Failure:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return disclosed(of_status(status, headers or {}, parse_error(raw), NOW), str)


# --- the table of classes ------------------------------------------------------------------------------------

QUOTA = {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}
NO_MODEL = {"error": {"message": "The model `x` does not exist", "code": "model_not_found"}}
CODE: dict[str, str] = {
    "caller": "upstream_rejected",
    "credential": "upstream_auth_failed",
    "busy": "upstream_rate_limited",
    "transient": "upstream_error",
    "disguised": "upstream_invalid_response",
}


@each(
    ("status", "body", "headers", "cls"),
    [
        *((status, b"", {}, "caller") for status in (400, 404, 405, 413, 414, 415, 422, 451)),
        *((status, b"", {}, "credential") for status in (401, 402, 403)),
        (429, QUOTA, {"retry-after": "1"}, "credential"),
        (400, {"error": {"message": "No.", "type": "billing_error"}}, {}, "credential"),
        (
            429,
            {"error": {"message": "No.", "details": {"error_code": "enforced_spend_limit_reached"}}},
            {},
            "credential",
        ),
        (
            400,
            [{"error": {"code": 400, "message": "No.", "details": [{"reason": "API_KEY_INVALID"}]}}],
            {},
            "credential",
        ),
        (
            400,
            {"error": {"message": "No.", "param": "model", "code": "model_not_supported"}},
            {},
            "credential",
        ),
        (407, b"", {}, "credential"),
        (429, {"message": "You are using a Trial key, limited to 1000 API calls / month."}, {}, "busy"),
        (429, {"message": "You are using a Trial key, limited to 20 API calls / minute."}, {}, "busy"),
        (404, {"message": "model 'x' not found, make sure the correct model ID was used"}, {}, "credential"),
        (404, {"detail": "The requested resource could not be found.", "status": 404}, {}, "credential"),
        (404, NO_MODEL, {}, "credential"),
        (404, {"error": {"code": "DeploymentNotFound", "message": "no such thing"}}, {}, "credential"),
        (404, {"message": "Not Found"}, {}, "caller"),
        (429, b"", {}, "busy"),
        (429, b"", {"retry-after": "3600"}, "busy"),
        (498, b"", {}, "busy"),
        (529, b"", {}, "busy"),
        (503, b"", {"retry-after": "3"}, "busy"),
        (503, b"", {"retry-after-ms": "30"}, "busy"),
        (503, b"", {"retry-after": "soon"}, "transient"),
        *((status, b"", {}, "transient") for status in (408, 409, 425, 500, 501, 502, 503, 504)),
        *((status, b"", {}, "transient") for status in (520, 521, 522, 523, 524, 599)),
        *((status, b"", {}, "disguised") for status in (201, 202, 204, 206)),
        *((status, b"", {"location": "http://169.254.169.254/"}, "disguised") for status in (301, 302, 307)),
    ],
)
def test_every_status_has_its_class(
    status: int, body: Any, headers: Mapping[str, str], cls: FailureClass
) -> None:
    found = answer(status, body, headers)
    assert (found.cls, found.code, found.status) == (cls, CODE[cls], status)
    assert found.sent


@given(
    st.integers(100, 999).filter(lambda status: status != 200),
    st.binary(max_size=60),
    st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms"]), st.text(max_size=12)),
)
def test_no_answer_is_left_without_a_class(status: int, body: bytes, headers: dict[str, str]) -> None:
    found = answer(status, body, headers)
    assert found.code in CODES
    assert found.message
    assert CODES[found.code][0] in (400, 429, 502)


def test_broken_connections_and_timeouts_are_transient() -> None:
    assert failures.unreachable("connect", sent=False).cls == "transient"
    slow = failures.timed_out("first_token_timeout")
    assert (slow.cls, slow.code, slow.sent) == ("transient", "upstream_timeout", True)
    assert CODES[slow.code][0] == 504


def test_an_upstream_401_is_not_a_client_error() -> None:
    found = answer(401, {"error": {"message": "Incorrect API key provided: sk-abc123"}})
    assert CODES[found.code][0] == 502
    assert "Incorrect" not in found.message


# --- faults of the caller that may move on -------------------------------------------------------------------

CONTEXT_LENGTH = [
    "This model's maximum context length is 8192 tokens, you requested 9000.",
    "Input exceeds the model's context length.",
    "The request is larger than the context window of this model.",
    "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
    "prompt is too long: 204857 tokens > 200000 maximum",
    "Input is too long for requested model.",
    "too many tokens: total number of tokens in the prompt cannot exceed 4081",
    "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 + 500",
    "the request exceeds the available context size, try increasing it",
    "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    "Your prompt is longer than the model's context length.",
    "Input tokens exceed the configured limit of 272000 tokens.",
    "The maximum input length is 131072 tokens.",
    "Current length is 9000 while limit is 8192",
    "Please reduce the length of the messages.",
]


@each("words", CONTEXT_LENGTH)
def test_every_wording_of_a_context_length_error_is_recognised(words: str) -> None:
    for status in (400, 403, 413, 422):
        found = answer(status, {"error": {"message": words}})
        assert (found.cls, found.code) == ("caller", "context_length_exceeded")
        assert found.reason == "context_length"
    assert answer(500, {"error": {"message": words}}).cls == "transient"


def test_a_too_long_field_is_not_a_context_length_error() -> None:
    words = "string_above_max_length: reduce the length of 'user'."
    assert answer(400, {"error": {"message": words}}).reason == "http_400"
    assert answer(403, {"error": {"message": "No."}}).cls == "credential"


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "No.", "code": "context_length_exceeded"}},
        {"error": {"message": "No.", "code": "content_filter"}},
        {"error": {"message": "No.", "code": "content_policy_violation"}},
        {"error": {"message": "No.", "code": None, "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
        {"error": {"message": "Rejected by our safety system."}},
        {"error": {"message": "It triggered Azure OpenAI's content management policy."}},
    ],
)
def test_codes_and_filters_are_recognised(body: Any) -> None:
    found = answer(400, body)
    assert found.cls == "caller"
    assert found.reason in ("context_length", "content_filter")
    assert found.code.startswith(found.reason)
    assert failures.in_band(parse_error(orjson.dumps(body))).reason == found.reason, "inside a 200 too"


def test_an_error_inside_a_200_without_status_is_an_invalid_response() -> None:
    for body in (
        {"error": {"message": "Sorry."}},
        {"error": {"message": "Sorry.", "code": 1300, "type": "x"}},
    ):
        found = failures.in_band(parse_error(orjson.dumps(body)), 200)
        assert (found.cls, found.status, found.code) == ("disguised", 200, "upstream_invalid_response")
        assert "Sorry" not in found.message


# --- faults of ours are known by facts -----------------------------------------------------------------------

ECHOED = [
    "insufficient_quota",
    "You exceeded your current quota, please check your plan and billing details.",
    "Your credit balance is too low",
    "usage limit reached",
    "enforced_spend_limit_reached",
    "API key not valid. Please pass a valid API key.",
    "The model `x` does not exist",
    "model_not_found",
    "model is not supported by any provider",
]


@each("words", ECHOED)
@each("around", ["Bad content: '{}'", "messages.0.content: {} is not allowed", "{}"])
@each("status", [400, 404, 413, 422])
def test_no_text_of_a_request_causes_a_cooldown(words: str, around: str, status: int) -> None:
    for body in ({"error": {"message": around.format(words), "code": "invalid_value"}}, {"detail": words}):
        found = answer(status, body)
        assert found.cls == "caller" or not found.cools
        assert failures.in_band(
            parse_error(orjson.dumps({"error": {"message": words, "code": 400}}))
        ).cls in (
            "caller",
            "credential",
        )


@given(
    st.text(max_size=20), st.sampled_from(ECHOED), st.text(max_size=20), st.sampled_from([400, 404, 413, 422])
)
def test_the_wording_of_an_error_never_causes_a_cooldown(
    before: str, words: str, after: str, status: int
) -> None:
    found = answer(status, {"error": {"message": before + words + after}})
    assert cooling.cool(None, found, Cooldown(failures=1), 0.0) is None


@pytest.mark.parametrize(
    "message",
    [
        "model 'codellama:70b' not found, make sure the correct model ID was used",
        'model "codellama" not found, try pulling it first',
        "The requested resource could not be found.",
        "model: claude-x",
        "The model `codellama` does not exist.",
        "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing.",
    ],
)
def test_an_error_that_only_by_wording_is_ours_falls_back_without_cooldown(message: str) -> None:
    found = answer(404 if "model" in message else 400, {"error": {"message": message}})
    assert (found.cls, found.cools) == ("credential", False)


@pytest.mark.parametrize(
    "error",
    [
        {"code": 403, "message": "No.", "metadata": {"reasons": ["violence"], "flagged_input": "x"}},
        {"code": 403, "message": "No.", "metadata": {"flagged_input": "x", "provider_name": "p"}},
        {"message": "No.", "code": "content_policy_violation"},
        {"message": "No.", "code": "moderation_blocked"},
        {"message": "Content violates usage guidelines."},
        {"message": "Your prompt was flagged by our moderation."},
    ],
)
def test_a_moderation_refusal_is_a_client_error(error: Any) -> None:
    found = answer(403, {"error": error})
    assert (found.cls, found.code, CODES[found.code][0]) == ("caller", "content_filter", 400)
    inside = failures.in_band(parse_error(orjson.dumps({"error": {"code": 403, **error}})))
    assert inside.cls == "caller"


# --- errors inside a 200 that say their status ---------------------------------------------------------------


@each(
    ("status", "cls"),
    [
        *((status, "caller") for status in (400, 404, 413, 422)),
        *((status, "credential") for status in (401, 402, 403)),
        *((status, "busy") for status in (429, 529)),
        *((status, "transient") for status in (500, 502)),
    ],
)
@each(
    "shape",
    [
        lambda status: {"error": {"message": "m", "code": status}},
        lambda status: {"error": {"message": "m", "code": str(status)}},
        lambda status: {"error": {"message": "m", "type": "x", "code": "y", "status_code": status}},
        lambda status: {"error": {"message": "m"}, "status_code": status},
        lambda status: {"error": "m", "code": status},
        lambda status: {"object": "error", "message": "m", "code": status},
        lambda status: {"status": status, "detail": "m"},
        lambda status: [{"error": {"code": status, "message": "m", "status": "INVALID_ARGUMENT"}}],
    ],
)
def test_an_error_inside_a_200_is_classified_by_its_status(status: int, cls: str, shape: Any) -> None:
    found = failures.in_band(parse_error(orjson.dumps(shape(status))), 200)
    assert (found.cls, found.status, found.code) == (cls, status, CODE[cls])
    assert found.upstream_message == ("m" if cls == "caller" else "")


@pytest.mark.parametrize(
    ("error", "cls"),
    [
        ({"type": "invalid_request_error", "code": "tool_use_failed", "failed_generation": "x"}, "caller"),
        ({"type": "invalid_request_error", "message": "m"}, "caller"),
        ({"type": "rate_limit_error", "message": "m"}, "busy"),
        ({"type": "overloaded_error", "message": "m"}, "busy"),
        ({"type": "authentication_error", "message": "m"}, "credential"),
        ({"type": "insufficient_quota", "code": "insufficient_quota"}, "credential"),
        ({"type": "invalid_request_error", "code": "model_not_found"}, "credential"),
    ],
)
def test_an_error_inside_a_200_is_classified_by_code_and_type(error: Any, cls: str) -> None:
    assert failures.in_band(parse_error(orjson.dumps({"error": error})), 200).cls == cls


# --- error bodies --------------------------------------------------------------------------------------------


@each(
    ("body", "error"),
    [
        (
            {"error": {"message": "m", "type": "t", "param": "p", "code": "c"}},
            UpstreamError("m", "c", "t", "p"),
        ),
        (
            {"error": {"message": "m", "type": "BadRequestError", "param": None, "code": 400}},
            UpstreamError("m", "400", "BadRequestError", status=400),
        ),
        ({"error": "m"}, UpstreamError("m")),
        ({"error": "m", "error_type": "overloaded"}, UpstreamError("m", "overloaded")),
        ({"message": "m"}, UpstreamError("m")),
        ({"detail": "m"}, UpstreamError("m")),
        ({"detail": [{"loc": ["body"], "msg": "m", "type": "missing"}]}, UpstreamError("m", "", "missing")),
        ({"errors": ["m", "n"]}, UpstreamError("m")),
        ({"errors": [{"message": "m"}]}, UpstreamError("m")),
        ({"object": "error", "message": "m", "code": 40303}, UpstreamError("m", "40303")),
        (
            [{"error": {"code": 400, "message": "m", "status": "INVALID"}}],
            UpstreamError("m", "400", status=400),
        ),
        ({"error": {"message": ["m"], "param": ["p"], "code": True}}, UpstreamError()),
        ("m", UpstreamError("m")),
        ([], UpstreamError()),
        (5, UpstreamError()),
        (b"upstream connect error", UpstreamError("upstream connect error")),
        (b"\xff\xfe", UpstreamError("��")),
        (b"", UpstreamError()),
    ],
)
def test_every_form_of_error_body_is_read(body: Any, error: UpstreamError) -> None:
    assert parse_error(body if isinstance(body, bytes) else orjson.dumps(body)) == error


FAULT = {
    "error": {"message": "Invalid 'stop': too many. See https://x.example/docs for more.", "param": "stop"}
}


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_client_error_is_passed_on_with_its_param(status: int) -> None:
    found = answer(status, FAULT)
    assert (found.message, found.param) == ("Invalid 'stop': too many. See [removed] for more.", "stop")
    assert len(answer(status, {"error": {"message": "word " * 5000, "param": "p" * 5000}}).message) <= 1000


def test_other_client_errors_are_reported_in_one_sentence() -> None:
    assert answer(405, FAULT).message == "Invalid 'stop': too many."


def test_upstream_error_text_is_cleaned() -> None:
    raw = of_status(400, {}, parse_error(orjson.dumps(FAULT)), NOW)
    assert (raw.message, raw.param) == ("The upstream refused the request.", None)
    assert "stop" not in repr(raw)


# --- what may be shown ---------------------------------------------------------------------------------------

SECRETS = [
    "sk-abcdef123456",
    "sk-ant-api03-AAAA_bbbb-cccc",
    "sk-proj-***********1234",
    "gsk_abcdefghij1234567890",
    "csk-abcdefghij",
    "hf_abcdefghijklmn",
    "r8_abcdefghijklmn",
    "xai-abcdefghijklmn",
    "pplx-abcdefghijkl",
    "nvapi-abcdefghijkl",
    "key-1234567890",
    "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    "0123456789abcdef0123456789abcdef",
    "Bearer abc.def.ghi",
]
ADDRESSES = [
    "https://api.example.com/v1/chat",
    "HTTP://10.0.0.7:8000/x",
    "wss://example.org",
    "api.internal.example:8443",
    "api.openai.com/v1",
    "localhost:11434",
    "10.0.0.7:8000",
    "192.168.1.1",
    "[::1]:8000",
]


@each("hidden", SECRETS + ADDRESSES)
@each("around", ["{}", "Bad: {}", "Bad ({}) now", "Bad '{}', sorry.", "Bad\n{}\nworse"])
def test_no_key_and_no_address_is_shown(hidden: str, around: str) -> None:
    shown = sentence(around.format(hidden))
    assert "[removed]" in shown
    for part in hidden.split():
        assert part == "Bearer" or part not in shown


@pytest.mark.parametrize(
    "plain",
    [
        "The key 'max_tokens' is not allowed.",
        "Invalid value for response_format.",
        "The task-oriented mode is off for codellama/CodeLlama-34b-Instruct-hf.",
        "Model gpt-4.1-mini-2025-04-14 takes no 'stop' today.",
        "messages.0.content: must be a string; 3 < 5 holds.",
    ],
)
def test_plain_error_text_is_shown_unchanged(plain: str) -> None:
    assert sentence(plain) == plain


@pytest.mark.parametrize("page", ["<!doctype html><p>x", "Oops <b>bold</b>", "x" * 1990 + "<html>", "</p>"])
def test_markup_is_never_shown(page: str) -> None:
    assert sentence(page) == ""


@given(st.text(max_size=400), st.sampled_from(SECRETS), st.text(alphabet=" \n.:'\"(", min_size=1, max_size=3))
def test_a_key_is_removed_in_every_context(text: str, secret: str, gap: str) -> None:
    shown = sentence(text + gap + secret)
    assert len(shown) <= 200
    assert shown.isprintable()
    assert secret not in shown


# --- Retry-After ---------------------------------------------------------------------------------------------


@each(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": " 2 "}, 2.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": formatdate(NOW + 90, usegmt=True)}, 90.0),
        ({"retry-after": formatdate(NOW - 90, usegmt=True)}, 0.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "abc"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1" + "0" * 309}, None),
        ({"retry-after": "1e308"}, 86400.0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 86400.0),
    ],
)
def test_retry_after_is_read_in_every_form(headers: Mapping[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


@given(st.text(max_size=30) | st.text(alphabet=string.digits + "-:,. eGMTJan", max_size=30))
def test_an_invalid_retry_after_is_ignored(value: str) -> None:
    seconds = retry_after({"retry-after": value, "retry-after-ms": value}, NOW)
    assert seconds is None or 0 <= seconds <= 86400


@pytest.mark.parametrize("wrapped", [b'{"error":%s}', b"[%s]", b'{"detail":[%s]}'])
def test_a_deeply_nested_error_is_still_an_error(wrapped: bytes) -> None:
    body = b'"no"'
    for _ in range(500):
        body = wrapped % body
    assert parse_error(body).message
