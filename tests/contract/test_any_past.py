"""Whatever was done to services before, in whichever order: no question about them, nor the next deed, breaks anything.

`test_any_request` asks about one world; here the world is what a hundred deeds have made of it: services that were
deleted and declared again, starts that waited for them, freezes and shares of what is gone.
"""

import collections
import datetime as dt
import pathlib
import random
from collections.abc import Callable
from typing import Any, Final

import httpx
import pytest

from controlplane.rollout.model import NO_STEP, Baking, Promoted, RollbackCause, RolledBack, Shifting, State
from tests.contract.test_any_request import NOWHERE
from tests.job_builders import PHOTO, WORKFLOW
from tests.unit.api.documented import document
from tests.unit.api.filled import HOOK, KIND, PLAN
from tests.unit.api.world import World, make_template, open_world

pytestmark = pytest.mark.timeout(300)

SERVICES: Final = ("colorize", "prints")
VERSIONS: Final = ("v1", "v2", "v3")
STEPS: Final = 120
ASKED: Final = 10
"""Questions after each deed."""
Deed = tuple[str, str, Any]


def deeds(chance: random.Random, world: World, known: list[str]) -> list[Deed]:
    """Return what may be asked for next: method, path, content. *known* are ids that answers had."""
    service, some = chance.choice(SERVICES), chance.choice([*known, "colorize-1"])
    path, to = f"/v1/services/{service}", chance.choice(VERSIONS)
    until = (world.clock.now() + dt.timedelta(hours=chance.choice([1, 48]))).isoformat()
    starts = [{"to": to}, {"to": to, "again": True}, {"to": to, "queue": True}, {"to": to, "supersede": True}]
    verbs = ("pause", "resume", "promote", "abort", "undo", "retry")
    return [
        ("PUT", path, _declared(chance, service)),
        ("PUT", path, _declared(chance, service)),
        ("DELETE", path, None),
        *(("POST", f"{path}/rollouts", each) for each in (*starts, {"to": to, "at": until})),
        *(("POST", f"{path}/rollout/{verb}", {"why": "a walk"}) for verb in verbs),
        ("POST", f"{path}/rollout/promote", {"full": True}),
        ("POST", f"{path}/queue/{some}/cancel", {}),
        ("PUT", f"{path}/split", {"weights": {"v1": "40%", to: "60%"} if to != "v1" else {"v1": "100%"}}),
        *(("POST", f"{each}/freeze", {"until": until}) for each in (path, "/v1")),
        *(("POST", f"{each}/unfreeze", {}) for each in (path, "/v1")),
        ("POST", "/v1/rollouts/abort", {}),
        ("POST", "/v1/shares", {"service": service, "expires_in": "7d"}),
        ("PUT", f"/v1/notifications/{service}/team", {"address": HOOK["address"]}),
        ("DELETE", f"/v1/notifications/{service}/team", None),
        ("PUT", "/v1/job-kinds/person", {**KIND, "service": chance.choice(["", service])}),
        ("POST", f"/v1/jobs?workflow_type={WORKFLOW}", PHOTO),
        *(("POST", f"/v1/jobs/{some}/{verb}", None) for verb in ("cancel", "retry")),
        *(("DELETE", f"/v1/{what}/{some}", None) for what in ("jobs", "shares")),
        ("POST", "/v1/keys", {"name": "ci", "grants": [{"role": "viewer", "service": service}]}),
        ("DELETE", "/v1/keys/ci", None),
        ("POST", "/v1/documents", {"documents": chance.choice([[PLAN], []]), "owner": "photos", "prune": True}),
    ]


def _declared(chance: random.Random, service: str) -> dict[str, Any]:
    versions = VERSIONS[: chance.randint(1, len(VERSIONS))]
    return {
        "service": service,
        "listener": {"address": "127.0.0.1", "port": 8080 + SERVICES.index(service)},
        "versions": [{"name": name, "endpoints": ["127.0.0.1:9000"]} for name in versions],
        "routes": [{"name": "all", "split": True}],
        "split": {"v1": "100%"},
        "slos": [{"name": "errors", "kind": "error_rate", "max": "1%"}],
        "plan": {"steps": [{"weight": chance.choice(["10%", "50%"]), "hold": "10s"}, {"weight": "100%"}]},
    }


async def steer(chance: random.Random, world: World) -> None:
    """Be the controller, and time: move a rollout somewhere, and the clock on."""
    now = world.clock.now()
    states: tuple[State, ...] = (
        Shifting(0, now, NO_STEP),
        Baking(0, now),
        Promoted(now, "done"),
        RolledBack(now, RollbackCause.SLO_BREACH, "errors 20 % > 1 %"),
    )
    for rollout in await world.store.load_active():
        await world.move(rollout, chance.choice(states))
    await world.store.sort_history(limit=100, now=now)
    world.clock.move(dt.timedelta(seconds=chance.choice([1, 4_000])))


def questions() -> list[str]:
    """Return the paths of all questions that end."""
    return [path for path, methods in document()["paths"].items() if "get" in methods and not path.endswith("/events")]


def filled_in(path: str, chance: random.Random, known: list[str]) -> str:
    names: dict[str, Callable[[], str]] = collections.defaultdict(lambda: lambda: "1")
    names |= {"name": lambda: chance.choice(SERVICES), "kind": lambda: "person", "target": lambda: "team"}
    names |= dict.fromkeys(("rollout", "start", "job"), lambda: chance.choice([*known, "colorize-1"]))
    head, *rest = path.split("{")
    for part in rest:
        name, _, tail = part.partition("}")
        head += names[name.removesuffix(":path")]() + tail
    return head


async def send(http: httpx.AsyncClient, deed: Deed) -> httpx.Response:
    method, path, content = deed
    if isinstance(content, bytes):
        return await http.request(method, path, content=content, headers={"Content-Type": "image/jpeg"})
    return await http.request(method, path, json=content)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_that_was_done_before_breaks_what_is_asked_or_done_next(
    seed: int, tmp_path: pathlib.Path, template: pathlib.Path
) -> None:
    chance = random.Random(seed)  # noqa: S311 - no secret
    known: list[str] = []
    statuses: collections.Counter[int] = collections.Counter()
    async with open_world(template, tmp_path) as world, world.http() as http:
        for step in range(STEPS):
            deed = chance.choice(deeds(chance, world, known))
            answer = await send(http, deed)
            assert answer.status_code < 500, (step, deed, answer.text)
            statuses[answer.status_code // 100] += 1
            told = answer.json() if answer.is_success and answer.content else {}
            known = [*known, *([str(told["id"])] if "id" in told else [])][-5:]
            if chance.random() < 0.3:
                await steer(chance, world)
            for path in chance.sample(questions(), ASKED):
                asked = filled_in(path, chance, known)
                answer = await http.get(asked)
                assert answer.status_code < 500, (step, deed, asked, answer.text)
                assert answer.status_code != 404 or NOWHERE not in answer.text, asked
    assert statuses[2] > STEPS / 5, "most deeds were refused: nothing much has happened"
