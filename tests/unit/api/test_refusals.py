"""Every refusal is a problem as RFC 9457 describes it, whatever went wrong and wherever."""

import http
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from controlplane.api.refusals import KINDS, OVER_QUOTA, STATUS, add_refusals, problem_of
from controlplane.errors import ControlPlaneError, InvalidInputError, InvalidInputsError, NotFoundError, OverQuotaError

EXAMPLES: dict[str, ControlPlaneError] = {
    "InvalidInputError": InvalidInputsError([InvalidInputError("a", "is odd", "make it even")] * 2),
    "NotFoundError": NotFoundError("service", "x"),
    "OverQuotaError": OverQuotaError("max_waiting", "too many", "wait"),
}


@pytest.mark.parametrize("kind", STATUS, ids=lambda kind: str(kind.__name__))
def test_every_error_has_a_type_a_title_and_the_status_it_is_sent_with(kind: type[ControlPlaneError]) -> None:
    error = EXAMPLES.get(kind.__name__) or kind("one line")
    view = problem_of(error)
    assert view.status == STATUS[kind]
    assert view.type == f"https://hueshift.dev/problems/{view.code}"
    assert view.title
    assert view.detail == str(error)


def test_codes_are_one_to_a_type() -> None:
    kinds = {*KINDS.values(), OVER_QUOTA}
    assert len({kind.code for kind in kinds}) == len(kinds) == len({kind.title for kind in kinds})


def test_an_error_nobody_gave_a_status_is_our_fault() -> None:
    class OddError(ControlPlaneError):
        """Nobody knows it."""

    assert problem_of(OddError("odd")).model_dump(exclude={"detail"}) == {
        "type": "https://hueshift.dev/problems/internal",
        "title": "A fault of the control plane",
        "status": 500,
        "code": "internal",
        "field": None,
        "fix": None,
        "problems": [],
    }


async def test_each_way_to_fail_answers_a_problem() -> None:
    app = FastAPI()
    add_refusals(app)

    @app.get("/crash")
    async def crash(number: int = 0) -> int:
        return 1 // number

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://hueshift.test") as client:
        seen: list[tuple[httpx.Response, int, str]] = [
            (await client.get("/crash"), 500, "internal"),
            (await client.get("/crash?number=x"), 422, "invalid_input"),
            (await client.get("/nowhere"), 404, "not_found"),
            (await client.post("/crash"), 405, "method_not_allowed"),
        ]
    for answer, status, code in seen:
        body: dict[str, Any] = answer.json()
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert (answer.status_code, body["status"], body["code"]) == (status, status, code)
        assert http.HTTPStatus(status)
        assert "\n" not in body["detail"]
