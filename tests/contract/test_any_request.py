"""Whatever the OpenAPI document allows, and whatever it does not, is answered as the document says, to whoever asks.

Requests are made up by schemathesis from the document and sent to the real API on a real store; it checks statuses,
types, shapes and headers of the answers, and that what is malformed is refused. Who may do what is ours to check.
"""

import asyncio
import collections
import copy
import functools
import logging
import pathlib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import httpx
import pytest
import schemathesis
import structlog
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.generation import GenerationMode

from controlplane.api.permissions import OPEN, RULELESS, RULES
from controlplane.auth.keys import KeyRing
from controlplane.auth.roles import EVERY, Grant, Role
from tests.unit.api.documented import document
from tests.unit.api.filled import fill
from tests.unit.api.test_permissions import expected, routes_by_what_they_take
from tests.unit.api.world import World, make_template, open_world

ALLOWED = ("2xx", "304", "400", "401", "403", "404", "409", "410", "412", "422", "429")
"""A request that fits the document may still be refused: shapes cannot tell that a version does not exist."""
REFUSED = ("400", "401", "403", "404", "409", "410", "412", "413", "422", "429")
NOWHERE = "there is nothing at this path"
UNREAD = frozenset({400, 401, 413, 422})
"""What somebody without a key may hear: that there is no key, or that the request could not even be read."""


FOR_ANYBODY = RULELESS | {route for route, rule in RULES.items() if rule is OPEN}
TAKEN = {
    (route.split()[0], re.sub(r":path\}", "}", route.split()[1])): takes
    for route, takes in routes_by_what_they_take().items()
}
"""The role that each operation takes, as it was written down for the tests."""

BY_CONTENT = frozenset({"applyDocuments", "createShare", "revokeShare"})
"""What these take depends on the services that their content names."""

CALLERS: Mapping[str, tuple[Grant, ...] | None] = {
    "viewer": (Grant(Role.VIEWER),),
    "operator": (Grant(Role.OPERATOR),),
    "approver": (Grant(Role.APPROVER),),
    "admin": (Grant(Role.ADMIN),),
    "operator of colorize": (Grant(Role.OPERATOR, "colorize"),),
    "admin of another": (Grant(Role.ADMIN, "another"),),
    "key without grants": (),
    "nobody": None,
}
"""What each may; None is somebody without a key."""


@functools.cache
def operations() -> tuple[Any, ...]:
    """Return schemathesis' operations. Keys are ours to send, so it is told of none."""
    told = copy.deepcopy(dict(document()))
    for methods in told["paths"].values():
        for operation in methods.values():
            operation.pop("security", None)
    told["components"].pop("securitySchemes")
    checks = {
        "positive_data_acceptance": {"expected-statuses": list(ALLOWED)},
        "negative_data_rejection": {"expected-statuses": list(REFUSED)},
    }
    schema = schemathesis.openapi.from_dict(told, config=SchemathesisConfig.from_dict({"checks": checks}))
    return tuple(found.ok() for found in schema.get_all_operations())  # type: ignore[union-attr] # it raises what is wrong


