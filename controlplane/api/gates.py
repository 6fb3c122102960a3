"""Gates of plans, for systems that push what they decide instead of being asked."""

from typing import Literal

import structlog
from fastapi import APIRouter, status

from controlplane.api.access import UseParts, Writer
from controlplane.api.answering import View
from controlplane.api.requests import Why
from controlplane.api.routing import ApiRoute
from controlplane.api.schemas import Document
from controlplane.api.services import Name
from controlplane.controller.gates import told, visit_of
from controlplane.errors import ConflictError
from controlplane.notify.links import gate_of
from controlplane.rollout.gate import Decision, GateAnswer
from controlplane.rollout.lifecycle import describe
from controlplane.rollout.model import Abort, Promote, is_final

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1", tags=["rollouts"], route_class=ApiRoute)


class GateRequest(Document):
    """What is decided about the gate that the rollout stands before."""

    decision: Literal["open", "closed", "abort"]
    reason: Why = ""


class GateDecisionView(View):
    """What was taken down."""

    service: str
    rollout: str
    decision: str
    words: str


@router.post("/services/{name}/rollout/gate", status_code=status.HTTP_202_ACCEPTED)
async def decide_gate(name: Name, body: GateRequest, parts: UseParts, caller: Writer) -> GateDecisionView:
    """Decide about the gate that the rollout stands before: let it go on, keep it waiting, or end it.

    It holds for this visit: a gate with an address is asked no more.
    """
    await parts.store.load_service(name)
    rollout = await parts.store.load_latest(name)
    if rollout is None or is_final(rollout.state):
        raise ConflictError(f"no rollout of {name!r} is active; start one first")
    decision, reason, now = Decision(body.decision), body.reason or caller.why, parts.clock.now()
    visit = visit_of(rollout)
    if visit is not None:
        answer = GateAnswer(visit.step, visit.gate.before, visit.since, now, now, decision, reason, caller.name)
        words = told(visit, answer)
        if not await parts.store.answer_gate(rollout.id, answer, words=words, now=now):
            raise ConflictError(f"rollout {rollout.id} has just moved on; look at it again")
    elif gate_of(rollout) is None:
        raise ConflictError(f"rollout {rollout.id} stands before no gate: it is {describe(rollout.state)}")
    elif decision is Decision.CLOSED:
        words = f"{rollout.id} waits on at its gate"
    else:
        opens = decision is Decision.OPEN
        command = Promote(caller.name, reason) if opens else Abort(caller.name, reason)
        await parts.store.add_command(name, command, key=caller.scoped_key, now=now)
        words = f"{'promote' if opens else 'abort'} of {name} was taken down"
    log.info("gate.decided", rollout_id=rollout.id, decision=decision.value, by=caller.name)
    return GateDecisionView(service=name, rollout=rollout.id, decision=decision.value, words=words)
