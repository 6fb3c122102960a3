"""Discovery over REST, as HTTP: statuses, one-line refusals, and who is let in."""

import json

import httpx
import pytest
from prometheus_client import CollectorRegistry

from controlplane.api.app import MAX_BODY_BYTES, create_app, create_discovery_app
from controlplane.api.discovery import Discovery
from controlplane.errors import InvalidInputError, NotFoundError, UnavailableError
from tests.unit.api.world import ManualClock, World

PATH = "/v3/discovery:clusters"
ENVOY = {"node": {"id": "edge-1"}}


class Polls:
    """Answers as told; keeps what it was asked."""

    def __init__(self, answer: bytes | None = None, error: Exception | None = None) -> None:
        self.asked: list[tuple[str, object]] = []
        self._answer = answer
        self._error = error

    def poll(self, resource: str, document: object) -> bytes | None:
        self.asked.append((resource, document))
        if self._error is not None:
            raise self._error
        return self._answer


def client(polls: Polls, *, peer: str = "127.0.0.1", loopback_only: bool = True) -> httpx.AsyncClient:
    app = create_discovery_app(
        discovery=Discovery(polls=polls, loopback_only=loopback_only), registry=CollectorRegistry(), clock=ManualClock()
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(peer, 4711))
    return httpx.AsyncClient(transport=transport, base_url="http://hueshift.test")


async def test_a_poll_needs_no_key_and_is_answered_with_json() -> None:
    polls = Polls(b'{"version_info":"v"}')
    async with client(polls) as http:
        answer = await http.post(PATH, json=ENVOY)
    assert (answer.status_code, answer.json()) == (200, {"version_info": "v"})
    assert answer.headers["content-type"] == "application/json"
    assert polls.asked == [("clusters", ENVOY)]


async def test_nothing_new_is_not_modified_and_has_no_body() -> None:
    async with client(Polls()) as http:
        answer = await http.post(PATH, json=ENVOY)
    assert (answer.status_code, answer.content) == (304, b"")


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1"])
async def test_this_machine_is_let_in(peer: str) -> None:
    async with client(Polls(), peer=peer) as http:
        assert (await http.post(PATH, json=ENVOY)).status_code == 304


@pytest.mark.parametrize("peer", ["192.0.2.2", "2001:db8::1", "testclient"])
async def test_others_are_let_in_only_where_a_setting_says_so(peer: str) -> None:
    polls = Polls()
    async with client(polls, peer=peer) as http:
        # A forwarded address is what anybody can write.
        answer = await http.post(PATH, json=ENVOY, headers={"X-Forwarded-For": "127.0.0.1"})
    assert answer.status_code == 401
    assert "HUESHIFT_REST_DISCOVERY=anyone" in answer.json()["detail"]
    assert polls.asked == []
    async with client(polls, peer=peer, loopback_only=False) as http:
        assert (await http.post(PATH, json=ENVOY)).status_code == 304


@pytest.mark.parametrize("body", [b"", b"{", b'{"node": "\xff"}', b"[" * 100_000])
async def test_what_is_no_json_is_refused_in_one_line(body: bytes) -> None:
    async with client(Polls()) as http:
        answer = await http.post(PATH, content=body)
    assert answer.status_code == 422
    assert answer.json()["detail"] == "body: is not JSON; send a DiscoveryRequest as JSON"


async def test_a_body_that_is_too_large_is_refused() -> None:
    body = json.dumps({"node": {"id": "x" * MAX_BODY_BYTES}}).encode()
    polls = Polls()
    async with client(polls) as http:
        answer = await http.post(PATH, content=body)
    assert answer.status_code == 413
    assert "\n" not in answer.json()["detail"]
    assert polls.asked == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidInputError("node.id", "is missing", "set node.id"), 422),
        (NotFoundError("discovery type", "secrets", ("clusters",)), 404),
        (UnavailableError("no configuration is loaded yet; ask again soon"), 503),
    ],
)
async def test_refusals_have_one_line_and_their_status(error: Exception, status: int) -> None:
    async with client(Polls(error=error)) as http:
        answer = await http.post(PATH, json=ENVOY)
    assert (answer.status_code, answer.json()["detail"]) == (status, str(error))
    assert ("Retry-After" in answer.headers) == (status == 503)


async def test_a_process_without_an_api_serves_nothing_else() -> None:
    async with client(Polls()) as http:
        assert (await http.get("/v1/services")).status_code == 404
        assert (await http.get(PATH)).status_code == 405


async def test_the_api_has_no_such_paths_unless_asked_for(http: httpx.AsyncClient) -> None:
    answer = await http.post(PATH, json=ENVOY)
    assert answer.status_code == 404


async def test_the_api_answers_polls_where_asked_for(world: World) -> None:
    app = create_app(world.app.state.parts, registry=CollectorRegistry(), discovery=Discovery(polls=Polls()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hueshift.test") as http:
        assert (await http.post(PATH, json=ENVOY)).status_code == 304
        assert (await http.get("/v1/services")).status_code == 401
