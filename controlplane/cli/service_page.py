"""The page of one service, as `get` prints it and `get -w` draws it: where its rollout stands, and all that is part.

Marks and order are those that people know from `kubectl argo rollouts get`; what an Envoy acknowledged stands beside
what is set and what was measured, and events are sentences with the value, the sign and the bound.
"""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.text import Text

from controlplane.api.answers import (
    EnvoyView,
    EventView,
    ProvenanceView,
    RolloutView,
    ShareView,
    StatusView,
    WaitingView,
    WorkerView,
)
from controlplane.cli.layout import Fields, Node, Page, Paragraph, Tree
from controlplane.cli.output import SHOWN_CHECKSUM, advice_line, age, clean, marked, odds, reason, share

SHOWN: Final = 8
"""Workers of a version, Envoys, and steps that are listed; more are counted, unless all are wanted."""


def service_page(status: StatusView, *, now: dt.datetime, note: str = "", wide: bool = False) -> Page:
    """Show everything about a service, with a *note* at its end; all workers, Envoys and steps if *wide*."""
    parts: list[Fields | Tree | Paragraph | Text] = [
        Fields(list(_head(status))),
        Text(),
        Tree(_tree(status, now, wide)),
    ]
    if status.advice:
        parts += [Text(), *(advice_line(each) for each in status.advice)]
    if status.events:
        parts += [Text(), Text("Events", style="bold"), _events(status.events, now)]
    if note:
        parts += [Text(), Paragraph(Text(clean(note), style="yellow"))]
    return Page(*parts)


# -- the head ----------------------------------------------------------------------------------------------------------


def _head(status: StatusView) -> Iterator[tuple[str, Text]]:
    rollout = status.rollout
    yield "Name:", Text(f"{status.service}  {status.listener}")
    if rollout:
        yield "Status:", marked(rollout.state, rollout.phase)
        words = rollout.words or reason(rollout)
        if words:
            yield "Message:", Text(clean(words))
        yield "Rollout:", Text(f"{rollout.id}  {rollout.baseline} → {rollout.candidate}")
        yield "  Step:", Text(f"{rollout.step}/{rollout.steps}")
        yield "  SetWeight:", Text(rollout.weight)
        yield "  ActualWeight:", _actual(status, rollout)
    else:
        yield "Status:", Text("no rollout yet")
    yield "  AckedWeight:" if rollout else "Acked:", _acked(status)
    if status.frozen:
        yield "Frozen:", Text(clean(status.frozen), style="yellow")
    if status.commands_waiting:
        yield "Waiting:", Text(f"{status.commands_waiting} command(s) not handled yet")


def _actual(status: StatusView, rollout: RolloutView) -> Text:
    total = sum(each.measured.requests for each in _shares(status) if each.measured)
    mine = next((each.measured for each in _shares(status) if each.version == rollout.candidate), None)
    if not total:
        return Text("-  (no requests)", style="dim")
    requests = mine.requests if mine else 0
    text = Text(mine.share if mine else "0%")
    return text.append(f"  ({requests} of {total} requests in {status.measured_s} s)", style="dim")


def _acked(status: StatusView) -> Text:
    acks = status.acks
    if not acks.expected:
        return Text(f"-  ({acks.words})", style="yellow")
    text = Text(f"{acks.acked}/{acks.expected}", style="green" if not acks.waiting else "yellow")
    if acks.waiting:
        names = [clean(node) for node in acks.waiting[:SHOWN]]
        more = len(acks.waiting) - len(names)
        text.append(f"  (waiting for {', '.join(names)}{f' and {more} more' if more else ''})", style="yellow")
    return text


# -- the tree ----------------------------------------------------------------------------------------------------------


def _tree(status: StatusView, now: dt.datetime, wide: bool) -> Node:  # noqa: FBT001 - handed through
    rollout = status.rollout
    revision = f"revision {status.revision.number} {status.revision.status}"
    root = Node(
        Text(f"⟳ {status.service}", style="bold"),
        "Service",
        marked(rollout.state, rollout.phase) if rollout else marked(status.revision.status),
        age((now - status.revision.at).total_seconds()),
        Text(revision),
    )
    if status.rejected:
        words = f"refused by Envoy: {clean(status.rejected.words)}"
        root.add(
            Node(
                Text(f"# revision {status.rejected.number}"),
                "Revision",
                marked("rejected"),
                age((now - status.rejected.at).total_seconds()),
                Text(words),
            )
        )
    if rollout:
        root.add(_rollout_node(status, rollout, now, wide))
    for start in status.waiting:
        root.add(_waiting_node(start, now))
    for each in _shares(status):
        root.add(_version_node(each, status, now, wide))
    root.add(_fleet_node(status, wide))
    return root


