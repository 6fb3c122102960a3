"""Who may ask: keys on everything that changes something, limits on what is sent, and no secrets in any answer."""

import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import structlog

from controlplane.api.refusals import STATUS
from controlplane.auth.keys import KeyRing
from controlplane.errors import UnavailableError
from tests.unit.api.test_jobs import KIND
from tests.unit.api.test_services import document
from tests.unit.api.world import World

MAKES_KEYS = "/v1/keys"
MUTATIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("PUT", "/v1/services/colorize", document()),
    ("DELETE", "/v1/services/elsewhere", {}),
    ("POST", "/v1/documents", {"documents": [document()]}),
    ("PUT", "/v1/services/colorize/split", {"weights": {"v1": "100%"}}),
    ("POST", "/v1/services/colorize/rollouts", {"to": "v2"}),
    *(("POST", f"/v1/services/colorize/rollout/{verb}", {}) for verb in ("pause", "resume", "promote", "abort")),
    *(("POST", f"/v1/services/colorize/rollout/{verb}", {}) for verb in ("undo", "retry")),
    ("POST", "/v1/services/colorize/queue/colorize-8/cancel", {}),
    ("POST", "/v1/services/colorize/freeze", {"until": "2099-01-01T00:00:00Z"}),
    ("POST", "/v1/services/colorize/unfreeze", {}),
    ("POST", "/v1/freeze", {"until": "2099-01-01T00:00:00Z"}),
    ("POST", "/v1/unfreeze", {}),
    ("POST", "/v1/rollouts/abort", {}),
    ("PUT", "/v1/job-kinds/person", {}),
    ("PUT", "/v1/job-owners/ada", {}),
    ("DELETE", "/v1/job-owners/ada", {}),
    ("POST", "/v1/jobs", {"workflow_type": "person.json"}),
    ("POST", "/v1/jobs/1/cancel", {}),
    ("DELETE", "/v1/jobs/1", {}),
    ("PUT", "/v1/job-callbacks/shop", {"callback": "shop", "address": "https://shop.example.org/hooks"}),
    ("POST", "/v1/job-callbacks/shop/secret", {}),
    ("POST", "/v1/job-callbacks/shop/test", {}),
    ("DELETE", "/v1/job-callbacks/shop", {}),
    ("POST", "/v1/jobs/1/retry", {}),
    ("PUT", "/v1/job-drains", {"on": True}),
    ("POST", MAKES_KEYS, {"name": "bob", "grants": []}),
    ("PUT", "/v1/keys/ada/grants", {"grants": [{"role": "admin"}]}),
    ("DELETE", "/v1/keys/bob", {}),
    ("DELETE", "/v1/session", {}),
    ("POST", "/v1/shares", {"service": "nowhere", "expires_in": "1h"}),
    ("DELETE", "/v1/shares/1", {}),
]
READS = [
    "/v1/services",
    "/v1/services/colorize",
    "/v1/services/colorize/document",
    "/v1/documents",
    "/v1/services/colorize/status",
    "/v1/services/colorize/history",
    "/v1/services/colorize/events",
    "/v1/services/colorize/series",
    "/v1/services/colorize/rollouts",
    "/v1/services/colorize/queue",
    "/v1/freezes",
    "/v1/proxies",
    "/v1/job-kinds",
    "/v1/job-kinds/person",
    "/v1/job-figures",
    "/v1/job-drains",
]
PRIVATE = [
    "/v1/jobs",
    "/v1/jobs/events",
    *(f"/v1/jobs/1{what}" for what in ("", "/result", "/photo", "/events", "/attempts")),
    "/v1/job-queues",
    "/v1/job-owners",
    "/v1/job-owners/ada",
    "/v1/job-callbacks",
    "/v1/job-callbacks/shop",
    "/v1/keys",
    "/v1/audit",
    "/v1/session",
    "/v1/shares",
]
OPEN = ["/healthz", "/readyz", "/metrics", "/v1/schemas", "/v1/schemas/service.json"]


@pytest.mark.parametrize(
    "header", [None, "Bearer", "Bearer hs_" + "0" * 64, "Bearer x", "Basic YWRhOmFkYQ==", "hs_" + "0" * 64]
)
async def test_nothing_is_changed_without_a_valid_key(world: World, header: str | None) -> None:
    make_public(world)
    await world.declare()
    before = await world.store.history("colorize")
    async with world.http(None) as http:
        for method, path, body in MUTATIONS:
            answer = await http.request(method, path, json=body, headers={"Authorization": header} if header else {})
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert "API key" in answer.json()["detail"]
    assert await world.store.history("colorize") == before


