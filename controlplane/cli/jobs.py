"""`hueshift jobs`: hand photos in, look how far they are, collect them coloured; and the kinds of tasks there are."""

import pathlib
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.callbacks import callbacks
from controlplane.cli.formats import Format, for_programs
from controlplane.cli.options import OutputOption, Yes, read_text, surroundings_of
from controlplane.cli.owners import owners
from controlplane.errors import InvalidInputError

if TYPE_CHECKING:
    from rich.table import Table

    from controlplane.api.job_schemas import JobView, KindDocument

jobs = typer.Typer(no_args_is_help=True, help="Have photos coloured when workers have room.")
kinds = typer.Typer(invoke_without_command=True, help="List the kinds of tasks, or apply them from a file.")
jobs.add_typer(kinds, name="kinds")
jobs.add_typer(owners, name="owners")
jobs.add_typer(callbacks, name="callbacks")

JobId = Annotated[str, typer.Argument(help="The job's id.", show_default=False)]

STATES = "waiting, running, done, dead or cancelled"


@jobs.command()
def submit(  # noqa: PLR0913, PLR0917 - one per option of the command line
    context: typer.Context,
    photo: Annotated[pathlib.Path, typer.Argument(help="A JPEG, PNG, WebP, TIFF or BMP.", show_default=False)],
    workflow: Annotated[str, typer.Option("--workflow", help="The workflow; `kinds` lists them.", show_default=False)],
    size: Annotated[int | None, typer.Option("--size", help="In pixels; else the kind's.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option("--model", help="Else the kind's first.", show_default=False)] = None,
    task_id: Annotated[
        str | None,
        typer.Option("--task-id", help="Your own name for it: the same again is no job.", show_default=False),
    ] = None,
    callback_url: Annotated[
        str | None, typer.Option("--callback-url", help="Who is told of its end.", show_default=False)
    ] = None,
    vip: Annotated[bool, typer.Option("--vip", help="Before all that are not.")] = False,  # noqa: FBT002 - a flag
    output: OutputOption = Format.TABLE,
) -> None:
    """Hand a photo in.

    It is safe once this returns, and coloured when a worker has room.
    """
    from controlplane.api.job_schemas import JobView  # noqa: PLC0415

    try:
        content = photo.read_bytes()
    except OSError as exc:
        raise InvalidInputError("photo", f"{photo} cannot be read ({exc.strerror})", "name a picture's file") from exc
    given = {"size": size, "model": model, "task_id": task_id, "callback_url": callback_url}
    fields = {name: str(value) for name, value in given.items() if value is not None}
    fields |= {"workflow_type": workflow, "priority": "vip" if vip else "normal"}
    with surroundings_of(context).client() as client:
        job = client.post_bytes(JobView, "jobs", content=content, **fields)
    _print_job(job, output, f"job {job.id} waits; collect it with: hueshift jobs result {job.id} --out FILE")


@jobs.command("list")
def list_jobs(
    context: typer.Context,
    state: Annotated[str | None, typer.Option("--state", help=f"Only those: {STATES}.", show_default=False)] = None,
    before: Annotated[
        str | None, typer.Option("--before", help="Only those submitted before this job.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many.")] = 50,
    output: OutputOption = Format.TABLE,
) -> None:
    """List your jobs, newest first."""
    from controlplane.api.job_schemas import JobView  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    query: dict[str, str | int] = {"limit": limit}
    query |= {name: value for name, value in (("state", state), ("before", before)) if value}
    surroundings = surroundings_of(context)
    with surroundings.client() as client:
        found = client.get_page(JobView, "jobs", **query).items
    if for_programs(output):
        printing.print_data(found, output)
    elif found:
        printing.print_page(_table(found), color=surroundings.color)
    else:
        print("you have no such jobs")


@jobs.command()
def get(context: typer.Context, job: JobId, output: OutputOption = Format.TABLE) -> None:
    """Show one of your jobs, and who was told of its end."""
    from controlplane.api.callback_schemas import JobDetailView  # noqa: PLC0415

    with surroundings_of(context).client() as client:
        found = client.get(JobDetailView, "jobs", job)
    words = f": {found.words}" if found.words else ""
    lines = [f"job {found.id} ({found.task_id}) is {found.state}{words}"]
    for each in found.callbacks:
        how_far = "delivered" if each.delivered else "waits" if each.ended_at is None else "given up"
        because = f": {each.words}" if each.words else ""
        lines.append(f"{each.callback} ({each.host}): {each.state} {how_far}, {each.tries} tries{because}")
    _print_job(found, output, *lines)


@jobs.command()
def result(
    context: typer.Context,
    job: JobId,
    out: Annotated[pathlib.Path, typer.Option("--out", help="Where the picture goes.", show_default=False)],
) -> None:
    """Download the picture of a job that is done."""
    with surroundings_of(context).client() as client:
        content = client.get_bytes("jobs", job, "result")
    try:
        out.write_bytes(content)
    except OSError as exc:
        raise InvalidInputError("--out", f"{out} cannot be written ({exc.strerror})", "name another file") from exc
    print(f"{out}: {len(content)} bytes")


@jobs.command()
def cancel(context: typer.Context, job: JobId, output: OutputOption = Format.TABLE) -> None:
    """End a job that waits or runs."""
    from controlplane.api.job_schemas import JobView  # noqa: PLC0415

    with surroundings_of(context).client() as client:
        found = client.post(JobView, "jobs", job, "cancel", body={})
    _print_job(found, output, f"job {found.id} is {found.state}")


@jobs.command()
def delete(context: typer.Context, job: JobId, yes: Yes = False) -> None:  # noqa: FBT002 - a flag
    """Forget a job, with its photo and its result."""
    from controlplane.cli.confirming import confirm  # noqa: PLC0415

    confirm(f"job {job} goes, with its photo and its result,", yes=yes)
    with surroundings_of(context).client() as client:
        client.delete("jobs", job)
    print(f"job {job} is gone")


@kinds.callback()
def list_kinds(context: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """List the kinds of tasks, or apply them from a file."""
    if context.invoked_subcommand is not None:
        return
    from controlplane.api.job_figures import DrainView  # noqa: PLC0415
    from controlplane.api.job_schemas import KindDocument  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    surroundings = surroundings_of(context)
    with surroundings.client() as client:
        found = client.get(list[KindDocument], "job-kinds")
        drained = {each.kind for each in client.get(list[DrainView], "job-drains") if each.ended_at is None}
    if for_programs(output):
        printing.print_data(found, output)
    elif found:
        printing.print_page(_kinds_table(found, drained), color=surroundings.color)
    else:
        print("there are no kinds yet; apply some: hueshift jobs kinds apply -f FILE")


@kinds.command("apply")
def apply_kinds(
    context: typer.Context,
    file: Annotated[
        pathlib.Path, typer.Option("--file", "-f", help="Kinds, one document each, YAML or JSON; - is standard input.")
    ],
    output: OutputOption = Format.TABLE,
) -> None:
    """Declare kinds of tasks.

    Each replaces the one of its name; jobs that wait follow it. The same file again changes nothing.
    """
    from controlplane.api.job_schemas import KindAppliedView, kind_document, parse_kinds  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    meant = [kind_document(kind) for kind in parse_kinds(read_text(file), source=str(file))]
    with surroundings_of(context).client() as client:
        applied = [
            client.put(KindAppliedView, "job-kinds", each.kind, body=each.model_dump(mode="json")) for each in meant
        ]
    if for_programs(output):
        printing.print_data(applied, output)
    else:
        for each in applied:
            print(each.words)


def register(app: typer.Typer) -> None:
    """Add these commands to *app*."""
    app.add_typer(jobs, name="jobs")


def _print_job(job: "JobView", output: Format, *lines: str) -> None:
    from controlplane.cli import output as printing  # noqa: PLC0415

    if for_programs(output):
        printing.print_data(job, output)
    else:
        print("\n  ".join(printing.clean(line) for line in lines))


def _table(found: "Iterable[JobView]") -> "Table":
    from controlplane.cli import output as printing  # noqa: PLC0415

    table = printing.new_table("ID", "TASK", "KIND", "SIZE", "STATE", "ATTEMPTS", "VERSION", "SUBMITTED", "WORDS")
    for job in found:
        task = "-" if job.task_id == job.id else printing.clean(job.task_id)
        submitted = job.submitted_at.strftime("%Y-%m-%d %H:%M:%S")
        row = (job.id, task, job.kind, str(job.size), job.state, str(job.attempts), job.version or "-", submitted)
        table.add_row(*row, printing.clean(job.words) or "-")
    return table


def _kinds_table(found: "Iterable[KindDocument]", drained: "AbstractSet[str]") -> "Table":
    from controlplane.cli import output as printing  # noqa: PLC0415

    table = printing.new_table("KIND", "WORKFLOW", "MODELS", "SIZES", "QUEUE", "ROUTE", "STARTS")
    for kind in found:
        sizes = f"{kind.sizes.min}-{kind.sizes.max} px"
        headers = "".join(f" {name}: {value}" for name, value in kind.route.headers.items())
        models = ", ".join(kind.models)
        starts = "no: drained" if drained & {"", kind.kind} else "yes"
        row = (kind.kind, kind.workflow, models, sizes, kind.queue or kind.kind, f"{kind.route.path}{headers}")
        table.add_row(*row, starts)
    return table