def requests_of(operation: Any, places: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Return where requests come from: sound ones to what is there, sound ones to anything, malformed ones."""
    here = {name: places[name] for name in places if f"{{{name}}}" in operation.path}
    sources = [operation.as_strategy(GenerationMode.POSITIVE, path_parameters=here or None)]
    raw = operation.definition.raw
    # Any text is a sound header, so that what has nothing else cannot be malformed.
    if "requestBody" in raw or any(each["in"] != "header" for each in raw.get("parameters", ())):
        sources.append(operation.as_strategy(GenerationMode.NEGATIVE))
    if here:
        sources.append(operation.as_strategy(GenerationMode.POSITIVE))
    if "requestBody" in raw:
        sources.append(operation.as_strategy(GenerationMode.NEGATIVE, path_parameters=here or None))
    return st.one_of(sources)


class Asking:
    """One caller's requests to one world, and what came of them."""

    def __init__(self, runner: asyncio.Runner, world: World, key: str | None) -> None:
        self._runner = runner
        self._key = key
        transport = httpx.ASGITransport(world.app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://hueshift.test")
        self.statuses: collections.Counter[tuple[str, int]] = collections.Counter()

    def send(self, case: Any) -> httpx.Response | None:
        """Send one request; None if it is none that HTTP can carry."""
        made = case.as_transport_kwargs(base_url="http://hueshift.test")
        made.pop("cookies", None)
        data = made.pop("data", None)
        if isinstance(data, str | bytes):
            made["content"] = data
        elif data is not None:
            made["data"] = data
        if made.get("files") is not None:
            made["files"] = [(name, _part(*part)) for name, part in made["files"]]
        made["headers"] = {name: value for name, value in made["headers"].items() if name.lower() != "authorization"}
        if self._key is not None:
            made["headers"]["Authorization"] = f"Bearer {self._key}"
        try:
            request = self._http.build_request(**made)
        except (httpx.InvalidURL, UnicodeError):
            return None
        return self._runner.run(self._answer(request))

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        return await self._http.send(request)

    def try_example(self, operation: Any, places: Mapping[str, Any], caller: str) -> None:
        """Send what the document gives as an example: it is sound, so that only who asks decides."""
        raw = operation.definition.raw
        body = raw.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
        key = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        path = operation.path.format(**places)
        request = self._http.build_request(operation.method.upper(), path, json=body, headers=key)
        response = self._runner.run(self._answer(request))
        assert str(response.status_code) in raw["responses"], (raw["operationId"], response.text)
        self.check(operation, response, caller, unread=frozenset())

    def check(self, operation: Any, response: httpx.Response, caller: str, *, unread: Collection[int] = UNREAD) -> None:
        """Hold an answer against what its caller may; *unread* are the statuses that come before that is asked."""
        name, grants = operation.definition.raw["operationId"], CALLERS[caller]
        self.statuses[name, response.status_code] += 1
        takes = TAKEN.get((operation.method.upper(), operation.path))
        is_open = not operation.path.startswith("/v1") or f"{operation.method.upper()} {operation.path}" in FOR_ANYBODY
        if is_open:
            return
        assert takes is not None, name
        told = (name, response.status_code, response.text)
        if response.status_code == 404 and NOWHERE in response.text:
            return  # what was made up for a part of the path led elsewhere, for everybody
        if grants is None:
            assert response.status_code in {401, *unread}, told
        elif name in BY_CONTENT:
            assert response.status_code != 401, told
            for service in _changed_by(name, response) if response.is_success else ():
                assert any(grant.covers(Role.OPERATOR, service) for grant in grants), told
        elif expected(grants, takes) == "allowed":
            assert response.status_code not in {401, 403}, told
        else:  # what is of no service of theirs is not there for them
            assert response.status_code in {403, 404, *unread} - {401}, told

    def try_out(self, operation: Any, source: st.SearchStrategy[Any], count: int, caller: str) -> None:
        """Send *count* requests from *source*, and hold each answer against the document."""

        def ask(case: Any) -> None:
            response = self.send(case)
            if response is None:
                return
            case.validate_response(response)
            self.check(operation, response, caller)

        run = settings(
            max_examples=count,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(given(case=source)(ask))
        run()


def _changed_by(operation: str, response: httpx.Response) -> list[str]:
    """Return the services that an operation of `BY_CONTENT` has changed."""
    match operation:
        case "createShare":
            return [response.json()["service"]]
        case "revokeShare":
            return ["colorize"]
        case _:
            changes = response.json()["changes"]
            return [change["service"] or EVERY for change in changes if change["action"] != "unchanged"]


def _part(filename: str | None, content: Any, *rest: Any) -> tuple[Any, ...]:
    return (filename, content if isinstance(content, str | bytes) else str(content), *rest)


def try_everything(template: pathlib.Path, folder: pathlib.Path, caller: str, count: int) -> collections.Counter[int]:
    """Send *count* requests to each operation as *caller*; return how often each status came."""
    grants = CALLERS[caller]
    with asyncio.Runner() as runner:
        opened = open_world(template, folder)
        world = runner.run(opened.__aenter__())
        try:
            places = runner.run(fill(world))
            ring = KeyRing(store=world.store, clock=world.clock)
            key = None if grants is None else runner.run(ring.create("caller", grants))
            asking = Asking(runner, world, key)
            for operation in operations():
                streams = "text/event-stream" in str(operation.definition.raw["responses"].get("200"))
                if streams and grants is not None:
                    continue  # it would go on until somebody leaves
                asking.try_example(operation, places, caller)
                asking.try_out(operation, requests_of(operation, places), count, caller)
        finally:
            runner.run(opened.__aexit__(None, None, None))
    found: collections.Counter[int] = collections.Counter()
    for (_, status), times in asking.statuses.items():
        found[status] += times
    return found


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def _quiet() -> Iterator[None]:
    """Keep thousands of refusals out of a failure's report."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("caller", CALLERS)
def test_any_request_is_answered_as_the_document_says(
    template: pathlib.Path, tmp_path: pathlib.Path, caller: str
) -> None:
    statuses = try_everything(template, tmp_path, caller, 8 if caller == "admin" else 3)
    assert sum(statuses.values()) > 100
    if caller == "admin":
        assert {200, 202, 404, 422} <= set(statuses), "it was let in, and said no for many reasons"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("caller", CALLERS)
def test_ten_thousand_requests_are_answered_as_the_document_says(
    template: pathlib.Path, tmp_path: pathlib.Path, caller: str
) -> None:
    assert sum(try_everything(template, tmp_path, caller, 60 if caller == "admin" else 20).values()) > 1_000
