"""What the commands around rollouts ask the API, and how the answers are printed."""

from typing import Any

from controlplane.api.answers import RolloutView, WaitingView
from controlplane.api.steering_answers import FreezeView, StoppedView, UndoneView
from controlplane.cli import moments, output
from controlplane.cli.formats import Format, for_programs
from controlplane.cli.surroundings import Surroundings


def undo(surroundings: Surroundings, name: str, to: str | None, why: str, *, form: Format) -> None:
    """Give traffic back."""
    body: dict[str, Any] = {"why": why, **({"to": to} if to else {})}
    with surroundings.client() as client:
        done = client.post(UndoneView, "services", name, "rollout", "undo", body=body)
    if for_programs(form):
        output.print_data(done, form)
        return
    print(f"{name}: {output.clean(done.words)}")
    print(f"follow it with: hueshift get {name} -w")


def retry(surroundings: Surroundings, name: str, why: str, *, form: Format) -> None:
    """Start the last rollout once more."""
    with surroundings.client() as client:
        rollout = client.post(RolloutView, "services", name, "rollout", "retry", body={"why": why})
    if for_programs(form):
        output.print_data(rollout, form)
        return
    output.print_page(output.rollout_line(rollout), color=surroundings.color)
    print(f"follow it with: hueshift get {name} -w")


def stop(surroundings: Surroundings, why: str, *, form: Format) -> None:
    """Abort everything."""
    with surroundings.client() as client:
        stopped = client.post(StoppedView, "rollouts", "abort", body={"why": why})
    if for_programs(form):
        output.print_data(stopped, form)
        return
    print(output.clean(stopped.words))
    for start in (*stopped.rollouts, *stopped.cancelled):
        print(f"  {start}")


def show_queue(surroundings: Surroundings, name: str, *, form: Format) -> None:
    """List the starts that wait."""
    with surroundings.client() as client:
        waiting = client.get(list[WaitingView], "services", name, "queue")
    if for_programs(form):
        output.print_data(waiting, form)
    elif not waiting:
        print(f"nothing waits for {name}")
    else:
        table = output.new_table("ID", "TO", "STATE", "BY", "WORDS")
        for each in waiting:
            by = f"{each.by}: {each.why}" if each.why else each.by
            state = output.marked(each.state)
            table.add_row(each.id, each.candidate, state, output.clean(by), output.clean(each.words))
        output.print_page(table, color=surroundings.color)


def cancel(surroundings: Surroundings, name: str, start: str, why: str, *, form: Format) -> None:
    """Let one start, or all, wait no longer."""
    with surroundings.client() as client:
        if start == "all":
            starts = [each.id for each in client.get(list[WaitingView], "services", name, "queue")]
        else:
            starts = [start]
        gone = [
            client.post(WaitingView, "services", name, "queue", each, "cancel", body={"why": why}) for each in starts
        ]
    if for_programs(form):
        output.print_data(gone, form)
        return
    for each in gone:
        print(f"{each.id} to {each.candidate}: {output.clean(each.words)}")
    if not gone:
        print(f"nothing waits for {name}")


def freeze(surroundings: Surroundings, name: str | None, until: str, why: str, *, form: Format) -> None:
    """Begin a freeze, of everything where *name* is None."""
    body = {"until": moments.parse("--until", until, now=surroundings.now()).isoformat(), "why": why}
    with surroundings.client() as client:
        freeze = client.post(FreezeView, *_path(name, "freeze"), body=body)
    _show(freeze, freeze.words, form=form)


def unfreeze(surroundings: Surroundings, name: str | None, why: str, *, form: Format) -> None:
    """End a freeze, that of everything where *name* is None."""
    with surroundings.client() as client:
        freeze = client.post(FreezeView, *_path(name, "unfreeze"), body={"why": why})
    _show(freeze, f"{name or 'everything'} is not frozen any more", form=form)


def show_freezes(surroundings: Surroundings, *, form: Format) -> None:
    """List the freezes that are in force."""
    with surroundings.client() as client:
        freezes = client.get(list[FreezeView], "freezes")
    if for_programs(form):
        output.print_data(freezes, form)
        return
    for each in freezes:
        print(output.clean(each.words))
    if not freezes:
        print("nothing is frozen; freeze with: hueshift freeze NAME --until TIME")


def _path(name: str | None, verb: str) -> tuple[str, ...]:
    return (verb,) if name is None else ("services", name, verb)


def _show(freeze: FreezeView, words: str, *, form: Format) -> None:
    if for_programs(form):
        output.print_data(freeze, form)
    else:
        print(output.clean(words))
