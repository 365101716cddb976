"""Credentials in the bytes of an answer, however they are escaped and wherever the bytes are cut."""

from __future__ import annotations

import json

import pytest

from codellama_proxy.core.snapshot import Deployment, Secret
from codellama_proxy.upstream.credential_filter import CredentialFilter, without_credentials
from tests.support.builders import deployment

KEY = 'sk-a/b"c-0123456789'
HEADERS = {"authorization": "Bearer tok-77-abcdef", "x-team": "team-secret-4711", "x-title": "public-title-1"}
SECRETS = frozenset({Secret("team-secret-4711")})


def entry(**more: object) -> Deployment:
    return deployment(**{"api_key": Secret(KEY), "headers": HEADERS, "secrets": SECRETS, **more})


def filtering(**more: object) -> CredentialFilter:
    return CredentialFilter(entry(**more))


@pytest.mark.parametrize(
    "form",
    [
        KEY.encode(),
        json.dumps(KEY)[1:-1].encode(),
        json.dumps(KEY)[1:-1].replace("/", "\\/").encode(),
        b"tok-77-abcdef",
        b"team-secret-4711",
    ],
)
def test_every_encoding_is_removed_with_any_chunking(form: bytes) -> None:
    data = b'{"id": "x' + form + b'y", "text": "' + form + b'"}'
    expected = data.replace(form, b"[removed]")
    assert without_credentials(data, entry()) == expected
    for cut in range(len(data)):
        one = filtering()
        assert one.feed(data[:cut]) + one.feed(data[cut:]) + one.flush() == expected, cut
    one = filtering()
    assert b"".join(one.feed(data[i : i + 1]) for i in range(len(data))) + one.flush() == expected


def test_a_prefix_of_a_credential_is_passed_on() -> None:
    one = filtering()
    assert one.feed(b"data: sk-a") == b"data: "
    assert one.feed(b"nother\n\n") == b"sk-another\n\n"
    assert one.feed(b"data: sk-a\n\n") == b"data: sk-a\n\n", "no line break is within a credential"
    assert one.feed(b"tok-77") == b""
    assert one.flush() == b"tok-77"


@pytest.mark.parametrize("placeholder", ["not-needed", "ollama", "EMPTY", "lm-studio", "1"])
def test_placeholders_are_not_credentials(placeholder: str) -> None:
    data = f"Your key is {placeholder}, public-title-1.".encode()
    assert without_credentials(data, entry(api_key=Secret(placeholder))) == data


def test_without_credentials_nothing_is_removed() -> None:
    one = filtering(api_key=None, headers={}, secrets=frozenset())
    assert one.feed(b"data: sk-a") == b"data: sk-a"
    assert one.flush() == b""
