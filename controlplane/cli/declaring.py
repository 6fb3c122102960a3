"""Documents from files: lint's reading of them, `diff`, `apply` with `--prune`, `delete`, and their schemas."""

import difflib
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from controlplane.cli.formats import Format, for_programs
from controlplane.cli.options import OutputOption, Service, Why, read_text, surroundings_of
from controlplane.errors import InvalidInputError, InvalidInputsError

if TYPE_CHECKING:
    from controlplane.api.applying import ApplyView, ChangeView
    from controlplane.api.document_files import GivenDocument
    from controlplane.cli.client import Client
    from controlplane.cli.surroundings import Surroundings
    from controlplane.traffic.model import ServiceSpec

SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
PLACE: Final = re.compile(r"documents\[(\d+)\]\.?([^:]*): ")

FilesOption = Annotated[
    list[pathlib.Path],
    typer.Option(
        "--file", "-f", help="Documents, YAML or JSON: a file, or a folder with all in it; again for more; - is stdin."
    ),
]
Owner = Annotated[
    str, typer.Option("--owner", help="Whose documents these are: the repository's name.", show_default=False)
]
Adopt = Annotated[bool, typer.Option("--adopt", help="Take over documents that other owners brought.")]
Prune = Annotated[
    bool, typer.Option("--prune", help="Take out what this owner brought before and is not there any more.")
]


