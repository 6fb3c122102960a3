"""The OpenAPI document is whole, true to the shapes, and committed; clients are generated from it."""

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from controlplane.api import app as api
from controlplane.api.outcomes import CONTENT, HEADERS, REFUSALS, TAGS
from controlplane.api.permissions import OPEN, RULELESS, RULES
from controlplane.api.reference import load_examples, routes_of, write_document
from controlplane.cli.api_page import write_page
from tests.unit.api.documented import document

DOCS = pathlib.Path(__file__).parents[3] / "docs"
JSON = "application/json"


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


ALL = [pytest.param(*each, id=each[2]["operationId"]) for each in operations()]


def takes_a_key(path: str, method: str) -> bool:
    route = f"{method.upper()} {path}"
    return path.startswith("/v1") and route not in RULELESS and RULES.get(route) is not OPEN


def bare() -> FastAPI:
    app = api._bare()
    api._add_routes(app)
    return app


def test_every_route_is_documented_once_under_a_name_of_its_own() -> None:
    listed = {(path, method) for path, method, _ in operations()}
    assert listed == {(path, method) for path, method, _ in routes_of(bare())}
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(names) == len(set(names))
    assert [name for name in names if not re.fullmatch(r"[a-z]+([A-Z][a-z]+)+", name)] == [], "a verb and a noun"


def test_nothing_is_written_of_operations_that_are_gone() -> None:
    names = {operation["operationId"] for _, _, operation in operations()}
    assert {*REFUSALS, *CONTENT, *HEADERS, *load_examples()} - names == set()
    assert {tag for _, _, operation in operations() for tag in operation["tags"]} == set(TAGS)


@pytest.mark.parametrize(("path", "method", "operation"), ALL)
def test_an_operation_says_what_it_does_takes_and_answers(path: str, method: str, operation: dict[str, Any]) -> None:
    assert len(operation["summary"]) > 8
    assert operation["description"].startswith(operation["summary"])
    assert bool(operation.get("security")) == takes_a_key(path, method)
    assert [each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"] == re.findall(
        r"\{(\w+)\}", path
    )
    for parameter in operation.get("parameters", ()):
        assert "example" in parameter or parameter["in"] != "path", parameter["name"]
    body = operation.get("requestBody", {}).get("content", {})
    assert JSON not in body or "example" in body[JSON]
    for status, response in operation["responses"].items():
        assert int(status) in range(200, 505)
        if int(status) < 300:
            contents = response.get("content", {})
            assert contents or status == "204"
            for kind, content in contents.items():
                assert "example" in content or kind.startswith("image/"), f"{method} {path} {status} {kind}"
        elif "$ref" in response:
            assert response["$ref"] == f"#/components/responses/Problem{status}"
        else:
            assert (path, status) == ("/readyz", "503") or status == "304"


@pytest.mark.parametrize("status", sorted({int(s) for *_, o in operations() for s in o["responses"] if int(s) >= 400}))
def test_every_refusal_has_a_problem_with_an_example(status: int) -> None:
    response = document()["components"]["responses"][f"Problem{status}"]
    content = response["content"]["application/problem+json"]
    assert content["schema"] == {"$ref": "#/components/schemas/ProblemView"}
    assert content["example"]["status"] == status
    assert ("Retry-After" in response.get("headers", {})) == (status in {429, 503})


def test_every_reference_leads_somewhere() -> None:
    text = json.dumps(document())
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', text)):
        here: Any = document()
        for part in reference.split("/"):
            here = here[part]


def routes() -> Iterator[tuple[str, APIRoute, dict[str, Any]]]:
    for path, method, route in routes_of(bare()):
        operation = document()["paths"][path][method]
        yield operation["operationId"], route, load_examples().get(operation["operationId"], {})


@pytest.mark.parametrize(("route", "example"), [pytest.param(r, e, id=n) for n, r, e in routes() if e])
def test_examples_are_what_is_sent_and_answered(route: APIRoute, example: dict[str, Any]) -> None:
    if route.response_model is not None and not isinstance(example["response"], str):
        shape: TypeAdapter[Any] = TypeAdapter(route.response_model)
        read = shape.validate_json(json.dumps(example["response"]))
        assert (
            json.loads(shape.dump_json(read, exclude_defaults=route.response_model_exclude_defaults))
            == (example["response"])
        )
    if "request" in example and route.body_field is not None:
        body: TypeAdapter[Any] = TypeAdapter(route.body_field.field_info.annotation or object)
        body.validate_json(json.dumps(example["request"]))


def test_headers_that_matter_are_documented() -> None:
    paths = document()["paths"]
    apply = paths["/v1/services/{name}"]["put"]
    assert {"Idempotency-Key", "If-Match", "If-None-Match"} <= {each["name"] for each in apply["parameters"]}
    assert "ETag" in apply["responses"]["200"]["headers"]
    assert "ETag" in paths["/v1/services"]["get"]["responses"]["200"]["headers"]
    assert "Location" in paths["/v1/jobs"]["post"]["responses"]["202"]["headers"]
    assert "Idempotency-Key" not in {each["name"] for each in paths["/v1/jobs/{job}"]["delete"]["parameters"]}


@pytest.mark.parametrize(
    ("name", "text", "command"),
    [
        ("openapi.json", write_document(dict(document())), "hueshift openapi"),
        ("api.md", write_page(document()), "hueshift openapi --markdown"),
    ],
    ids=["openapi.json", "api.md"],
)
def test_the_committed_reference_is_this_versions(name: str, text: str, command: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == text, f"write it anew: {command} > docs/{name}"
