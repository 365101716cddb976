"""/openapi.json: it describes the routes, the errors and the parameters that there are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from codellama_proxy.core.errors import CODES
from codellama_proxy.openai_format.parameters import (
    CHAT_PARAMETERS,
    COMPLETION_PARAMETERS,
    EMBEDDING_PARAMETERS,
)
from codellama_proxy.store.key_fields import FIELDS
from codellama_proxy.web.openapi.operations import OPERATIONS
from tests.support.cases import each
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.web.test_routes import MATRIX, OPEN, ROUTES, without_prefix


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    return module_proxy(config({"name": "plain", "provider": "mock"}))


@pytest.fixture(scope="module")
def document(served: Proxy) -> Any:
    answer = served.client.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert served.client.get("/v1/openapi.json").content == answer.content
    return answer.json()


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def inner(value: Any) -> Iterator[Any]:
    """Every object in the document."""
    if isinstance(value, dict):
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from inner(one)


def test_every_route_is_described_and_nothing_else(document: Any) -> None:
    shown = {(method, re.sub(r":\w+\}", "}", path)) for method, path in ROUTES if method != "HEAD"}
    assert {(method, path) for method, path, _ in operations(document)} == shown
    assert OPERATIONS.keys() == {(method, without_prefix(path)) for method, path in shown}


def test_the_document_is_well_formed(document: Any) -> None:
    assert document["openapi"] == "3.1.0"
    assert document["info"].keys() >= {"title", "version"}
    assert document.keys() <= {"openapi", "info", "servers", "tags", "paths", "components"}
    tags = {tag["name"] for tag in document["tags"]}
    ids = []
    for _, path, operation in operations(document):
        ids.append(operation["operationId"])
        assert set(operation["tags"]) <= tags
        assert operation["summary"].endswith(".")
        assert operation["responses"]
        assert {name for one in operation["security"] for name in one} <= document["components"][
            "securitySchemes"
        ].keys()
        given = [(one["in"], one["name"]) for one in operation.get("parameters", ())]
        assert len(set(given)) == len(given)
        assert {name for place, name in given if place == "path"} == set(re.findall(r"\{(\w+)\}", path))
    assert len(set(ids)) == len(ids)


def test_every_reference_has_a_target(document: Any) -> None:
    references = [one["$ref"] for one in inner(document) if "$ref" in one]
    assert references
    for reference in references:
        found = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        assert found


def test_access_is_that_of_the_routes(document: Any) -> None:
    for method, path, operation in operations(document):
        admits = MATRIX[
            method,
            next(p for m, p in MATRIX if (m, re.sub(r":\w+\}", "}", p)) == (method, without_prefix(path))),
        ]
        assert (operation["security"] == []) == (admits == OPEN), path
        virtual = any("key" in one for one in operation["security"])
        assert virtual == (admits["virtual"] is None and admits != OPEN), path


def test_every_error_is_described(document: Any) -> None:
    schema = document["components"]["schemas"]["Error"]["properties"]["error"]
    assert set(schema["properties"]["code"]["enum"]) == CODES.keys()
    for code, (status, kind, _) in CODES.items():
        assert code in document["components"]["responses"][str(status)]["description"]
        assert kind in schema["properties"]["type"]["enum"]


def test_every_parameter_is_described(document: Any) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["ChatCompletionRequest"]["properties"].keys() == CHAT_PARAMETERS.keys()
    assert schemas["CompletionRequest"]["properties"].keys() == COMPLETION_PARAMETERS.keys()
    assert schemas["EmbeddingRequest"]["properties"].keys() == EMBEDDING_PARAMETERS.keys()
    assert schemas["KeyFields"]["properties"].keys() == FIELDS.keys()


@each(("method", "path"), [key for key, operation in OPERATIONS.items() if operation.query])
def test_every_query_parameter_is_known_to_its_route(served: Proxy, method: str, path: str) -> None:
    for name in OPERATIONS[method, path].query:
        answer = served.admin(method, path, params={name: "\0"})
        assert "There is no parameter" not in answer.text, name
    unknown = served.admin(method, path, params={"absent": "x"})
    assert unknown.json()["error"]["code"] == "unsupported_parameter"
