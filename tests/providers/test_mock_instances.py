"""The mock's instances of JSON Schemas: valid where the schema can be met, and bounded for every schema."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama_proxy.providers.mock.instances import MAX_INSTANCE_BYTES, instance
from codellama_proxy.providers.mock.strings import MAX_MATCH_CHARACTERS, matching
from tests.support.json_schema import fits

MAX_SECONDS = 5.0
"""Of CPU; far above what the bounds allow, for slow machines."""


@pytest.mark.parametrize(
    ("schema", "smallest"),
    [
        ({"type": "object"}, {}),
        ({}, ""),
        ({"properties": {"a": {}}, "required": ["a"]}, {"a": ""}),
        ({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}, {}),
        ({"type": ["null", "integer"]}, 0),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [False, False]),
        ({"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 3}, [1, 2, 2]),
        ({"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "uniqueItems": True}, ["a", "b"]),
        ({"type": "integer", "minimum": 3}, 3),
        ({"type": "integer", "exclusiveMinimum": 3, "multipleOf": 5}, 5),
        ({"type": "integer", "maximum": -3.5}, -4),
        ({"type": "integer", "minimum": -9, "exclusiveMinimum": 2}, 3),
        ({"type": "integer", "maximum": -5, "exclusiveMaximum": 9}, -5),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": True}, 1),
        ({"type": "string", "format": "date"}, "1970-01-01"),
        ({"type": "string", "minLength": 3}, "aaa"),
        ({"type": "string", "pattern": r"^[A-Z]{3}-\d{4}$"}, "AAA-0000"),
        ({"enum": ["celsius", "kelvin"]}, "celsius"),
        ({"anyOf": [{"type": "object", "required": ["a"]}, {"type": "null"}]}, None),
        ({"oneOf": [False, {"const": "x"}]}, "x"),
        ({"allOf": [{"minimum": 2}, {"minimum": 5}], "type": "integer"}, 5),
    ],
)
def test_an_instance_is_small(schema: Any, smallest: Any) -> None:
    assert instance(schema) == smallest
    assert type(instance(schema)) is type(smallest)


def test_a_recursive_schema_has_a_finite_instance() -> None:
    node = {
        "type": "object",
        "properties": {
            "value": {"type": "integer"},
            "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
        },
        "required": ["value", "next"],
    }
    assert instance({"$ref": "#/$defs/node", "$defs": {"node": node}}) == {"value": 0, "next": None}


DEFINITIONS = {"leaf": {"type": "integer", "minimum": 2}, "names": {"type": "array", "minItems": 1}}


def nodes(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    objects = st.dictionaries(st.sampled_from("abcd"), inner, max_size=3).flatmap(
        lambda own: st.fixed_dictionaries(
            {
                "type": st.just("object"),
                "properties": st.just(own),
                "required": st.lists(st.sampled_from(sorted(own)), unique=True) if own else st.just([]),
            }
        )
    )
    arrays = st.fixed_dictionaries(
        {"type": st.just("array"), "items": inner, "minItems": st.integers(0, 3)},
        optional={"prefixItems": st.lists(inner, max_size=2)},
    )
    choices = st.lists(inner, min_size=1, max_size=3).map(lambda some: {"anyOf": some})
    return st.one_of(objects, arrays, choices)


LEAVES = st.one_of(
    st.sampled_from(["string", "integer", "number", "boolean", "null"]).map(lambda kind: {"type": kind}),
    st.sampled_from(sorted(DEFINITIONS)).map(lambda name: {"$ref": f"#/$defs/{name}"}),
    st.lists(st.sampled_from(["x", 1, None, {"y": 2}]), min_size=1).map(lambda some: {"enum": some}),
    st.integers(0, 9).map(lambda least: {"type": "string", "minLength": least}),
    st.tuples(st.integers(-50, 50), st.integers(3, 9)).map(
        lambda pair: {
            "type": "integer",
            "exclusiveMinimum": pair[0],
            "maximum": pair[0] + pair[1],
            "multipleOf": 3,
        }
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.recursive(LEAVES, nodes, max_leaves=12))
def test_an_instance_is_valid(schema: Any) -> None:
    schema = {**schema, "$defs": DEFINITIONS}
    assert fits(instance(schema), schema)


MANY = list(range(100_000))
CHAIN = {
    f"n{number}": {
        "type": "object",
        "properties": {key: {"$ref": f"#/$defs/n{number + 1}"} for key in "ab"},
        "required": ["a", "b"],
    }
    for number in range(3_000)
}
HOSTILE: Mapping[str, Any] = {
    "a loop": {"$ref": "#"},
    "two in a loop": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    "endless": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    "exponential": {"$ref": "#/$defs/n0", "$defs": CHAIN},
    "many enum values": {"enum": MANY},
    "two large enums": {"allOf": [{"enum": MANY}, {"enum": MANY[::-1]}]},
    "a large const": {"const": "x" * 1_000_000},
    "many items": {"type": "array", "minItems": 10**9},
    "many properties": {"type": "object", "minProperties": 10**12},
    "a long string": {"type": "string", "minLength": 10**9},
    "many required": {"type": "object", "required": [str(number) for number in MANY]},
    "many alternatives": {"anyOf": [{"$ref": "#"}] * 100_000},
    "repeated parts": {
        "$defs": {"a": {"anyOf": [{"required": ["a"]}] * 50_000}},
        "allOf": [{"$ref": "#/$defs/a"}] * 20_000,
    },
    "a long pointer": {"$ref": "#/" + "a/" * 100_000},
    "large numbers": {"type": "integer", "minimum": 1e308, "multipleOf": 5e-324},
    "no number": {"type": "number", "exclusiveMinimum": 1, "exclusiveMaximum": 1},
    "a nested pattern": {"type": "string", "pattern": "(" * 400 + "a" + ")" * 400},
    "a repeated pattern": {"type": "string", "pattern": "((a{999}){999}){999}"},
    "no schema": 5,
    "odd keywords": {"type": {}, "required": {"a": 1}, "properties": [1], "enum": {}, "allOf": 3, "$ref": 1},
    "odd values": {
        "type": [{}],
        "minItems": "5",
        "format": [],
        "pattern": {},
        "minLength": -1,
        "multipleOf": 0,
    },
    "impossible": {"anyOf": [False, False]},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_every_schema_has_a_bounded_instance(name: str) -> None:
    started = time.process_time()
    found = orjson.dumps(instance(HOSTILE[name]))
    assert time.process_time() - started < MAX_SECONDS
    assert len(found) <= MAX_INSTANCE_BYTES


KEYWORDS = st.sampled_from(
    [
        "type",
        "properties",
        "required",
        "items",
        "enum",
        "const",
        "anyOf",
        "allOf",
        "$ref",
        "pattern",
        "minItems",
        "minLength",
        "minimum",
        "exclusiveMaximum",
        "multipleOf",
        "prefixItems",
        "minProperties",
        "format",
        "a",
    ]
)
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(10**6), 10**6), st.sampled_from(["#", "a", "object", "array"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYWORDS, inner, max_size=4)),
    max_leaves=20,
)


@settings(max_examples=500, deadline=None)
@given(JSON)
def test_any_json_as_a_schema_has_an_instance(schema: Any) -> None:
    assert len(orjson.dumps(instance(schema))) <= MAX_INSTANCE_BYTES


@pytest.mark.parametrize(
    "pattern",
    [
        r"^\d+$",
        r"^(foo|ba[rz])+x?$",
        r"^#[0-9a-fA-F]{6}$",
        r"^\+?[1-9]\d{1,14}$",
        r"^[^\s@]+@[^\s@]+\.[a-z]{2,}$",
        r"^[\w.-]+$",
        r"^(?:\d{1,3}\.){3}\d{1,3}$",
        r"^[^a-z\d]$",
        r"^a{2,}?b*$",
        r"^.{3}\t\/$",
    ],
)
@pytest.mark.parametrize("least", [0, 9])
def test_a_string_matches_its_pattern(pattern: str, least: int) -> None:
    found = matching(pattern, least)
    assert found is not None
    assert re.search(pattern, found)


def test_a_match_is_as_long_as_wanted_where_the_pattern_allows_it() -> None:
    assert matching(r"^[a-z]+$", 12) == "a" * 12
    assert matching(r"^x{2,5}$", 12) == "x" * 5


@pytest.mark.parametrize("pattern", [r"(?=a)", r"(a)\1", "(", "[a", "a{", "*", "\\", "a" * 2_000, r"[^\D]"])
def test_an_unsupported_pattern_has_no_match(pattern: str) -> None:
    assert matching(pattern) is None


@settings(max_examples=500, deadline=None)
@given(st.text("ab\\d[](){}|*+?^$.-,19", max_size=20))
def test_any_pattern_is_read(pattern: str) -> None:
    assert len(matching(pattern) or "") <= MAX_MATCH_CHARACTERS
