"""YAML text to values and positions, and everything a strict reader refuses."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.config.problems import ConfigError
from codellama_proxy.config.yaml.document import Document, parse
from codellama_proxy.config.yaml.parser_messages import SENTENCES
from codellama_proxy.config.yaml.scalars import Substituted, plain, resolve
from codellama_proxy.config.yaml.substitution import expand, lookup_in, references
from tests.support.cases import each


def parsed(text: str | bytes, **environ: str) -> Document:
    return parse(text.encode() if isinstance(text, str) else text, lookup_in(environ))


def refusal(content: bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        parsed(content)
    [problem] = caught.value.problems
    return str(problem).removeprefix("proxy.yaml:")


# --- scalars -----------------------------------------------------------------------------------------------

SCALARS: dict[str, Any] = {
    "": None,
    "~": None,
    "null": None,
    "nUll": "nUll",
    "true": True,
    "False": False,
    "yes": "yes",
    "no": "no",
    "on": "on",
    "off": "off",
    "y": "y",
    "0": 0,
    "-17": -17,
    "+3": 3,
    "0777": "0777",
    "0o17": 15,
    "0xff": 255,
    "0b11": "0b11",
    "1_000": "1_000",
    "1:30": "1:30",
    "12:30:45": "12:30:45",
    "1.50": Decimal("1.50"),
    ".5": Decimal("0.5"),
    "1.": Decimal(1),
    "1e3": Decimal(1000),
    "1E-3": Decimal("0.001"),
    "1e999999": "1e999999",
    ".inf": Decimal("Infinity"),
    "-.inf": Decimal("-Infinity"),
    "inf": "inf",
    "2026-11-22": "2026-11-22",
    "1.2.3": "1.2.3",
    "=": "=",
    "9" * 40: int("9" * 40),
    "9" * 41: Decimal("9" * 41),
    "9" * 5000: "9" * 5000,
}


@each(("text", "value"), SCALARS.items())
def test_an_unquoted_scalar_follows_the_yaml_core_schema(text: str, value: Any) -> None:
    found = resolve(text)
    assert found == value
    assert type(found) is type(value)


def test_nan_is_read_as_a_decimal_nan() -> None:
    assert resolve(".nan").is_nan()


def test_quoted_and_block_scalars_are_text() -> None:
    assert parsed("a: '1'\nb: \"true\"\nc: |\n  null\nd: >-\n  1\n").root == {
        "a": "1",
        "b": "true",
        "c": "null\n",
        "d": "1",
    }


def test_keys_are_always_text() -> None:
    assert parsed("1: a\ntrue: b\n").root == {"1": "a", "true": "b"}


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**39), 10**39) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_like)
def test_the_output_of_another_yaml_writer_is_read_with_positions(value: Any) -> None:
    text = yaml.safe_dump(value, allow_unicode=True).replace("${", "$(")
    expected = yaml.safe_load(text)
    document = parsed(text)
    assert document.root == expected
    assert set(document.values) == set(paths(expected))
    lines = text.splitlines() or [""]
    assert all(1 <= line <= len(lines) + 1 and column >= 1 for line, column in document.values.values())


def paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for name, inner in items for found in paths(inner, (*path, name)))]


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused_with_a_position(content: bytes) -> None:
    try:
        document = parsed(content)
    except ConfigError as error:
        found = error.problems
    else:
        found = ()
        assert () in document.values
    assert all(problem.line >= 1 and problem.column >= 1 for problem in found)


# --- positions ---------------------------------------------------------------------------------------------


def test_positions_of_keys_and_values_count_from_one() -> None:
    document = parsed("# c\na:\n  - b: é\n    cc:  [1, 2]\n")
    assert document.keys["a", 0, "cc"] == (4, 5)
    assert document.values["a", 0, "b"] == (3, 8)
    assert document.values["a", 0, "cc", 1] == (4, 14)
    assert document.position(("a", 0, "nowhere", 7)) == (3, 5)


def test_a_byte_order_mark_is_ignored() -> None:
    assert parsed(b"\xef\xbb\xbfa: 1\n").root == {"a": 1}


def test_an_alias_has_its_anchors_value_and_its_own_position() -> None:
    document = parsed("a: &x {b: 1}\nc: *x\n")
    assert document.root == {"a": {"b": 1}, "c": {"b": 1}}
    assert document.values["c", "b"] == (1, 11)


# --- refusals ----------------------------------------------------------------------------------------------

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
)

TAGS = "text that begins with ! must be in quotes; tags (`!...`) are not allowed"
REFUSED = {
    b"": "1:1: the file is empty; it needs at least `models:`",
    b"\n# nothing\n---\n...\n": None,
    b"a: 1\n---\nb: 2\n": "2:1: only one document is allowed: nothing may follow `---`",
    b"a: b: c": f"1:5: not YAML: {SENTENCES[0][1]}",
    b"a: [1, 2": '2:1: not YAML: a [ is open here: a "," or the closing ] is missing',
    b"a: 'open": "1:9: not YAML: a quote is opened and not closed before the file ends",
    b"a:\n\tb: 1": "2:1: not YAML: indented with a tab; use spaces",
    b"a: {b: ${C}}": '1:9: not YAML: inside { } and [ ], "${...}" must be quoted',
    b"a: @x": "1:4: not YAML: a value cannot begin with this character; put it in quotes",
    b"a: 1\nb: \x00": "2:4: character U+0000 is not allowed",
    b"a: \x1b[0m": "1:4: character U+001B is not allowed",
    b"a: \xe9": "1:4: not UTF-8",
    "a: é\nb: ".encode() + b"\xff": "2:4: not UTF-8",
    "a: 1".encode("utf-16"): "1:1: the file is UTF-16; save it as UTF-8",
    "a: 1".encode("utf-16-le"): "1:2: character U+0000 is not allowed",
    b"a: &x [*x]": "1:8: unknown anchor; text that begins with * must be quoted",
    b"a: *secret": "1:4: unknown anchor; text that begins with * must be quoted",
    b"[" * 100_000: "1:34: nested too deeply",
    b"- " * 100_000: "1:67: nested too deeply",
    b"a: " + b"x" * 1024 * 1024: "1:1: the file is larger than 1 MiB",
    BOMB.encode(): "5:5: too many values",
}


@each(("content", "message"), REFUSED.items())
def test_invalid_yaml_is_refused_with_position_and_reason(content: bytes, message: str | None) -> None:
    if message is None:
        assert parsed(content).root is None
    else:
        assert refusal(content) == message


@pytest.mark.parametrize("content", [BOMB.encode(), b"[" * 1_000_000, b"- " * 500_000])
def test_an_alias_bomb_is_refused_before_it_is_expanded(content: bytes) -> None:
    started = time.process_time()
    refusal(content)
    assert time.process_time() - started < 5


TAGGED = ["!!python/object/apply:os.system ['true']", "!!str 1", "!x 1", "! 1", "!!binary aGk=", "!!set {a}"]


@pytest.mark.parametrize("tagged", TAGGED)
def test_tags_are_refused(tagged: str) -> None:
    assert parsed(f"a: {tagged}\n").problems == (((1, 4), TAGS),)


def test_every_duplicate_key_is_reported_with_the_line_of_the_first() -> None:
    document = parsed("a: 1\nb: {c: 1, c: 2}\na: 3\n'a': 4\n")
    assert document.problems == (
        ((2, 11), 'duplicate key "c"; the first is on line 2'),
        ((3, 1), 'duplicate key "a"; the first is on line 1'),
        ((4, 1), 'duplicate key "a"; the first is on line 1'),
    )


def test_a_key_that_is_not_a_scalar_is_refused() -> None:
    assert parsed("? [a]\n: 1\n").problems == (
        ((1, 3), "a key must be text: a list or a mapping cannot be one"),
    )


# --- substitution ------------------------------------------------------------------------------------------


def test_a_variable_cannot_change_the_structure_of_the_file() -> None:
    document = parsed("a: ${X}\nb: '${X}'\n", X="1\nc: {d: *e} # ")
    assert document.root == {"a": "1\nc: {d: *e} # ", "b": "1\nc: {d: *e} # "}


def test_only_an_unquoted_scalar_becomes_null() -> None:
    assert parsed("a: ${X:-}\nb: '${X:-}'\nc: ${Y}\n", Y="~").root == {"a": None, "b": "", "c": None}


def test_a_substituted_number_can_be_read_as_text_or_number() -> None:
    found = parsed("a: ${X}\n", X="0.10").root["a"]
    assert isinstance(found, Substituted)
    assert found == "0.10"
    assert plain(found) == Decimal("0.10")


def test_substituted_values_are_not_substituted_again() -> None:
    assert parsed("a: ${X}${X}-${Y:-d}\n", X="${Y}").root == {"a": "${Y}${Y}-d"}


def test_an_empty_variable_is_unset() -> None:
    document = parsed("a: ${X}\nb: ${X:-d}\n", X="")
    assert document.missing == {("a",): "X is not set"}
    assert document.root == {"a": None, "b": "d"}


def test_a_variable_that_is_not_utf_8_is_unset() -> None:
    assert parsed("a: ${X}\nb: ${Y}\n", X="\udcff", Y="\u00e9").missing == {("a",): "X is not UTF-8"}


def test_a_doubled_dollar_escapes_a_reference() -> None:
    document = parsed("a: $${X} costs $5 and $$\n")
    assert document.root == {"a": "${X} costs $5 and $$"}
    assert document.missing == {}


@each("text", ["${}", "${A", "${1A}", "${A-b}", "${A:b}", "${A:-${B}}", "${file:}", "${ A }"])
def test_a_malformed_reference_is_an_error(text: str) -> None:
    assert expand(text, lookup_in({"A": "x"})).malformed


def test_references_of_a_file_are_collected() -> None:
    text = b"a: ${A}\n# ${B:-x} ${file:/run/x} $${C} ${bad-one}\nb: ${A}"
    assert references(text) == ("A", "B", "file:/run/x")


@given(st.text(), st.text())
def test_text_without_references_is_unchanged(text: str, value: str) -> None:
    text = text.replace("${", "")
    assert expand(text, lookup_in({"A": value})).text == text