async def test_reading_needs_a_key_unless_it_is_made_public(world: World) -> None:
    await world.declare()
    async with world.http() as known, world.http(None) as unknown, world.http("hs_wrong") as wrong:
        await known.put("/v1/job-kinds/person", json=KIND)
        for path in READS:
            assert (await unknown.get(path)).status_code == 401
            assert (await known.get(path)).status_code == 200
        make_public(world)
        for path in READS:
            assert (await unknown.get(path)).status_code == 200
            assert (await wrong.get(path)).status_code == 401
        for path in PRIVATE:
            assert (await unknown.get(path)).status_code == 401, "what is somebody's own is never public"
            assert (await wrong.get(path)).status_code == 401


def make_public(world: World) -> None:
    """Do what the setting does."""
    world.app.state.parts = dataclasses.replace(world.app.state.parts, public_reads=True)


@pytest.mark.parametrize("path", OPEN)
async def test_probes_and_metrics_need_no_key(world: World, path: str) -> None:
    async with world.http(None) as http:
        assert (await http.get(path)).status_code == 200


@pytest.mark.parametrize(
    "path", ["/v1/services", "/v1/nowhere", "/openapi.json", "/metrics", "/share/x", "/login/oidc"]
)
async def test_no_answer_is_a_page_that_runs_anything(http: httpx.AsyncClient, path: str) -> None:
    headers = (await http.get(path)).headers
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


async def test_a_revoked_key_opens_nothing(world: World, http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/services")).status_code == 200
    await KeyRing(store=world.store, clock=world.clock).revoke("ada")
    assert (await http.get("/v1/services")).status_code == 401


async def test_keys_appear_in_no_answer_no_log_and_no_metric(world: World) -> None:
    await world.declare()
    seen = ""
    with structlog.testing.capture_logs() as logs:
        for key in (world.key, "hs_" + "f" * 64):
            async with world.http(key) as http:
                for method, path, body in MUTATIONS:
                    answer = await http.request(method, path, json=body)
                    seen += json.dumps(dict(answer.headers)) + ("" if path == MAKES_KEYS else answer.text)
                seen += (await http.get("/v1/services/colorize/status")).text
                seen += (await http.get("/metrics")).text
    seen += json.dumps(logs, default=str)
    assert logs
    assert "hs_" not in seen.replace("Bearer hs_...", "")


async def test_only_digests_are_stored(world: World) -> None:
    (key,) = await world.store.list_keys()
    assert world.key not in repr(key)
    assert world.key.startswith(key.prefix)
    assert len(key.prefix) < 12


async def test_a_large_body_is_refused_whether_it_says_so_or_not(http: httpx.AsyncClient) -> None:
    large = b'{"service": "' + b"x" * (1024 * 1024) + b'"}'
    announced = await http.put("/v1/services/colorize", content=large, headers={"Content-Type": "application/json"})

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 65536):
            yield large[start : start + 65536]

    streamed = await http.put("/v1/services/colorize", content=chunks(), headers={"Content-Type": "application/json"})
    for answer in (announced, streamed):
        assert answer.status_code == 413
        assert answer.json()["detail"] == "the body is larger than 1024 KiB; send less"


async def test_an_unknown_path_or_method_is_answered_in_the_same_form(http: httpx.AsyncClient) -> None:
    missing = await http.get("/v2/services")
    wrong = await http.delete("/v1/services")
    assert (missing.status_code, wrong.status_code) == (404, 405)
    for answer in (missing, wrong):
        assert "/openapi.json" in answer.json()["detail"]


async def test_a_database_that_does_not_answer_is_503_with_a_time_to_come_back(
    world: World, http: httpx.AsyncClient
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise UnavailableError("the database does not answer; check that it runs")

    world.app.state.parts = _with_store(world, list_services=fail, find_live_key=fail)
    answer = await http.get("/v1/services")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.json()["detail"] == "the database does not answer; check that it runs"
    ready = await http.get("/readyz")
    assert (ready.status_code, ready.json()["missing"]) == (503, ["the database does not answer; check that it runs"])
    assert (await http.get("/healthz")).status_code == 200


async def test_a_bug_is_500_with_one_line_and_goes_to_the_log(world: World, http: httpx.AsyncClient) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret detail")

    world.app.state.parts = _with_store(world, list_services=fail)
    with structlog.testing.capture_logs() as logs:
        answer = await http.get("/v1/services")
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "secret detail" not in answer.text
    assert [entry["event"] for entry in logs] == ["api.request_crashed"]


async def test_readiness_says_what_is_missing(world: World, http: httpx.AsyncClient) -> None:
    world.missing.append("no snapshot is served yet")
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()) == (
        503,
        {"status": "not ready", "missing": ["no snapshot is served yet"]},
    )
    world.missing.clear()
    assert (await http.get("/readyz")).json() == {"status": "ready"}


