"""What is told of starts that wait: rows, the line and freezes turned into sentences. Pure."""

import datetime as dt
from collections.abc import Sequence

from controlplane.api import units
from controlplane.api.answers import RolloutView, WaitingView
from controlplane.api.documents import plan_of
from controlplane.api.objectives import describe_slo
from controlplane.controller.line import frozen_words
from controlplane.ports import Agenda, Rollout, ServiceRecord
from controlplane.rollout.model import RollingBack, is_final
from controlplane.rollout.slo import with_defaults
from controlplane.rollout.waiting import Place, Replace, Stay, WaitingStart, ahead_of, decide, in_line


def waiting_views(agenda: Agenda, rollout: Rollout | None, service: str, *, now: dt.datetime) -> list[WaitingView]:
    """Show a service's line: those whose hour has come in their order, then the scheduled ones by their hour."""
    mine = [each for each in agenda.waiting if each.service == service]
    later = sorted((each for each in mine if not each.is_due(now)), key=lambda each: each.due_at)
    return [waiting_view(each, agenda, rollout, now=now) for each in (*in_line(mine, now=now), *later)]


def waiting_view(waiting: WaitingStart, agenda: Agenda, rollout: Rollout | None, *, now: dt.datetime) -> WaitingView:
    """Show one start; *rollout* is its service's newest."""
    return WaitingView(
        id=waiting.id,
        service=waiting.service,
        candidate=waiting.candidate,
        state=_state(waiting, now),
        words=waiting.words or _words(waiting, agenda, rollout, now),
        supersede=waiting.supersede,
        only_after_success=waiting.only_after_success,
        not_before=waiting.not_before,
        by=waiting.by,
        why=waiting.why,
        at=waiting.at,
    )


def waiting_rollout_view(waiting: WaitingStart, view: WaitingView, record: ServiceRecord) -> RolloutView:
    """Show a start as the rollout that it is to become, by the plan and the objectives that would count now."""
    spec = record.served.spec
    plan = waiting.plan or spec.plan
    others = [share.version for share in record.split if share.weight_bp and share.version != waiting.candidate]
    return RolloutView(
        id=waiting.id,
        service=waiting.service,
        baseline=waiting.baseline or (others[0] if len(others) == 1 else ""),
        candidate=waiting.candidate,
        state=view.state,
        phase=view.state,
        active=waiting.end is None,
        outcome=None if waiting.end is None else "cancelled",
        cause=None,
        words=view.words,
        step=0,
        steps=len(plan.steps),
        weight=units.format_weight(0),
        weight_bp=0,
        since=waiting.ended_at or waiting.at,
        started_at=waiting.at,
        deadline_at=waiting.due_at + plan.deadline,
        ended_at=waiting.ended_at,
        by=waiting.by,
        why=waiting.why,
        plan=plan_of(plan),
        objectives=[describe_slo(slo) for slo in with_defaults(spec.slos)],
        evidence=None,
    )


def _state(waiting: WaitingStart, now: dt.datetime) -> str:
    if waiting.end is not None:
        return waiting.end.value
    return "queued" if waiting.is_due(now) else "scheduled"


def _words(waiting: WaitingStart, agenda: Agenda, rollout: Rollout | None, now: dt.datetime) -> str:
    active = rollout if rollout is not None and not is_final(rollout.state) else None
    mine: Sequence[WaitingStart] = [each for each in agenda.waiting if each.service == waiting.service]
    place = Place(
        ahead=ahead_of(waiting, mine, now=now),
        active=active.id if active else "",
        leaving=active is not None and (active.plan.direct or isinstance(active.state, RollingBack)),
        frozen=frozen_words(agenda.freezes, waiting.service, now=now),
    )
    match decide(waiting, place, now=now):
        case Stay(words=words):
            return words
        case Replace(rollout=other):
            return f"rollout {other} makes room for it"
        case _:
            return "starts within moments"
