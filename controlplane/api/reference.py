"""The OpenAPI document, complete: everything that FastAPI does not see in a route is added here, in one place.

FastAPI knows parameters, bodies and shapes. Added are names that stay (``startRollout``), sentences from docstrings,
every status that an operation can answer with its problem, headers, and examples; what cannot be derived from a route
stands in `outcomes.py`, examples in ``examples.json``. Clients are generated from this document, so the committed copy
(docs/openapi.json) shows in review what changes for them.
"""

import functools
import http
import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, iter_route_contexts

from controlplane.api.answering import ProblemView
from controlplane.api.outcomes import CONTENT, HEADERS, OWN_KEYS, PLACES, REFUSALS, TAGS
from controlplane.api.permissions import RULES, Scope
from controlplane.api.refusals import KINDS, PROBLEM_TYPE, TYPE_PREFIX
from controlplane.api.routing import ApiRoute

Json: TypeAlias = dict[str, Any]

TITLE: Final = "Hueshift"
SUMMARY: Final = "Moves live traffic from one model version to the next, on evidence."
VERSION: Final = "1"
DESCRIPTION: Final = (
    "Every request but the probes needs an API key (`Authorization: Bearer hs_...`). What is refused is answered with"
    " problem details (RFC 9457): `detail` is one line that names the field and the fix, `code` is for programs. Lists"
    " come in pages: send `next` of one as `cursor` of the following. A POST or PUT with `Idempotency-Key` may be sent"
    " again for a day: it is done once, and answered alike."
)
_FORMAT: Final = "application/json"
_METHODS: Final = frozenset({"get", "put", "post", "delete"})
_DETAILS: Final[Mapping[int, str]] = {
    400: "body: cannot be read; send valid JSON in UTF-8",
    401: "no API key was sent; send the header Authorization: Bearer hs_...",
    403: "key ada has only the role viewer on 'colorize', and this takes operator; an admin gives it with: "
    "hueshift keys grant ada --role operator --service colorize",
    404: "service 'colourise' does not exist (known: colorize)",
    409: "rollout colorize-1 of 'colorize' is active; wait until it has ended or abort it",
    410: "job fe8134dc67624788a0cd742ad84e8b86 is done, but its pictures were removed on 2026-11-27",
    412: "If-Match: service 'colorize' has changed since you read it (it is '8' now); read it again and decide anew",
    413: "the body is larger than 1024 KiB; send less",
    422: "limit: '0' is refused; input should be greater than or equal to 1",
    429: "max_waiting: ada has 100 jobs that wait or run, and may have 100; wait until some have ended",
    503: "the database does not answer; check that it runs",
}


def name_operation(route: APIRoute) -> str:
    """Return the operation's id: the route's function in camel case."""
    first, *rest = route.name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def add_reference(app: FastAPI) -> None:
    """Let *app* answer the complete document at /openapi.json."""
    app.openapi = functools.cache(lambda: complete(app))  # type: ignore[method-assign] # FastAPI's own way


