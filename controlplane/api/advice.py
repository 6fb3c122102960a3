"""What is to be said of a service as it stands: each thing with its code and the command that mends it. Pure.

Order: what is broken, then what waits for a person, then what is only worth knowing.
"""

from collections.abc import Iterator
from typing import Final

from controlplane.api.answers import AdviceView, EnvoyView, RolloutView, ShareView, StatusView
from controlplane.codes import Code, Level, by_slug
from controlplane.rollout.standing import span_text

BEHIND_AFTER_S: Final = 5.0
"""An Envoy acknowledges within moments; one that has not for longer is named."""
BEHIND: Final = frozenset({"STALE", "NOT SENT"})
MAX_NAMED: Final = 3
"""Envoys that are named for the same thing; a large fleet would fill the page."""
NO_TRAFFIC_AFTER_S: Final = 10
"""Seconds of telemetry without a request before that is said."""

_PAUSES: Final = {
    "gate": "gate",
    "operator": "held_by_person",
    "inconclusive": "inconclusive",
    "nack": "stopped_by_refusal",
    "telemetry_lost": "telemetry_lost",
    "breach": "breach_asked",
}
"""Causes of pauses, and their codes."""

_LEVELS: Final = {Level.ERROR.value: 0, Level.WARN.value: 1, Level.INFO.value: 2}


def advise(status: StatusView) -> list[AdviceView]:
    """Say what there is to say of a service."""
    found = [*_of_fleet(status), *_of_workers(status), *_of_declaration(status), *_of_pictures(status)]
    found += _of_line(status)
    if status.rollout is not None:
        found += _of_rollout(status, status.rollout)
    return sorted(found, key=lambda each: _LEVELS[each.level])


def _say(slug: str, status: StatusView, words: str, *, subject: str = "") -> AdviceView:
    code: Code = by_slug(slug)
    named = subject or status.service
    run = code.run.format(service=status.service, subject=named)
    return AdviceView(code=code.id, level=code.level.value, subject=named, words=words, run=run)


def _of_fleet(status: StatusView) -> Iterator[AdviceView]:
    if not status.envoys:
        yield _say("no_fleet", status, "no Envoy is connected, so no weight is live")
    nacked = [envoy for envoy in status.envoys if envoy.status == "NACKED"]
    behind = [envoy for envoy in status.envoys if envoy.status in BEHIND and (envoy.age_s or 0) >= BEHIND_AFTER_S]
    for envoy in nacked[:MAX_NAMED]:
        yield _say("envoy_refuses", status, f"refused {envoy.words or 'its configuration'}", subject=envoy.node)
    for envoy in behind[:MAX_NAMED]:
        yield _say("fleet_behind", status, _behind(envoy), subject=envoy.node)
    for slug, found in (("envoy_refuses", nacked), ("fleet_behind", behind)):
        if len(found) > MAX_NAMED:
            # The page lists the first of a large fleet only.
            least = " at least" if len(status.envoys) < status.acks.expected else ""
            more = f"so it is with {len(found) - MAX_NAMED} Envoys more{least}"
            yield _say(slug, status, more).model_copy(update={"run": "hueshift proxies"})


def _behind(envoy: EnvoyView) -> str:
    kinds = ", ".join(kind.upper() for kind in envoy.behind)
    gone = "" if envoy.connected else "; it is not connected"
    return f"has not acknowledged the newest {kinds} for {span_text(envoy.age_s or 0)}{gone}"


def _of_workers(status: StatusView) -> Iterator[AdviceView]:
    candidate = status.rollout.candidate if status.rollout and status.rollout.active else None
    for share in (*status.split, *status.aside):
        if not share.total or share.healthy == share.total:
            continue
        words = f"{share.version}: {share.healthy} of {share.total} workers healthy"
        if share.healthy:
            yield _say("unhealthy_workers", status, words)
        elif share.weight_bp or share.version == candidate:
            yield _say("no_healthy_worker", status, words)
    for pinned in status.models:
        for words in pinned.deviations:
            yield _say("wrong_model", status, words)


def _of_declaration(status: StatusView) -> Iterator[AdviceView]:
    if status.rejected is not None:
        words = f"revision {status.rejected.number} was refused: {status.rejected.words}"
        yield _say("revision_rejected", status, words)


def _of_pictures(status: StatusView) -> Iterator[AdviceView]:
    verdict = next((run for run in status.quality if run.verdict), None)
    if verdict is not None and verdict.verdict != "ok":
        yield _say("pictures_blocked" if verdict.verdict == "block" else "pictures_drift", status, verdict.words)


def _of_line(status: StatusView) -> Iterator[AdviceView]:
    if status.frozen:
        yield _say("frozen", status, status.frozen)
    for start in status.waiting:
        yield _say("start_waits", status, f"{start.id} to {start.candidate} waits: {start.words}")


def _of_rollout(status: StatusView, rollout: RolloutView) -> Iterator[AdviceView]:
    if rollout.state == "paused" and rollout.cause in _PAUSES:
        yield _say(_PAUSES[rollout.cause], status, f"{rollout.id} is {rollout.phase}")
    if rollout.state == "rolled_back":
        yield _say("rolled_back", status, f"{rollout.id} was rolled back")
    if status.commands_waiting:
        yield _say("commands_wait", status, f"{status.commands_waiting} command(s) not carried out yet")
    share = next((each for each in status.split if each.version == rollout.candidate), None)
    if rollout.active and status.envoys and share is not None and _is_quiet(share, status.measured_s):
        words = f"{rollout.candidate} has {share.weight} and got no request in {status.measured_s} s"
        yield _say("no_traffic", status, words)


def _is_quiet(share: ShareView, seconds: int) -> bool:
    requests = share.measured.requests if share.measured else 0
    return share.weight_bp > 0 and seconds >= NO_TRAFFIC_AFTER_S and not requests
