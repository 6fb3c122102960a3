"""A world in which there is one of everything, and was one more: routes have something to tell, and to trip over."""

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

import httpx

from controlplane.auth.keys import KeyRing
from controlplane.auth.roles import Grant, Role
from controlplane.jobs.model import Again, AttemptOutcome, Claim, JobId, result_key
from controlplane.jobs.ports import EndedAttempt
from controlplane.ports import (
    ClusterHealth,
    Compared,
    NodeStatus,
    SnapshotRecord,
    SnapshotStatus,
    TypeStatus,
    WorstPicture,
)
from controlplane.rollout.model import Baking, Promoted
from controlplane.rollout.quality import QualityVerdict, RunStatus
from controlplane.rollout.slo import QualitySlo
from controlplane.traffic.model import ServedService, TrafficPlan
from controlplane.xds.snapshot import SnapshotCompiler
from tests import builders
from tests.builders import NOW
from tests.job_builders import PHOTO, PNG, WORKFLOW, make_picture
from tests.unit.api.world import World

KIND: dict[str, Any] = {
    "kind": "person",
    "workflow": WORKFLOW,
    "models": ["ddcolor-imagenet", "ddcolor-artistic"],
    "sizes": {"min": 460, "max": 680, "default": 640},
    "route": {"headers": {"X-Model-Type": "person"}},
}
HOOK = {"callback": "shop", "address": "https://shop.example.org/hooks"}
PLAN = {
    "apiVersion": "hueshift.dev/v1",
    "kind": "Plan",
    "metadata": {"name": "quick"},
    "spec": {"steps": [{"weight": "50%", "hold": "1m"}, {"weight": "100%"}]},
}
FIGURES = {"delta_e": {"value": 1.2, "low": 1.1, "high": 1.3}}
COMPARED = Compared(
    QualityVerdict.OK,
    "v2 is like v1 in 12 pictures: colours differ by 1.2 on average",
    {"measures": FIGURES},
    tuple(WorstPicture(f"photo-{place}.jpg", "less colour", b"\xff\xd8\xff") for place in (1, 2, 3)),
    "v1-a",
    "v2-b",
)
OBJECTIVES = [
    {"name": "error_abs", "candidate": 0.0, "baseline": 0.001, "bound": 0.01, "odds": 1.0, "still_needed": 120},
    {"name": "latency_abs", "candidate": 0.02, "baseline": 0.02, "bound": 0.05, "odds": 1.0, "still_needed": 0},
]
EVIDENCE = {"verdict": "hold", "reason": "needs 120 more requests", "objectives": OBJECTIVES, "tick": 7}


async def fill(world: World) -> Mapping[str, Any]:
    """Put one of everything into *world*; return what stands in a path for each, by the names of the parts.

    Of much there was another one, which is gone.
    """
    await world.declare()
    await _lose(world)
    await _listen(world)
    await _roll(world)
    while await world.store.sort_history(limit=100, now=NOW):
        pass
    await _connect(world)
    async with world.http() as http:
        waits = await http.post(
            "/v1/services/colorize/rollouts", json={"to": "v2", "queue": True, "why": "warmer skin"}
        )
        assert waits.status_code == 202, waits.text
        share = (await http.post("/v1/shares", json={"service": "colorize", "expires_in": "7d"})).json()["id"]
        applied = await http.post("/v1/documents", json={"documents": [PLAN], "owner": "photos"})
        assert applied.status_code == 200, applied.text
    job = await _work(world)
    grants = (Grant(Role.OPERATOR, "colorize"),)
    await KeyRing(store=world.store, clock=world.clock).create("ci", grants, by="ada", why="for the pipeline")
    return {
        "name": "colorize",
        "rollout": "colorize-1",
        "start": waits.json()["id"],
        "number": 1,
        "place": 1,
        "node": "edge-1",
        "job": job,
        "kind": "person",
        "owner": "ada",
        "callback": "shop",
        "target": "team",
        "share": share,
        "key": "ci",
    }


async def _lose(world: World) -> None:
    """Let there have been a service whose rollout had ended, and what else can be deleted, ended or revoked."""
    await world.declare(name="prints", port=8081)
    rollout = await world.roll(service="prints")
    await world.move(rollout, Promoted(NOW, "all objectives were kept"))
    until = (world.clock.now() + dt.timedelta(hours=1)).isoformat()
    async with world.http() as http:

        async def ask(method: str, path: str, **content: Any) -> httpx.Response:
            answer = await http.request(method, path, **content)
            assert answer.is_success, answer.text
            return answer

        share = (await ask("POST", "/v1/shares", json={"service": "prints", "expires_in": "7d"})).json()["id"]
        await ask("DELETE", f"/v1/shares/{share}")
        await ask("POST", "/v1/keys", json={"name": "ex-ci", "grants": [{"role": "viewer", "service": "prints"}]})
        await ask("DELETE", "/v1/keys/ex-ci")
        await ask("PUT", "/v1/notifications/prints/team", json={"address": HOOK["address"]})
        await ask("DELETE", "/v1/notifications/prints/team")
        for service in ("/services/prints", ""):
            await ask("POST", f"/v1{service}/freeze", json={"until": until, "why": "the fair"})
            await ask("POST", f"/v1{service}/unfreeze", json={})
        await ask("DELETE", "/v1/services/prints")
        await ask("PUT", "/v1/job-callbacks/ex-shop", json={**HOOK, "callback": "ex-shop"})
        await ask("DELETE", "/v1/job-callbacks/ex-shop")
        await ask("PUT", "/v1/job-owners/bob", json={"owner": "bob", "max_waiting": 1})
        await ask("DELETE", "/v1/job-owners/bob")


