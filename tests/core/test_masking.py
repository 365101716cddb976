"""No part of a known secret survives the cleaner, in whatever form an upstream repeats it."""

from __future__ import annotations

import base64
import html
import json
import string
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.masking import Mask, mask_for, sentence, words
from codellama_proxy.core.snapshot import Deployment, Secret

KEYS = st.text(string.ascii_letters + string.digits + '-_.+/="&', min_size=8, max_size=80).filter(
    lambda key: key.strip() == key
)
FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "upper case": str.upper,
    "URL": lambda key: quote(key, safe=""),
    "URL, every byte": lambda key: "".join(f"%{byte:02X}" for byte in key.encode()),
    "JSON": lambda key: json.dumps(key)[1:-1],
    "HTML": html.escape,
    "hexadecimal": lambda key: key.encode().hex(),
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 of a pair": lambda key: base64.b64encode(f"me:{key}".encode()).decode(),
    "base64 in addresses": lambda key: base64.urlsafe_b64encode(f"u:{key}!".encode()).decode(),
}


def leaks(text: str, secret: str) -> list[str]:
    """Parts of the secret, eight characters long, that the text shows."""
    return [secret[i : i + 8] for i in range(len(secret) - 7) if secret[i : i + 8].lower() in text.lower()]


@pytest.mark.parametrize("form", FORMS)
@given(key=KEYS, around=st.text(" .:'()xyz<>\n", max_size=12))
def test_no_part_of_a_secret_is_left(form: str, key: str, around: str) -> None:
    shown = FORMS[form](key)
    for told in (words(f"{around}{shown}{around}", Mask([key])), Mask([key])(f"{around}{shown}{around}")):
        assert not leaks(told, key)
        # Four bytes cut at the ends of base64 say less than eight characters.
        assert not leaks(told, shown[3:-5])


@given(KEYS.filter(lambda key: len(key) > 20), st.data())
def test_parts_of_a_secret_are_masked(key: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(key) - 8))
    end = data.draw(st.integers(start + 8, len(key)))
    assert not leaks(Mask([key])(f"wrong key '{key[start:end]}***'"), key)


def test_secrets_are_masked_whole_and_in_words() -> None:
    mask = Mask(["hunter2", "Bearer very-secret-token", "Only speak of code. Never tell anybody."])
    assert mask("You gave hunter2.") == "You gave [removed]."
    assert mask("very-secret-token is not Bearer") == "[removed] is not Bearer"
    assert mask("I never tell anybody anything of code.") == "I never tell anybody anything of code."
    assert mask("you are to Only speak of code. Never tell anybody. ok") == "you are to [removed] ok"
    assert Mask(["a"])("a plain text") == "a plain text"


def test_a_deployments_key_headers_and_addresses_are_masked() -> None:
    deployment = Deployment(
        "m#1",
        "m",
        "openai_compatible",
        "up",
        base_url="http://gpu7:8000/v1",
        api_key=Secret("plainpassword"),
        headers={"x-team": "purple", "cookie": "session=abcdefghijkl"},
        secrets=frozenset({Secret("tenant-4711-xyz")}),
    )
    clean = mask_for(deployment, "https://other.example.net/v1/chat?sig=1")
    for hidden in ("plainpassword", "purple", "abcdefghij", "gpu7:8000", "tenant-4711", "other.example.net"):
        assert hidden not in words(f"It was {hidden} indeed.", clean), hidden


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Expected List<int> here; a < b.\nSecond line.", "Expected List here; a < b. Second line."),
        ("<!DOCTYPE html><p>x", ""),
        ("x <img src=x onerror=y", "x < img src=x onerror=y"),
        ("fine <script>", ""),
        ("first\x00 one. second one", "first one. second one"),
    ],
)
def test_markup_is_removed(text: str, shown: str) -> None:
    assert words(text, str) == shown


@given(st.integers(0, 40))
def test_text_is_masked_before_it_is_truncated(place: int) -> None:
    name = "alice@tenant-one.example"
    text = "x " * 1990 + " " * place
    for told in (
        words(text[:3980] + "y" * place + name + " z" * 500, Mask([], [name]), 9999),
        sentence(text + name),
    ):
        assert "alice" not in told


@given(st.text(max_size=3000))
def test_masked_text_is_bounded_and_printable(text: str) -> None:
    assert len(words(text, str)) <= 1000
    assert len(sentence(text)) <= 200
    assert words(text, str).isprintable()
