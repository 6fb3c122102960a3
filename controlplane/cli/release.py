"""The commands of a release engineer: declare services, start rollouts, steer them, look at everything."""

import pathlib
from typing import Annotated, Any

import typer

from controlplane.cli import declaring, linting, moments, reporting, steering_commands
from controlplane.cli.formats import Format, for_programs
from controlplane.cli.options import OutputOption, Service, Why, percentages, surroundings_of
from controlplane.errors import InvalidInputError


def list_services(context: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """List all services with their latest rollout."""
    from controlplane.api.answers import SummaryView  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    surroundings = surroundings_of(context)
    with surroundings.client() as client:
        services = client.get_all(SummaryView, "services")
    if for_programs(output):
        printing.print_data(services, output)
    elif services:
        printing.print_page(printing.services_table(services), color=surroundings.color)
    else:
        print("there is no service yet; declare one with: hueshift apply -f FILE")


def start(  # noqa: PLR0913, PLR0917 - one per option
    context: typer.Context,
    name: Service,
    to: Annotated[str, typer.Option("--to", help="The version that is to get the traffic.")],
    steps: Annotated[
        str | None,
        typer.Option("--steps", help="Weights in percent instead of the plan's, as 25,50,100.", show_default=False),
    ] = None,
    hold: Annotated[
        str | None,
        typer.Option("--hold", help="With --steps: how long each is held at least, as 30s.", show_default=False),
    ] = None,
    replaces: Annotated[
        str | None,
        typer.Option("--from", help="Whose traffic moves, where several versions have some.", show_default=False),
    ] = None,
    supersede: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--supersede", help="Take the place of the rollout that runs: it gives its traffic back.")
    ] = False,
    queue: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--queue", help="Wait until the rollout that runs has ended.")
    ] = False,
    only_after_success: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--only-after-success", help="With --queue or --at: not if the one before is rolled back.")
    ] = False,
    at: Annotated[
        str | None,
        typer.Option("--at", help="When: 22:00, +2h, or 2026-12-01T22:00:00Z.", show_default=False),
    ] = None,
    again: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--again", help="Also a version that failed when it was tried last.")
    ] = False,
    why: Why = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Start a rollout to a version. It moves by the service's plan, as far as the evidence carries it.

    Where one runs already: --supersede, or --queue. Example: hueshift start colorize --to v43 --at 22:00
    """
    from controlplane.api.answers import RolloutView  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    surroundings = surroundings_of(context)
    body: dict[str, Any] = {"to": to, "why": why, **({"replaces": replaces} if replaces else {})}
    flags = {"supersede": supersede, "queue": queue, "only_after_success": only_after_success, "again": again}
    body |= {name: True for name, given in flags.items() if given}
    if at is not None:
        body["at"] = moments.parse("--at", at, now=surroundings.now()).isoformat()
    if steps is not None:
        weights = percentages("--steps", steps.split(","))
        body["steps"] = [{"weight": weight, **({"hold": hold} if hold else {})} for weight in weights]
    elif hold is not None:
        raise InvalidInputError("--hold", "is given without --steps", "add --steps, as 25,50,100")
    with surroundings.client() as client:
        rollout = client.post(RolloutView, "services", name, "rollouts", body=body)
    if for_programs(output):
        printing.print_data(rollout, output)
        return
    printing.print_page(printing.rollout_line(rollout), color=surroundings.color)
    waits = rollout.state in {"queued", "scheduled"}
    follow = f"hueshift status {name} --rollout {rollout.id}" if waits else f"hueshift get {name} -w"
    print(f"follow it with: {follow}")


def get(
    context: typer.Context,
    name: Service,
    watch: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--watch", "-w", help="Draw again until the rollout has ended, or Ctrl-C.")
    ] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show everything about a service.

    Its split, its rollout with the evidence, which Envoys acknowledged, what happened last.
    """
    from controlplane.cli import watching  # noqa: PLC0415

    if output is Format.YAML:
        declaring.show_document(surroundings_of(context), name)
        return
    if watch:
        watching.watch(surroundings_of(context), name, form=output)
    else:
        watching.show(surroundings_of(context), name, form=output)


