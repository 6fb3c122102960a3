"""The work of `hueshift quality show`: the comparisons of a rollout's pictures, printed, and written to a folder."""

import json
import pathlib

from rich.console import Group, RenderableType
from rich.text import Text

from controlplane.api.answers import RolloutView
from controlplane.api.quality_answers import QualityReportView, QualityRunView
from controlplane.cli import output
from controlplane.cli.client import Client, RefusalError
from controlplane.cli.formats import Format, for_programs
from controlplane.cli.surroundings import Surroundings
from controlplane.errors import InvalidInputError, NotFoundError


def show(surroundings: Surroundings, name: str, *, number: int | None, out: pathlib.Path | None, form: Format) -> None:
    """Print a rollout's comparisons and one of them whole: number *number*, or the newest.

    Raises:
        InvalidInputError: *out* cannot be written.
        NotFoundError: Its pictures have never been compared.
    """
    with surroundings.client() as client:
        rollout, runs = _runs(client, name)
        if not runs:
            raise NotFoundError("comparison of pictures of", rollout)
        chosen = number or next((run.number for run in runs if run.verdict), runs[0].number)
        report = client.get(QualityReportView, "rollouts", rollout, "quality", str(chosen))
        files = _write(client, rollout, report, out) if out is not None else []
    if for_programs(form):
        output.print_data(report, form)
    else:
        output.print_page(_page(rollout, runs, report, files), color=surroundings.color)


def _runs(client: Client, name: str) -> tuple[str, list[QualityRunView]]:
    """Return the id of the rollout, or of the newest one of the service, that *name* is; and its comparisons."""
    try:
        return name, client.get(list[QualityRunView], "rollouts", name, "quality")
    except RefusalError as refusal:
        if refusal.status != 404:
            raise
    newest = client.get_page(RolloutView, "services", name, "rollouts", limit=1).items
    if not newest:
        raise NotFoundError("rollout of", name)
    return newest[0].id, client.get(list[QualityRunView], "rollouts", newest[0].id, "quality")


def _write(client: Client, rollout: str, report: QualityReportView, out: pathlib.Path) -> list[pathlib.Path]:
    files = {"report.json": (json.dumps(report.report, indent=2, ensure_ascii=False) + "\n").encode()}
    for each in report.worst:
        place = str(each.place)
        picture = client.get_bytes("rollouts", rollout, "quality", str(report.number), "pictures", place)
        files[f"{place}-{pathlib.PurePath(each.name).name}.jpg"] = picture
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (out / name).write_bytes(content)
    except OSError as exc:
        raise InvalidInputError("--out", f"{out} cannot be written ({exc.strerror})", "name another folder") from exc
    return [out / name for name in files]


def _page(
    rollout: str, runs: list[QualityRunView], report: QualityReportView, files: list[pathlib.Path]
) -> RenderableType:
    head = Text(f"{rollout}: ")
    head.append_text(output.quality_line(report))
    findings = [f"  {each['verdict']}: {each['words']}" for each in report.report.get("findings", [])[1:]]
    lines = [Text(output.clean(words)) for words in (*findings, *report.report.get("notes", []))]
    measures = output.new_table("MEASURE", "VALUE", "95 % INTERVAL")
    for name, each in report.report.get("measures", {}).items():
        measures.add_row(output.clean(name), f"{each['value']:.3g}", f"{each['low']:.3g} to {each['high']:.3g}")
    worst = [Text(f"  {each.place}. {output.clean(each.name)}: {output.clean(each.words)}") for each in report.worst]
    written = [Text(f"written: {', '.join(map(str, files))}")] if files else []
    parts: list[RenderableType] = [head, *lines, ""]
    if measures.row_count:
        parts += [measures, ""]
    if worst:
        parts += [Text("the pictures that speak most against it:"), *worst, ""]
    return Group(*parts, output.quality_table(runs), *written)
