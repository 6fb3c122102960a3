"""`hueshift jobs`, for whoever runs them: everything about one job, another chance, dead letters, drains, figures."""

import datetime as dt
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.formats import Format, for_programs
from controlplane.cli.jobs import JobId, jobs
from controlplane.cli.options import OutputOption, surroundings_of
from controlplane.errors import InvalidInputError

if TYPE_CHECKING:
    from controlplane.api.job_schemas import JobView
    from controlplane.cli.client import Client

PAGE = 200
POLL_S = 1.0

Kind = Annotated[str | None, typer.Option("--kind", help="Only of this kind.", show_default=False)]
Since = Annotated[
    str | None, typer.Option("--since", help="Only those that ended so long ago at most: 2h.", show_default=False)
]


def show(context: typer.Context, job: JobId, output: OutputOption = Format.TABLE) -> None:
    """Show everything about one of your jobs.

    Its states with their times, what it asked for, and each attempt with the version that answered; `get` is one line.
    """
    from controlplane.api.job_figures import AttemptView  # noqa: PLC0415
    from controlplane.api.job_schemas import JobView  # noqa: PLC0415
    from controlplane.cli import job_pages  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    surroundings = surroundings_of(context)
    with surroundings.client() as client:
        found = client.get(JobView, "jobs", job)
        attempts = client.get(list[AttemptView], "jobs", job, "attempts")
    if for_programs(output):
        printing.print_data(
            {**found.model_dump(mode="json"), "attempts_made": [each.model_dump(mode="json") for each in attempts]},
            output,
        )
    else:
        printing.print_page(job_pages.job_page(found, attempts), color=surroundings.color)


def retry(
    context: typer.Context,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Jobs.", show_default=False)] = None,
    state: Annotated[
        str | None, typer.Option("--state", help="All of yours that are dead, or cancelled.", show_default=False)
    ] = None,
    kind: Kind = None,
    since: Since = None,
) -> int:
    """Run dead or cancelled jobs again.

    They wait again as if they had never failed; those that wait or run already stay so.
    """
    from controlplane.api.job_schemas import JobView  # noqa: PLC0415
    from controlplane.cli.client import ExitCode, RefusalError  # noqa: PLC0415

    if bool(ids) == (state is not None):
        raise InvalidInputError("ID", "or --state is needed, one of them", "name jobs, or --state dead")
    if ids and (kind is not None or since is not None):
        raise InvalidInputError("--kind and --since", "choose among all jobs of a --state", "leave the ids out")
    if state not in {None, "dead", "cancelled"}:
        raise InvalidInputError("--state", f"{state!r} cannot be run again", "use dead or cancelled")
    surroundings = surroundings_of(context)
    begin = _begin(since, surroundings.now())
    refused = done = 0
    with surroundings.client() as client:
        chosen = ids or [each.id for each in list(_ended(client, str(state), kind, begin))]
        for job in chosen:
            try:
                found = client.post(JobView, "jobs", job, "retry", body={})
            except RefusalError as exc:
                if exc.status not in {404, 409}:
                    raise
                refused += 1
                print(exc.lines[0])
                continue
            done += 1
            print(f"job {found.id} is {found.state}")
    if not chosen:
        print("you have no such jobs")
    elif len(chosen) > 1:
        print(f"{done} run again, {refused} cannot")
    return ExitCode.REFUSED if refused else ExitCode.OK


def dead_letters(
    context: typer.Context, kind: Kind = None, since: Since = None, output: OutputOption = Format.TABLE
) -> None:
    """List your dead jobs by the reason that they died of, the most frequent first."""
    from controlplane.cli import job_pages  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    surroundings = surroundings_of(context)
    with surroundings.client() as client:
        found = list(_ended(client, "dead", kind, _begin(since, surroundings.now())))
    if for_programs(output):
        printing.print_data(found, output)
    elif found:
        printing.print_page(job_pages.dead_page(found), color=surroundings.color)
    else:
        print("you have no such jobs")