def status(
    context: typer.Context,
    name: Service,
    timeout: Annotated[str, typer.Option("--timeout", help="How long to wait for an end; 0 only asks.")] = "5m",
    rollout: Annotated[
        str | None, typer.Option("--rollout", help="This one instead of the latest.", show_default=False)
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Wait for a rollout's end, for scripts.

    Exit code 0: promoted. 1: rolled back, or a start that waited and never begins. 2: not decided in time, or it is
    paused and a person must look (the evidence stays inconclusive, Envoy refused the configuration, telemetry is lost).
    3: unreachable. 4: there is no rollout.
    """
    from controlplane.cli import watching  # noqa: PLC0415

    code = watching.wait(surroundings_of(context), name, rollout, timeout, form=output)
    raise typer.Exit(code)


def pause(context: typer.Context, name: Service, why: Why = "", output: OutputOption = Format.TABLE) -> None:
    """Stop the active rollout where it is. The judge watches on: a breach still rolls back."""
    _command(context, name, "pause", {"why": why}, output)


def resume(context: typer.Context, name: Service, why: Why = "", output: OutputOption = Format.TABLE) -> None:
    """Let a paused rollout go on."""
    _command(context, name, "resume", {"why": why}, output)


def promote(
    context: typer.Context,
    name: Service,
    full: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--full", help="Take the last step at once, not the next one.")
    ] = False,
    why: Why = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Take the next step without waiting for the judge. A breach still rolls back."""
    _command(context, name, "promote", {"why": why, "full": full}, output)


def abort(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The service's name.", show_default=False)] = None,
    every: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--all", help="Every rollout of every service, and all that wait.")
    ] = False,
    why: Why = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Give all traffic back to the old version. Where nothing runs, the starts that wait are cancelled."""
    from controlplane.cli import steering  # noqa: PLC0415

    if (name is None) != every:
        raise InvalidInputError("name", "is missing" if name is None else "is given beside --all", "give one of them")
    if name is None:
        steering.stop(surroundings_of(context), why, form=output)
    else:
        _command(context, name, "abort", {"why": why}, output)


def set_weight(
    context: typer.Context,
    name: Service,
    weights: Annotated[list[str], typer.Argument(help="VERSION=PERCENT, as v1=90% v2=10%.", show_default=False)],
    why: Why = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Set the live split by hand. Refused while a rollout is active; versions that are not named get nothing."""
    from controlplane.api.answers import ServiceView  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    pairs = [text.partition("=") for text in weights]
    for text, (version, equals, _) in zip(weights, pairs, strict=True):
        if not version or not equals:
            raise InvalidInputError("weights", f"{text!r} is not VERSION=PERCENT", "write them like v1=90% v2=10%")
    names = [version for version, _, _ in pairs]
    if len(set(names)) != len(names):
        raise InvalidInputError("weights", "a version is named twice", "name each version once")
    shares = percentages("weights", [value for _, _, value in pairs])
    body = {"weights": dict(zip(names, shares, strict=True)), "why": why}
    with surroundings_of(context).client() as client:
        service = client.put(ServiceView, "services", name, "split", body=body)
    if for_programs(output):
        printing.print_data(service, output)
    else:
        print(f"{name}: the split is now {printing.split_text(service.split)}")


def history(
    context: typer.Context,
    name: Service,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many entries, the newest ones.")] = 50,
    rollout: Annotated[
        str | None, typer.Option("--rollout", help="Only what belongs to this one.", show_default=False)
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show what happened: when, who, what, why.

    Oldest first; nothing is ever removed from it.
    """
    from controlplane.api.answers import EventView  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    query: dict[str, str | int] = {"limit": limit, **({"rollout": rollout} if rollout else {})}
    surroundings = surroundings_of(context)
    with surroundings.client() as client:
        events = client.get_page(EventView, "services", name, "history", **query).items[::-1]
    if for_programs(output):
        printing.print_data(events, output)
    elif events:
        printing.print_page(printing.events_table(events), color=surroundings.color)
    else:
        print(f"nothing has happened to {name} yet")


def explain(context: typer.Context, name: Service, output: OutputOption = Format.TABLE) -> None:
    """Say why a rollout stands where it stands.

    Each objective with what was measured, its bound, the old version in the same seconds, the evidence as odds, and
    what is still needed for the next step.
    """
    from controlplane.api.answers import ExplanationView  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    surroundings = surroundings_of(context)
    with surroundings.client() as client:
        explanation = client.get(ExplanationView, "services", name, "explain")
    if for_programs(output):
        printing.print_data(explanation, output)
    else:
        printing.print_page(printing.explanation(explanation), color=surroundings.color)


def replay(
    context: typer.Context,
    rollout: Annotated[
        str, typer.Argument(help="Its id, as colorize-7; or a service, for its newest.", show_default=False)
    ],
    slo: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--slo",
            help="Other objectives: a YAML list, or a document with slos:, as a service's; - is standard input.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--all", help="Every second, not only those in which something changed.")
    ] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Judge a rollout's recorded telemetry again, by its own objectives or by others.

    Second by second: what the judge said, and what it says now. By its own objectives the recorded decisions come out
    exactly. By others, the first different decision is exact; after it the weights are still those of the recording.
    """
    from controlplane.cli import replaying  # noqa: PLC0415

    replaying.replay(surroundings_of(context), rollout, slo, every=every, form=output)


def register(app: typer.Typer) -> None:
    """Add these commands to *app*."""
    declaring.register(app)
    reporting.register(app)
    app.command()(linting.lint)
    app.command("list")(list_services)
    app.command()(get)
    for command in (start, status, pause, resume, promote, abort):
        app.command()(command)
    app.command("set-weight")(set_weight)
    steering_commands.register(app)
    app.command()(history)
    app.command()(explain)
    app.command()(replay)


def _command(context: typer.Context, name: str, verb: str, body: dict[str, Any], output: Format) -> None:
    from controlplane.cli import watching  # noqa: PLC0415

    watching.command(surroundings_of(context), name, verb, body, form=output)