def complete(app: FastAPI) -> Json:
    """Return the document of all routes of *app*."""
    document = get_openapi(
        title=TITLE,
        summary=SUMMARY,
        description=DESCRIPTION,
        version=VERSION,
        routes=app.routes,
        tags=[{"name": name, "description": words} for name, words in TAGS.items()],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    examples = load_examples()
    used: set[int] = set()
    for path, method, route in routes_of(app):
        operation = document["paths"][path][method]
        used |= _complete_one(operation, route, method, examples.get(operation["operationId"], {}))
    components = document["components"]
    components["responses"] = {f"Problem{status}": _problem(status) for status in sorted(used)}
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    components["schemas"] |= _problem_schemas()
    return document


@functools.cache
def load_examples() -> Mapping[str, Json]:
    """Return an example of each operation's request and answer, by operation id."""
    text = (pathlib.Path(__file__).parent / "examples.json").read_text(encoding="utf-8")
    examples: Mapping[str, Json] = json.loads(text)
    return examples


def routes_of(app: FastAPI) -> Iterator[tuple[str, str, APIRoute]]:
    """Return path, method (in lower case) and route of all that is documented."""
    for found in iter_route_contexts(app.routes):
        route = found.original_route
        if isinstance(route, APIRoute) and route.include_in_schema and found.path_format is not None:
            for method in sorted(route.methods or ()):
                if method.lower() in _METHODS:
                    yield found.path_format, method.lower(), route


def refusals_of(operation: Json, route: APIRoute, method: str) -> set[int]:
    """Return the statuses with which an operation may say no: those that its shape tells, and those written down."""
    name = operation["operationId"]
    found = set(REFUSALS.get(name, ()))
    parameters = {each["name"].lower() for each in operation.get("parameters", ())}
    if operation.get("security"):
        found |= {401, 403, 503}  # 403 to whoever is known and has no role, or asks from another site's page
    rule = RULES.get(f"{method.upper()} {route.path}")
    if rule is not None and rule.scope in {Scope.NAME, Scope.ROLLOUT}:
        found.add(404)
    if parameters or "requestBody" in operation:
        found.add(422)
    if "requestBody" in operation:
        found |= {400, 413} if _FORMAT in operation["requestBody"]["content"] else {413}
    if "if-match" in parameters:
        found.add(412)
    if isinstance(route, ApiRoute) and route.is_repeatable and "idempotency-key" in parameters:
        found |= {409, 413}  # the body is read, wanted or not: it is part of what must not differ
    return found


def _complete_one(operation: Json, route: APIRoute, method: str, examples: Json) -> set[int]:
    name = operation["operationId"]
    operation["summary"], operation["description"] = _words(route)
    operation["responses"].pop("422", None)
    refusals = refusals_of(operation, route, method)
    _complete_parameters(operation, route, method)
    if "requestBody" in operation and "request" in examples:
        operation["requestBody"]["content"][_FORMAT]["example"] = examples["request"]
    success = str(route.status_code or http.HTTPStatus.OK.value)
    answer = operation["responses"].setdefault(success, {})
    answer["description"] = examples.get("says") or http.HTTPStatus(int(success)).phrase
    if name in CONTENT:
        answer["content"] = {kind: dict(content) for kind, content in CONTENT[name].items()}
    for content in answer.get("content", {}).values():
        if "response" in examples:
            content["example"] = examples["response"]
    headers = dict(HEADERS.get(name, {}))
    if isinstance(route, ApiRoute) and _FORMAT in answer.get("content", {}) and _is_tagged(operation, method):
        headers["ETag"] = "What was read or written, to be sent as If-Match or If-None-Match."
        if method == "get":
            operation["responses"]["304"] = {"description": "You have this already.", "headers": _headers(headers)}
    if headers:
        answer["headers"] = _headers(headers)
    for status in sorted(refusals):
        operation["responses"].setdefault(str(status), {"$ref": f"#/components/responses/Problem{status}"})
    operation["responses"] = dict(sorted(operation["responses"].items()))
    return refusals


def _is_tagged(operation: Json, method: str) -> bool:
    conditional = any(each["name"] == "If-Match" for each in operation.get("parameters", ()))
    return method == "get" or conditional


def _complete_parameters(operation: Json, route: APIRoute, method: str) -> None:
    """Write headers as HTTP does, give parts of the path an example, and leave out what has no effect."""
    kept = []
    for each in operation.get("parameters", ()):
        if each["in"] == "header":
            each["name"] = _header_name(each["name"])
            is_kept = (isinstance(route, ApiRoute) and route.is_repeatable) or operation["operationId"] in OWN_KEYS
            if each["name"] == "Idempotency-Key" and not is_kept:
                continue  # it has no effect there
        if each["in"] == "path":
            each["example"] = PLACES[each["name"]]
        each["schema"].pop("title", None)
        kept.append(each)
    if method == "get" and isinstance(route, ApiRoute) and _FORMAT in operation["responses"]["200"].get("content", {}):
        words = "An ETag that you have: 304 if it is the newest still."
        kept.append({"name": "If-None-Match", "in": "header", "required": False, "schema": {"type": "string"}})
        kept[-1]["description"] = words
    if kept:
        operation["parameters"] = kept


def _header_name(name: str) -> str:
    return "-".join("ID" if part == "id" else part.capitalize() for part in name.split("-"))


def _words(route: APIRoute) -> tuple[str, str]:
    """Return a route's first sentence as its summary, and all of its docstring."""
    text = re.sub(r"``(.*?)``", r"`\1`", route.description or "")
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
    summary = re.split(r"(?<=[a-z0-9)])[.;:] |\.$", paragraphs[0], maxsplit=1)[0] if paragraphs else ""
    return summary, "\n\n".join(paragraphs)


# -- problems ----------------------------------------------------------------------------------------------------------


def _problem(status: int) -> Json:
    kind = KINDS[status]
    example = {
        "type": TYPE_PREFIX + kind.code,
        "title": kind.title,
        "status": status,
        "detail": _DETAILS[status],
        "code": kind.code,
        "problems": [],
    }
    headers = {401: {"WWW-Authenticate": "Bearer."}, 503: {"Retry-After": "Seconds after which to ask again."}}
    found: Json = {
        "description": kind.title,
        "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemView"}, "example": example}},
    }
    if status == http.HTTPStatus.TOO_MANY_REQUESTS:
        headers[status] = {"Retry-After": "Seconds after which to ask again, where that is known."}
    if status in headers:
        found["headers"] = _headers(headers[status])
    return found


def _headers(described: Mapping[str, str]) -> Json:
    return {name: {"description": words, "schema": {"type": "string"}} for name, words in described.items()}


def _problem_schemas() -> Json:
    schema = ProblemView.model_json_schema(ref_template="#/components/schemas/{model}")
    parts: Json = schema.pop("$defs", {})
    return {**parts, "ProblemView": schema}


def write_document(document: Json) -> str:
    """Write the document as the committed file has it."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