async def _listen(world: World) -> None:
    """Have somebody told of what happens from now on."""
    await world.store.sort_history(limit=100, now=NOW)
    async with world.http() as http:
        answer = await http.put("/v1/notifications/colorize/team", json={"address": HOOK["address"]})
        assert answer.status_code == 200, answer.text


async def _roll(world: World) -> None:
    store = world.store
    new = builders.make_new_rollout()
    new = dataclasses.replace(new, slos=(*new.slos, QualitySlo("pictures")))
    rollout = await store.start(new, key=None, now=NOW)
    run = await store.begin_quality_run(rollout.id, now=NOW)
    ended = dataclasses.replace(
        run,
        status=RunStatus.DONE,
        ended_at=NOW + builders.seconds(9),
        verdict=COMPARED.verdict,
        words=COMPARED.sentence,
        old=COMPARED.old,
        new=COMPARED.new,
    )
    await store.end_quality_run(rollout.id, ended, COMPARED)
    rollout = await world.judge(await store.load(rollout.id), errors=[0, 0, 1])
    baking = Baking(0, NOW)
    await world.move(rollout, baking, words="5 % is live", evidence=rollout.evidence or json.dumps(EVIDENCE))
    for ago in (3, 2):
        stable, canary = builders.make_counts(95), builders.make_counts(5)
        batch = builders.make_batch("one", tick=builders.TICK - ago, colorize_v1=stable, colorize_v2=canary)
        await store.record(batch)


async def _connect(world: World) -> None:
    service = ServedService(builders.make_spec(), builders.make_split(v1=9_500, v2=500))
    config = SnapshotCompiler().compile(TrafficPlan((service,), {}))
    await world.store.propose_snapshot(
        SnapshotRecord(
            version=config.version,
            versions=config.versions,
            revisions={"colorize": 1},
            content=config.content,
            status=SnapshotStatus.PROPOSED,
            words="",
            at=NOW,
            group="",
        )
    )
    types = {kind: TypeStatus(sent=each, acked=each, acked_at=NOW) for kind, each in config.versions.items()}
    node: NodeStatus = dataclasses.replace(builders.make_node("edge-1"), user_agent="envoy 1.40.0", types=types)
    await world.store.record_nodes([node])
    await world.report_health(
        ClusterHealth("edge-1", "colorize_v1", 2, 2), ClusterHealth("edge-1", "colorize_v2", 1, 1)
    )


async def _work(world: World) -> str:
    now = world.clock.now()
    async with world.http() as http:

        async def put(path: str, body: Mapping[str, Any]) -> None:
            answer = await http.put(path, json=body)
            assert answer.status_code == 200, answer.text

        await put("/v1/job-kinds/person", KIND)
        await put("/v1/job-callbacks/shop", HOOK)
        await put("/v1/job-owners/ada", {"owner": "ada", "max_waiting": 100, "keep": "30d"})
        await put("/v1/job-drains", {"on": True, "why": "the workers get new cards"})
        await put("/v1/job-drains", {"on": False})
        query = {"workflow_type": WORKFLOW, "task_id": "photo-1"}
        made = await http.post("/v1/jobs", params=query, content=PHOTO, headers={"Content-Type": "image/jpeg"})
        assert made.status_code == 202, made.text
    job = JobId(made.json()["id"])
    claimed = await world.store.claim_job(job, holder="test", until=now, now=now)
    assert claimed is not None
    words = "503 from version v1: the queue is full"
    failed = EndedAttempt(AttemptOutcome.FAILED, words, "v1")
    again = Again(words, dt.timedelta(0), counts=True)
    assert await world.store.retry_job(Claim(job, claimed.attempts), failed, again=again, now=now)
    claimed = await world.store.claim_job(job, holder="test", until=now, now=now)
    assert claimed is not None
    picture = make_picture(result_key(job, claimed.attempts), PNG)
    await world.blobs.put_blob(picture.key, PNG)
    assert await world.store.finish_job(Claim(job, claimed.attempts), picture, version="v2", now=now)
    return job
