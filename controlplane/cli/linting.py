"""`hueshift lint`: everything that would stop a declaration later, said before anything is sent anywhere."""

import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from controlplane.cli.declaring import FilesOption, compose_here, look_through
from controlplane.cli.formats import Format, for_programs
from controlplane.cli.options import OutputOption, surroundings_of
from controlplane.cli.waiting import spinner
from controlplane.codes import by_slug
from controlplane.errors import InvalidInputError, InvalidInputsError, UnavailableError

if TYPE_CHECKING:
    from controlplane.controller.preview import Preview
    from controlplane.traffic.model import ServiceSpec


def lint(context: typer.Context, files: FilesOption, output: OutputOption = Format.TABLE) -> None:
    """Check documents; needs no server.

    The documents themselves, what Envoys would be sent for them, how they go together, and, where there is an Envoy on
    this machine, what that one says (HUESHIFT_VALIDATE_WITH_ENVOY=off leaves it out). Everything that is wrong is said
    at once. Exit code 2 if anything is.
    """
    preview, envoy = _preview(surroundings_of(context).environment)
    specs, problems = _read_all(files)
    if not problems:
        with spinner("trying the declarations"):
            problems = _try_all(preview, [spec for _, spec in specs])
    if for_programs(output):
        from controlplane.cli import output as printing  # noqa: PLC0415 - see main

        services = [{"source": source, **_summary(spec)} for source, spec in specs]
        told = [{"field": one.field, "problem": one.problem, "fix": one.fix} for one in problems]
        printing.print_data({"valid": not problems, "services": services, "problems": told, "envoy": envoy()}, output)
        raise typer.Exit(2 if problems else 0)
    if problems:
        raise InvalidInputsError(problems)
    for source, spec in specs:
        print(
            f"{source}: service {spec.name} is valid: {len(spec.versions)} versions, {len(spec.routes)} routes, "
            f"{len(spec.slos)} objectives, {len(spec.plan.steps)} steps"
        )
    said = f"Envoy's own validation: {envoy()}"
    if said.startswith("Envoy's own validation: used"):
        print(said)
    else:
        from controlplane.cli import output as printing  # noqa: PLC0415

        code = by_slug("envoy_not_asked")
        print(printing.advice_words(code, "lint", said, code.run).plain)


def _read_all(files: Sequence[pathlib.Path]) -> "tuple[list[tuple[str, ServiceSpec]], list[InvalidInputError]]":
    """Return the services with the names of their files, and what is wrong with the documents.

    Documents whose service is not among them are checked by themselves.
    """
    from controlplane.api.envelopes import read_envelope, service_of  # noqa: PLC0415

    documents, problems = look_through(files)
    if problems:
        return [], problems
    read = [(document, read_envelope(document.content)) for document in documents]
    sources = {one.metadata.name: document.source for document, one in read if one.kind == "Service"}
    together = [document for document, one in read if service_of(one) in {*sources, ""}]
    alone = len(documents) - len(together)
    try:
        specs = compose_here(together)
    except InvalidInputError as refusal:
        return [], list(refusal.problems)
    if alone:
        print(f"{alone} of the documents: their service is not among them; checked by themselves", file=sys.stderr)
    return [(source, specs[name]) for name, source in sources.items() if name in specs], []


def _try_all(preview: "Preview", specs: "Sequence[ServiceSpec]") -> list[InvalidInputError]:
    """Return what is wrong with each service, or, if each is sound, with all of them beside each other."""
    import asyncio  # noqa: PLC0415

    async def attempt() -> list[InvalidInputError]:
        problems: list[InvalidInputError] = []
        for spec in specs:
            problems += await _problems(preview, (spec,))
        if not problems:
            for together in _groups(specs):
                problems += await _problems(preview, together)
        return list({str(problem): problem for problem in problems}.values())

    return asyncio.run(attempt())


async def _problems(preview: "Preview", specs: "Sequence[ServiceSpec]") -> Sequence[InvalidInputError]:
    try:
        await preview.refuse(*specs)
    except InvalidInputError as refusal:
        return refusal.problems
    return ()


def _groups(specs: "Sequence[ServiceSpec]") -> "Iterator[Sequence[ServiceSpec]]":
    """Yield the services that one Envoy would be sent together, as far as these documents name the groups."""
    for group in ("", *sorted({group for spec in specs for group in spec.groups})):
        together = [spec for spec in specs if not spec.groups or group in spec.groups]
        if len(together) > 1:
            yield together


def _preview(environment: Mapping[str, str]) -> "tuple[Preview, Callable[[], str]]":
    """Return what tries services here, and what says afterwards which part Envoy had in it.

    Raises:
        InvalidInputError: HUESHIFT_ENVOY does not name a program.
    """
    from controlplane.controller.preview import Preview  # noqa: PLC0415
    from controlplane.settings import ValidateWithEnvoy  # noqa: PLC0415
    from controlplane.xds.envoy_process import find_envoy  # noqa: PLC0415
    from controlplane.xds.envoy_validate import EnvoyValidator  # noqa: PLC0415
    from controlplane.xds.snapshot import SnapshotCompiler  # noqa: PLC0415

    compiler = SnapshotCompiler()
    if environment.get("HUESHIFT_VALIDATE_WITH_ENVOY", "").lower() == ValidateWithEnvoy.OFF:
        return Preview(compiler=compiler), lambda: "not used (HUESHIFT_VALIDATE_WITH_ENVOY is off)"
    try:
        binary = find_envoy(environment.get("HUESHIFT_ENVOY") or None)
    except UnavailableError as exc:
        words = f"not used ({exc})"
        return Preview(compiler=compiler), lambda: words
    validator = EnvoyValidator(binary)
    return Preview(
        compiler=compiler, check=validator
    ), lambda: f"no answer from {binary}" if validator.unanswered else f"used ({binary})"


def _summary(spec: "ServiceSpec") -> dict[str, object]:
    return {
        "service": spec.name,
        "versions": [version.name for version in spec.versions],
        "routes": [route.name for route in spec.routes],
        "steps": len(spec.plan.steps),
    }