async def test_requests_are_counted_by_route_not_by_path(world: World, http: httpx.AsyncClient) -> None:
    def counted(status: str) -> float:
        labels = {"method": "GET", "route": "/v1/services/{name}", "status": status}
        return world.registry.get_sample_value("hueshift_api_requests_total", labels) or 0

    await world.declare()
    before = counted("200"), counted("404")
    for name in ("colorize", "a", "b"):
        await http.get(f"/v1/services/{name}")
    await http.get("/nowhere/at/all")
    assert (counted("200"), counted("404")) == (before[0] + 1, before[1] + 2)
    text = (await http.get("/metrics")).text
    assert 'route="unknown"' in text
    assert "nowhere" not in text


def test_every_kind_of_refusal_has_one_status() -> None:
    assert {kind.__name__: status.value for kind, status in STATUS.items()} == {
        "InvalidInputError": 422,
        "NotFoundError": 404,
        "ConflictError": 409,
        "StaleWriteError": 409,
        "PreconditionFailedError": 412,
        "UnavailableError": 503,
        "TooManyError": 429,
        "UnauthorizedError": 401,
        "ForbiddenError": 403,
        "GoneError": 410,
        "OverQuotaError": 429,
    }


async def test_openapi_describes_every_route_its_bodies_and_its_key(world: World) -> None:
    schema = world.app.openapi()
    assert {path for path in schema["paths"] if path.startswith("/v1")} == {
        "/v1/notifications",
        "/v1/notifications/{name}/{target}",
        "/v1/notifications/{name}/{target}/secret",
        "/v1/notifications/{name}/{target}/test",
        "/v1/notifications/{name}/{target}/deliveries",
        "/v1/notifications/{name}/{target}/deliveries/{number}/replay",
        "/v1/services/{name}/rollout/gate",
        "/v1/services",
        "/v1/services/{name}",
        "/v1/services/{name}/document",
        "/v1/documents",
        "/v1/schemas",
        "/v1/schemas/{kind}.json",
        "/v1/services/{name}/split",
        "/v1/services/{name}/explain",
        "/v1/services/{name}/history",
        "/v1/services/{name}/events",
        "/v1/services/{name}/series",
        "/v1/events",
        "/v1/services/{name}/rollouts",
        "/v1/services/{name}/traffic",
        "/v1/services/{name}/status",
        *(f"/v1/services/{{name}}/rollout/{verb}" for verb in ("pause", "resume", "promote", "abort")),
        *(f"/v1/services/{{name}}/{what}" for what in ("rollout/undo", "rollout/retry", "freeze", "unfreeze", "queue")),
        "/v1/services/{name}/queue/{start}/cancel",
        "/v1/freeze",
        "/v1/unfreeze",
        "/v1/freezes",
        "/v1/rollouts/abort",
        "/v1/rollouts/{rollout}",
        "/v1/rollouts/{rollout}/replay",
        "/v1/rollouts/{rollout}/quality",
        "/v1/rollouts/{rollout}/quality/{number}",
        "/v1/rollouts/{rollout}/quality/{number}/pictures/{place}",
        "/v1/proxies",
        "/v1/proxies/{node}",
        "/v1/proxies/{node}/resources",
        "/v1/jobs",
        "/v1/jobs/events",
        "/v1/jobs/{job}",
        *(f"/v1/jobs/{{job}}/{what}" for what in ("result", "photo", "events", "cancel", "retry", "attempts")),
        "/v1/job-figures",
        "/v1/job-queues",
        "/v1/job-drains",
        "/v1/job-kinds",
        "/v1/job-kinds/{kind}",
        "/v1/job-owners",
        "/v1/job-owners/{owner}",
        "/v1/job-callbacks",
        "/v1/job-callbacks/{callback}",
        "/v1/job-callbacks/{callback}/secret",
        "/v1/job-callbacks/{callback}/test",
        "/v1/keys",
        "/v1/keys/{key}",
        "/v1/keys/{key}/grants",
        "/v1/audit",
        "/v1/session",
        "/v1/shares",
        "/v1/shares/{share}",
    }
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            assert operation.get("summary"), (path, method)
            if path.startswith("/v1/schemas"):
                assert "security" not in operation, "an editor has no key"
            elif path.startswith("/v1"):
                if (path, method) != ("/v1/session", "post"):
                    assert operation["security"] == [{"HTTPBearer": []}, {"APIKeyCookie": []}]
                assert "401" in operation["responses"]
    body = schema["paths"]["/v1/services/{name}"]["put"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["$ref"].startswith("#/components/schemas/ServiceDocument")
    json.dumps(schema)


def _with_store(world: World, **replaced: Any) -> Any:
    """Return the app's parts with a store some of whose methods are replaced."""

    class Broken:
        def __getattr__(self, name: str) -> Any:
            return replaced.get(name) or getattr(world.store, name)

    parts, store = world.app.state.parts, Broken()
    keys = dataclasses.replace(parts.auth.keys, store=store)
    return dataclasses.replace(parts, store=store, auth=dataclasses.replace(parts.auth, keys=keys))