def _rollout_node(status: StatusView, rollout: RolloutView, now: dt.datetime, wide: bool) -> Node:  # noqa: FBT001
    by = f"{rollout.by}: {rollout.why}" if rollout.why else rollout.by
    node = Node(
        Text(f"# {rollout.id}"),
        "Rollout",
        marked(rollout.state, rollout.phase),
        age((now - rollout.since).total_seconds()),
        Text(f"{rollout.baseline} → {rollout.candidate}, by {clean(by)}"),
    )
    for step in _step_nodes(rollout, now, wide):
        node.add(step)
    for objective in _objectives(rollout):
        node.add(_objective_node(objective, rollout.baseline))
    for run in status.quality:
        node.add(
            Node(
                Text("▦ pictures"),
                "Pictures",
                marked(run.verdict or run.status),
                age((now - run.at).total_seconds()),
                Text(f"comparison {run.number}: {clean(run.words)}".rstrip(": ")),
            )
        )
    return node


def _waiting_node(start: WaitingView, now: dt.datetime) -> Node:
    by = f"by {clean(start.by)}: {clean(start.why)}" if start.why else f"by {clean(start.by)}"
    return Node(
        Text(f"# {start.id}"),
        "Rollout",
        marked(start.state),
        age((now - start.at).total_seconds()),
        Text(f"to {start.candidate}: {clean(start.words)}, {by}"),
    )


def _step_nodes(rollout: RolloutView, now: dt.datetime, wide: bool) -> Iterator[Node]:  # noqa: FBT001
    steps = rollout.plan.steps
    later = "undone" if rollout.state in {"rolling_back", "rolled_back"} else "later"
    first, last = 0, len(steps)
    if not wide and len(steps) > SHOWN:
        first = max(0, min(rollout.step - 3, len(steps) - SHOWN))
        last = first + SHOWN
    if first:
        yield Node(Text(f"… {first} before", style="dim"), "Step")
    for number, step in enumerate(steps[first:last], start=first + 1):
        done = number < rollout.step or rollout.state == "promoted"
        here = number == rollout.step and not done
        status = marked("done") if done else marked(rollout.state, "now") if here else Text(f"• {later}", style="dim")
        about = [f"held {step.hold.total_seconds():g} s"] if step.hold else []
        about += ["then a gate"] if step.pause else []
        since = age((now - rollout.since).total_seconds()) if here else ""
        yield Node(Text(f"Σ {number}: {step.weight / 100:g}%"), "Step", status, since, Text(", ".join(about)))
    if last < len(steps):
        yield Node(Text(f"… {len(steps) - last} after", style="dim"), "Step")


def _objectives(rollout: RolloutView) -> Iterator[Mapping[str, Any]]:
    for objective in (rollout.evidence or {}).get("objectives") or ():
        if isinstance(objective, Mapping):
            yield objective


def _objective_node(objective: Mapping[str, Any], old: str) -> Node:
    name = clean(str(objective.get("name", "-")))
    candidate, baseline, bound = (objective.get(key) for key in ("candidate", "baseline", "bound"))
    relative = name.endswith("rel")
    text = Text(share(candidate))
    if relative:
        text.append(f", {old} {share(baseline)}, at most x{bound:g}" if isinstance(bound, int | float) else "")
    else:
        text.append(f" {_sign(candidate, bound)} {share(bound)}")
        text.append(f", {old} {share(baseline)}" if baseline is not None else "")
    text.append(f", odds {odds(objective.get('odds'))}")
    return Node(Text(f"α {name}"), "Evidence", _standing(objective), "", text)  # noqa: RUF001 - the mark of an analysis, as in Argo


def _sign(value: object, bound: object) -> str:
    if isinstance(value, int | float) and isinstance(bound, int | float):
        return "≤" if value <= bound else ">"
    return "of"


def _standing(objective: Mapping[str, Any]) -> Text:
    if objective.get("decides"):
        return Text(f"• {clean(str(objective['decides']))}", style="dim")
    match objective.get("still_needed"):
        case 0:
            return marked("kept")
        case int() | float() as needed:
            return Text(f"◌ {needed:g} more", style="cyan")
        case _ if not str(objective.get("name")).endswith("rel") and _sign(*_against_bound(objective)) == ">":
            return Text("✖ broken", style="red")
        case _:
            return Text("‖ open", style="yellow")


def _against_bound(objective: Mapping[str, Any]) -> tuple[object, object]:
    return objective.get("candidate"), objective.get("bound")


def _shares(status: StatusView) -> list[ShareView]:
    return [*status.split, *status.aside]


