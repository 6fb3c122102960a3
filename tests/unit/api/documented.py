"""What the OpenAPI document says of an answer, to hold the answers of all tests against it."""

import functools
import re
from collections.abc import Mapping
from typing import Any

import httpx

from controlplane.api.app import describe

OURS = 500
"""Tests that break something on purpose see it; no document promises it."""


@functools.cache
def document() -> Mapping[str, Any]:
    return describe()


@functools.cache
def _patterns() -> list[tuple[re.Pattern[str], Mapping[str, Any]]]:
    # What is written out goes first: /v1/jobs/events is no job.
    paths = sorted(document()["paths"].items(), key=lambda item: (item[0].count("{"), -len(item[0])))
    return [
        (re.compile(re.sub(r"\{(\w+)\}", lambda part: ".+" if part[1] == "node" else "[^/]+", path)), methods)
        for path, methods in paths
    ]


def operation_of(method: str, path: str) -> Mapping[str, Any] | None:
    """Return what the document says of a request, None where it is of no documented operation."""
    for pattern, methods in _patterns():
        if pattern.fullmatch(path):
            found: Mapping[str, Any] | None = methods.get(method.lower())
            return found
    return None


async def check_documented(response: httpx.Response) -> None:
    """Fail where an answer is none that the document names."""
    operation = operation_of(response.request.method, response.request.url.path)
    if operation is None or response.status_code == OURS:
        return
    known = operation["responses"]
    what = f"{response.request.method} {response.request.url.path} answered {response.status_code}"
    assert str(response.status_code) in known, f"{what}, which {operation['operationId']} does not document"
    if response.status_code >= 400 and "$ref" in known[str(response.status_code)]:
        assert response.headers["Content-Type"] == "application/problem+json", what