def queues(context: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """Show all queues, with the jobs of all owners.

    For operators: backlog, oldest age, running jobs, drains, and what lies among the dead letters.
    """
    from controlplane.api.job_figures import QueuesView  # noqa: PLC0415
    from controlplane.cli import job_pages  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    surroundings = surroundings_of(context)
    with surroundings.client() as client:
        found = client.get(QueuesView, "job-queues")
    if for_programs(output):
        printing.print_data(found, output)
    else:
        printing.print_page(job_pages.queues_page(found), color=surroundings.color)


def figures(
    context: typer.Context,
    since: Annotated[str, typer.Option("--since", help="How far back; at most 31d.")] = "1h",
    kind: Kind = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show how jobs did: success shares, waits and runs, per kind and per version."""
    from controlplane.api.job_figures import FiguresView  # noqa: PLC0415
    from controlplane.cli import job_pages  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    surroundings = surroundings_of(context)
    with surroundings.client() as client:
        found = client.get(FiguresView, "job-figures", since=since, **_only(kind))
    if for_programs(output):
        printing.print_data(found, output)
    else:
        printing.print_page(job_pages.figures_page(found, since), color=surroundings.color)


def drain(
    context: typer.Context,
    kind: Kind = None,
    off: Annotated[bool, typer.Option("--off", help="Start them again; without --kind all.")] = False,  # noqa: FBT002 - a flag
    wait: Annotated[bool, typer.Option(help="Until none of them runs any more.")] = True,  # noqa: FBT002 - a flag
    reason: Annotated[str, typer.Option("--reason", "--why", help="For the audit.", show_default=False)] = "",
) -> None:
    """Start no more jobs, for the time of some work on workers or disks.

    For operators. What is submitted waits, what runs goes on to its end; it holds on every replica and over restarts,
    until --off.
    """
    from controlplane.api.job_figures import DrainedView  # noqa: PLC0415

    surroundings = surroundings_of(context)
    body = {"kind": kind or "", "on": not off, "why": reason}
    with surroundings.client() as client:
        print(client.put(DrainedView, "job-drains", body=body).words)
        if off or not wait:
            return
        before = None
        while (running := _running(client, kind)) != 0:
            if running not in {None, before}:
                print(f"{running} still run")
            before = running
            surroundings.sleep(POLL_S)
    print("none runs any more")


def _only(kind: str | None) -> dict[str, str]:
    return {} if kind is None else {"kind": kind}


def _running(client: "Client", kind: str | None) -> int | None:
    """Return how many jobs run; None while nobody answers: a restart does not end the drain."""
    from controlplane.api.job_figures import FiguresView  # noqa: PLC0415
    from controlplane.errors import UnavailableError  # noqa: PLC0415

    try:
        found = client.get(FiguresView, "job-figures", since="1s", **_only(kind))
    except UnavailableError:
        return None
    return sum(each.now.running for each in found.kinds)


def _begin(since: str | None, now: dt.datetime) -> dt.datetime | None:
    if since is None:
        return None
    from controlplane.api import units  # noqa: PLC0415 - see main

    try:
        return now - units.parse_span(since)
    except units.UnitError as exc:
        raise InvalidInputError("--since", exc.problem, exc.fix) from exc


def _ended(client: "Client", state: str, kind: str | None, begin: dt.datetime | None) -> "Iterator[JobView]":
    """Page through the caller's jobs of a state, newest first."""
    from controlplane.api.job_schemas import JobView  # noqa: PLC0415

    query: dict[str, str | int] = {"state": state, "limit": PAGE}
    while True:
        page = client.get_page(JobView, "jobs", **query)
        for job in page.items:
            late = begin is None or (job.finished_at is not None and job.finished_at >= begin)
            if late and kind in {None, job.kind}:
                yield job
        if page.next is None:
            return
        query["cursor"] = page.next


def register() -> None:
    """Add these commands to `hueshift jobs`."""
    jobs.command()(show)
    jobs.command()(retry)
    jobs.command("dead-letters")(dead_letters)
    jobs.command()(queues)
    jobs.command()(figures)
    jobs.command()(drain)