def _version_node(each: ShareView, status: StatusView, now: dt.datetime, wide: bool) -> Node:  # noqa: FBT001
    rollout = status.rollout
    about = [f"{each.weight} set"]
    about += [f"{each.measured.share} measured"] if each.measured else []
    if rollout:
        about += [name for name in ("candidate", "baseline") if each.version == getattr(rollout, name)]
    about.append(each.cluster)
    node = Node(Text(f"⧉ {each.version}"), "Version", _health(each), "", Text(", ".join(about)))
    pinned = next((model for model in status.models if model.version == each.version), None)
    if pinned is not None:
        node.add(_model_node(pinned))
    reports = {worker.address: worker for worker in pinned.workers} if pinned else {}
    shown = each.workers if wide else sorted(each.workers, key=lambda one: bool(one.healthy) and not one.words)[:SHOWN]
    for worker in shown:
        report = reports.get(worker.address)
        since = age((now - report.at).total_seconds()) if report and report.at and worker.words else ""
        node.add(
            Node(Text(f"□ {clean(worker.address)}"), "Worker", _worker_status(worker), since, _worker_info(worker))
        )
    _count_rest(node, len(each.workers) - len(shown), "Worker")
    return node


def _health(each: ShareView) -> Text:
    if each.total is None or each.healthy is None:
        return Text("• not reported", style="dim")
    text = f"{each.healthy}/{each.total} healthy"
    if not each.total or each.healthy < each.total:
        return Text(f"✖ {text}", style="red")
    return Text(f"✔ {text}", style="green")


def _model_node(pinned: ProvenanceView) -> Node:
    right = sum(worker.matches is True for worker in pinned.workers)
    node = Node(
        Text(f"⊞ {clean(pinned.model)}"),
        "Model",
        Text(f"{'✖' if pinned.deviations else '✔'} {right}/{len(pinned.workers)} serve it",
             style="red" if pinned.deviations else "green"),
        "",
        Text(f"{clean(pinned.checksum)[:SHOWN_CHECKSUM]}…"),
    )  # fmt: skip
    for words in pinned.deviations:
        node.add(Node(Text("✖ deviates", style="red"), "", Text(), "", Text(clean(words))))
    return node


def _worker_status(worker: WorkerView) -> Text:
    match worker.healthy:
        case True:
            return marked("healthy")
        case False:
            return marked("unhealthy")
        case None:
            return Text("• not said", style="dim")


def _worker_info(worker: WorkerView) -> Text:
    if worker.words:
        return Text(clean(worker.words), style="yellow")
    return Text(f"serves {', '.join(map(clean, worker.models))}" if worker.models else "")


def _fleet_node(status: StatusView, wide: bool) -> Node:  # noqa: FBT001
    acks = status.acks
    good = acks.expected and not acks.waiting
    fleet = Node(
        Text("⇄ Envoys"),
        "Fleet",
        Text(f"{'✔' if good else '◌'} {acks.acked}/{acks.expected} ACKed" if acks.expected else "• none",
             style="green" if good else "yellow"),
        "",
        Text("" if acks.expected else acks.words),
    )  # fmt: skip
    shown = status.envoys if wide else status.envoys[:SHOWN]
    for envoy in shown:
        fleet.add(
            Node(Text(f"◇ {clean(envoy.node)}"), "Envoy", marked(envoy.status), age(envoy.age_s), _envoy_info(envoy))
        )
    _count_rest(fleet, max(acks.expected, len(status.envoys)) - len(shown), "Envoy")
    return fleet


def _envoy_info(envoy: EnvoyView) -> Text:
    about = ["not connected"] if not envoy.connected else []
    if envoy.words:
        return Text(clean("; ".join([*about, envoy.words])), style="red")
    about += [", ".join(kind.upper() for kind in envoy.behind)] if envoy.behind else []
    return Text("; ".join(about))


def _count_rest(node: Node, rest: int, kind: str) -> None:
    if rest > 0:
        node.add(Node(Text(f"… {rest} more", style="dim"), kind))


# -- events ------------------------------------------------------------------------------------------------------------


def _events(events: Sequence[EventView], now: dt.datetime) -> Fields:
    return Fields([(f"  {event_time(event, now)}", event_text(event)) for event in events])


def event_time(event: EventView, now: dt.datetime) -> str:
    """Write when an event was; of another day, with the day."""
    at = event.at.astimezone()
    return at.strftime("%H:%M:%S" if at.date() == now.astimezone().date() else "%Y-%m-%d %H:%M:%S")


def event_text(event: EventView) -> Text:
    """Write one event as a sentence: what the controller did as it said it, what others did with who and what."""
    style = "yellow" if event.kind == "refused" else ""
    said = clean(event.words)
    if event.kind != "transition":
        who = "" if event.by == "hueshift" else f"{clean(event.by)} "
        said = f"{who}{clean(event.what)}: {said}".rstrip(": ")
    return Text(said, style=style)