def apply(  # noqa: PLR0913, PLR0917 - a parameter for each option
    context: typer.Context,
    files: FilesOption,
    owner: Owner = "",
    prune: Prune = False,  # noqa: FBT002 - a flag of the command line
    adopt: Adopt = False,  # noqa: FBT002
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,  # noqa: FBT002
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before something is deleted.")] = False,  # noqa: FBT002
    why: Why = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Declare services, versions, objectives and plans, and start rollouts, from documents.

    The same documents again change nothing, and their order means nothing. Each service is changed whole or not at all.
    A rollout that runs goes on by the plan that it started with, and a live split is never overwritten.
    """
    from controlplane.cli import output as printing  # noqa: PLC0415 - see main

    if prune and not owner:
        raise InvalidInputError("--owner", "is missing", "say whose documents these are, or leave --prune out")
    documents = read_all(files)
    surroundings = surroundings_of(context)
    options = {"owner": owner or None, "prune": prune, "adopt": adopt, "why": why}
    with surroundings.client() as client:
        if is_single(documents) and not (owner or prune or adopt or dry_run):
            _apply_one(client, documents[0], why, output)
            return
        view = _send(client, documents, {**options, "dry_run": True})
        if not dry_run and (view.changed or owner):
            _confirm(view, yes=yes)
            view = _send(client, documents, {**options, "dry_run": False}, if_match=view.etag)
    if for_programs(output):
        printing.print_data(view, output)
    else:
        for line in change_lines(view.changes):
            print(line + (" (dry run)" if dry_run and not line.startswith(" ") else ""))
    if view.refused:
        raise typer.Exit(4)


def diff(
    context: typer.Context,
    files: FilesOption,
    owner: Owner = "",
    prune: Prune = False,  # noqa: FBT002 - a flag of the command line
    adopt: Adopt = False,  # noqa: FBT002
    output: OutputOption = Format.TABLE,
) -> None:
    """Show what `apply` would change, as a unified diff of the documents that would hold.

    Exit code 0: nothing. 1: there is a difference. Also says what it would mean to a rollout that runs.
    """
    from controlplane.cli import output as printing  # noqa: PLC0415

    documents = read_all(files)
    surroundings = surroundings_of(context)
    with surroundings.client() as client:
        options = {"owner": owner or None, "prune": prune, "adopt": adopt, "dry_run": True}
        view = _send(client, documents, options)
    if for_programs(output):
        printing.print_data(view, output)
    else:
        console = printing.console(color=surroundings.color)
        for line in diff_lines(view.changes):
            console.print(printing.styled(line, STYLES.get(line[:1], "")), soft_wrap=True)
    if view.changed:
        raise typer.Exit(1)


def delete(
    context: typer.Context,
    name: Service,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,  # noqa: FBT002
    why: Why = "",
) -> None:
    """Serve a service no more; its history is kept. Refused while a rollout of it is active."""
    from controlplane.api.answers import ServiceView  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415
    from controlplane.cli.confirming import confirm  # noqa: PLC0415

    with surroundings_of(context).client() as client:
        service = client.get(ServiceView, "services", name)
        split = printing.split_text(service.split)
        confirm(f"delete service {name}: its traffic ends ({split})", yes=yes)
        client.delete("services", name, if_match=f'"{service.revision.number}"', reason=why)
    print(f"{name} is deleted; its history is kept")


def schema(
    kind: Annotated[
        str, typer.Argument(help="service, version, slo, plan, rollout; any of them without one.", show_default=False)
    ] = "any",
) -> None:
    """Print the JSON Schema of documents, for editors and checks; needs no server."""
    from controlplane.api.schema_routes import schema_of  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    printing.print_data(schema_of(kind.lower()), Format.JSON)


def show_document(surroundings: "Surroundings", name: str) -> None:
    """Print a service as one document that applies as unchanged."""
    from controlplane.cli import output as printing  # noqa: PLC0415

    with surroundings.client() as client:
        printing.print_data(client.get(dict[str, Any], "services", name, "document"), Format.YAML)


def register(app: typer.Typer) -> None:
    """Add these commands to *app*."""
    for command in (apply, diff, delete, schema):
        app.command()(command)


# -- files -------------------------------------------------------------------------------------------------------------


def find_files(named: Sequence[pathlib.Path]) -> Iterator[pathlib.Path]:
    """Yield the files themselves, and those in folders, by name; what begins with a dot in a folder is none.

    Raises:
        InvalidInputError: A folder has none.
    """
    for path in named:
        if not path.is_dir():
            yield path
            continue
        found = [
            file
            for file in sorted(path.rglob("*"))
            if file.suffix in SUFFIXES
            and file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
        if not found:
            raise InvalidInputError("--file", f"{path} holds no YAML or JSON file", "name a folder with documents")
        yield from found


def read_all(named: Sequence[pathlib.Path]) -> "list[GivenDocument]":
    """Return all documents of all files, each sound by itself.

    Raises:
        InvalidInputsError: Something is wrong in them; everything that is, with file and line.
    """
    documents, problems = look_through(named)
    if problems:
        raise InvalidInputsError(problems)
    return documents


def look_through(named: Sequence[pathlib.Path]) -> "tuple[list[GivenDocument], list[InvalidInputError]]":
    """Return the documents that can be read, and everything that is wrong, in the order of the files."""
    from controlplane.api.assembling import check_alone  # noqa: PLC0415
    from controlplane.api.document_files import placed, read_documents  # noqa: PLC0415
    from controlplane.api.envelopes import is_bare, read_envelope  # noqa: PLC0415

    documents: list[GivenDocument] = []
    problems: list[InvalidInputError] = []
    unreadable: list[InvalidInputError] = []
    for file in find_files(named):
        try:
            found = read_documents(read_text(file), str(file))
        except InvalidInputError as refusal:
            unreadable += refusal.problems
            continue
        for document in found:
            try:
                check_alone(read_envelope(document.content))
                if is_bare(document.content):  # it is whole, so that all of it can be looked at now
                    compose_here([document])
            except InvalidInputError as refusal:
                problems += refusal.problems if is_placed(refusal, document) else placed(document, refusal.problems)
            else:
                documents.append(document)
    return documents, problems + unreadable


def is_placed(refusal: InvalidInputError, document: "GivenDocument") -> bool:
    """Whether it says already where in its file something is."""
    return refusal.field.startswith(f"{document.source}:")


def compose_here(documents: "Sequence[GivenDocument]") -> "Mapping[str, ServiceSpec]":
    """Put services together from documents alone, by name, as if there were nothing else.

    Raises:
        InvalidInputsError: They do not fit; everything that is wrong, with file and line.
    """
    from controlplane.api.composing import compose  # noqa: PLC0415
    from controlplane.api.composition import Given, Present, Wanted  # noqa: PLC0415
    from controlplane.api.envelopes import is_bare, read_envelope  # noqa: PLC0415

    given = [
        Given(read_envelope(document.content), f"documents[{place}]", is_bare(document.content))
        for place, document in enumerate(documents, start=1)
    ]
    try:
        return compose(given, Present({}, {}, {}), Wanted()).specs
    except InvalidInputError as refusal:
        raise InvalidInputsError(
            [
                InvalidInputError(in_files(f"{one.field}: ", documents).removesuffix(": "), one.problem, one.fix)
                for one in refusal.problems
            ]
        ) from refusal


def is_single(documents: "Sequence[GivenDocument]") -> bool:
    """Whether there is one document, of the old form."""
    from controlplane.api.envelopes import is_bare  # noqa: PLC0415

    return len(documents) == 1 and is_bare(documents[0].content)


# -- the API -----------------------------------------------------------------------------------------------------------


def _apply_one(client: "Client", document: "GivenDocument", why: str, output: Format) -> None:
    from controlplane.api.answers import AppliedView  # noqa: PLC0415
    from controlplane.api.documents import document_of, spec_from  # noqa: PLC0415
    from controlplane.api.reading import read_document  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    spec = spec_from(read_document(document.content))
    body = document_of(spec).model_dump(mode="json", exclude_none=True)
    applied = client.put(AppliedView, "services", spec.name, body=body, why=why)
    if for_programs(output):
        printing.print_data(applied, output)
    else:
        print(applied.words)


def _send(
    client: "Client", documents: "Sequence[GivenDocument]", options: dict[str, Any], *, if_match: str | None = None
) -> "ApplyView":
    from controlplane.api.applying import ApplyView  # noqa: PLC0415
    from controlplane.api.envelopes import as_json, is_bare, read_envelope  # noqa: PLC0415
    from controlplane.cli.client import RefusalError  # noqa: PLC0415

    # In one spelling: dates and other things that YAML knows and JSON does not are written out.
    bodies = []
    for document in documents:
        body = as_json(read_envelope(document.content))
        bare = is_bare(document.content)
        bodies.append({"service": body["metadata"]["name"], **body["spec"]} if bare else body)
    try:
        return client.post(ApplyView, "documents", body={"documents": bodies, **options}, if_match=if_match)
    except RefusalError as refusal:
        refusal.lines = tuple(in_files(line, documents) for line in refusal.lines)
        raise


def in_files(line: str, documents: "Sequence[GivenDocument]") -> str:
    """Say where in the files that is written which *line* calls ``documents[3].spec.…``."""
    return PLACE.sub(lambda found: f"{documents[int(found[1]) - 1].place(found[2])}: ", line, count=1)


def _confirm(view: "ApplyView", *, yes: bool) -> None:
    from controlplane.cli.confirming import confirm  # noqa: PLC0415

    deleted = [change for change in view.changes if change.action == "deleted"]
    if not deleted:
        return
    for line in change_lines(deleted):
        typer.echo(line.replace(" deleted", " will be deleted"), err=True)
    confirm(f"delete {len(deleted)} of what was applied before", yes=yes)


# -- what is printed ---------------------------------------------------------------------------------------------------

STYLES: Final = {"+": "green", "-": "red", "@": "cyan", "#": "yellow"}


def change_lines(changes: "Sequence[ChangeView]") -> Iterator[str]:
    """Say what became of each document, with what it means on the lines below."""
    for change in changes:
        yield change.words
        yield from (f"  {note}" for note in change.notes)


def diff_lines(changes: "Sequence[ChangeView]") -> Iterator[str]:
    """Write the differences as `diff -u` does; a line that begins with # says what a change means."""
    from controlplane.cli.output import as_yaml  # noqa: PLC0415

    for change in changes:
        if change.action != "unchanged" and (change.before or change.after):
            before, after = (as_yaml(side).splitlines() if side else [] for side in (change.before, change.after))
            name = f"{change.kind} {change.name}"
            yield from difflib.unified_diff(before, after, f"now/{name}", f"applied/{name}", lineterm="")
        yield from (f"# {change.kind} {change.name}: {note}" for note in change.notes)
