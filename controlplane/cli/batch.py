"""`hueshift batch`: have a folder of photos coloured, through the jobs API, and go on wherever it was stopped."""

import contextlib
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.options import surroundings_of
from controlplane.errors import InvalidInputError

if TYPE_CHECKING:
    from controlplane.cli.batch_journal import Journal
    from controlplane.cli.batch_plan import Photo
    from controlplane.cli.batch_run import Ending


def batch(  # noqa: PLR0913, PLR0917 - options of the command line
    context: typer.Context,
    folder: Annotated[pathlib.Path, typer.Argument(metavar="DIR", help="The photos.", show_default=False)],
    out: Annotated[pathlib.Path, typer.Option("--out", help="Where results go; made if need be.", show_default=False)],
    workflow: Annotated[
        str | None, typer.Option("--workflow", help="The workflow; `jobs kinds` lists them.", show_default=False)
    ] = None,
    size: Annotated[int | None, typer.Option("--size", help="In pixels; else the kind's.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option("--model", help="Else the kind's first.", show_default=False)] = None,
    parallel: Annotated[int, typer.Option("--parallel", min=1, max=64, help="Photos under way at once.")] = 8,
    recursive: Annotated[bool, typer.Option("--recursive", help="Folders below, too.")] = False,  # noqa: FBT002 - a flag
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run those again that died.")] = False,  # noqa: FBT002 - a flag
) -> int:
    """Have a folder of photos coloured.

    Stopped, or killed, the same command goes on: nothing is coloured twice, and results that are there are checked and
    left. Each result has its photo's name, with the ending of what it is.
    """
    from controlplane.api.job_schemas import KindDocument  # noqa: PLC0415 - see main
    from controlplane.cli.batch_journal import Journal  # noqa: PLC0415
    from controlplane.cli.batch_plan import choose_options, plan_folder  # noqa: PLC0415
    from controlplane.cli.batch_run import Batch  # noqa: PLC0415
    from controlplane.cli.client import ExitCode  # noqa: PLC0415

    surroundings = surroundings_of(context)
    plan = plan_folder(folder, out, recursive=recursive)
    endings: list[Ending] = []
    with surroundings.client(quiet=True) as client:
        kinds = client.get(list[KindDocument], "job-kinds")
        options = choose_options(kinds, workflow=workflow, model=model, size=size)
        with Journal(out) as journal, _progress(len(plan.photos), color=surroundings.color) as (tell, say):
            _refuse_strangers(plan.photos, journal)
            running = Batch(
                client=client,
                surroundings=surroundings,
                options=options,
                journal=journal,
                retry_failed=retry_failed,
                say=say,
            )
            try:
                with contextlib.closing(running.run(plan.photos, parallel=parallel)) as ends:
                    for ending in ends:
                        endings.append(ending)
                        tell(ending)
            except KeyboardInterrupt:
                say("")
                print(f"stopped after {len(endings)} of {len(plan.photos)}; the same command goes on", file=sys.stderr)
                raise
    failed = [ending for ending in endings if not ending.record.file]
    _sum_up(endings, failed, others=plan.others)
    return ExitCode.NEGATIVE if failed else ExitCode.OK


def _refuse_strangers(photos: "tuple[Photo, ...]", journal: "Journal") -> None:
    """Refuse to write over what no batch has written."""
    from controlplane.jobs.photos import ENDINGS  # noqa: PLC0415 - see main

    ours = journal.files
    for photo in photos:
        for ending in ENDINGS:
            file = f"{photo.target}.{ending}"
            if file not in ours and (journal.out / file).exists():
                raise InvalidInputError(
                    "--out", f"{journal.out / file} is there already, and no batch wrote it", "move it, or name another"
                )


@contextlib.contextmanager
def _progress(total: int, *, color: bool) -> "Iterator[tuple[Callable[[Ending], None], Callable[[str], None]]]":
    """Draw a bar where a terminal is; where none is, print a line per photo."""
    from controlplane.cli import output  # noqa: PLC0415 - see main

    console = output.console(color=color)
    if not console.is_terminal:
        yield _print_line, _Once(lambda words: print(f"waits: {words}", flush=True))
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=total)

        def tell(ending: "Ending") -> None:
            progress.advance(task)
            if not ending.record.file:
                progress.console.print(_line(ending))

        yield tell, lambda words: progress.update(task, description=output.clean(words)[:60])


class _Once:
    """Says a thing once, until it is over."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said = ""

    def __call__(self, words: str) -> None:
        if words and words != self._said:
            self._say(words)
        self._said = words


def _line(ending: "Ending") -> str:
    from controlplane.cli import output  # noqa: PLC0415 - see main

    record = ending.record
    if not record.file:
        return output.clean(f"{record.name}: failed: {record.words}")
    how = "there already" if ending.skipped else f"by {ending.version}" if ending.version else "coloured"
    return output.clean(f"{record.name}: {record.file}, {how}")


def _print_line(ending: "Ending") -> None:
    print(_line(ending), flush=True)


def _sum_up(endings: "list[Ending]", failed: "list[Ending]", *, others: int) -> None:
    skipped = sum(ending.skipped for ending in endings)
    coloured = len(endings) - skipped - len(failed)
    left = f", {others} other files left alone" if others else ""
    print(f"{coloured} coloured, {skipped} there already, {len(failed)} failed{left}")
    for ending in sorted(failed, key=lambda each: each.record.name):
        print(f"  {_line(ending)}")
    if any(ending.record.job for ending in failed):
        print("run those again that died with: --retry-failed")


def register(app: typer.Typer) -> None:
    """Add this command to *app*."""
    app.command()(batch)
