"""The reference of settings and of metrics, read from the program: what docs/settings.md and docs/metrics.md hold."""

import ast
import asyncio
import contextlib
import inspect
import io
import pathlib
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from controlplane.settings import Settings
from controlplane.wiring import build


def settings_lines() -> Iterator[str]:
    """Write every setting: its variable, its default and what it means."""
    yield "# Settings\n"
    yield "Written from the code by `make docs`. `hueshift serve` reads them once, from its environment; a value that"
    yield "is absurd stops the start and names its variable. Times are `PT5S`, `5` (seconds) or `00:00:05`.\n"
    yield "| variable | default | what it says |"
    yield "| --- | --- | --- |"
    told = _docstrings(Settings)
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        yield f"| `HUESHIFT_{name.upper()}` | {_shown(default)} | {_in_a_cell(told.get(name, ''))} |"


def metrics_lines() -> Iterator[str]:
    """Write every metric of a process that has all parts: its name, its kind, its labels and what it counts."""
    yield "# Metrics\n"
    yield "Written from the code by `make docs`. `GET /metrics` on the API port tells them, in Prometheus' text format,"
    yield "without a key.\n"
    yield "| metric | kind | labels | what it is |"
    yield "| --- | --- | --- | --- |"
    for name, (kind, labels, words) in sorted(asyncio.run(_metrics()).items()):
        shown = ", ".join(f"`{label}`" for label in labels)
        yield f"| `{name}` | {kind} | {shown} | {_in_a_cell(words)} |"


def _docstrings(of: type[Any]) -> Mapping[str, str]:
    """Return the string below each attribute of a class, as it stands in its source."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(of))).body
    assert isinstance(tree, ast.ClassDef)  # noqa: S101 - it is the source of one
    found: dict[str, str] = {}
    for before, after in zip(tree.body, tree.body[1:], strict=False):
        if not (isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name)):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            found[before.target.id] = after.value.value
    return found


def _shown(default: object) -> str:
    value = default.get_secret_value() if isinstance(default, SecretStr) else default
    return "" if value in {None, ""} else f"`{getattr(value, 'value', value)}`"


def _in_a_cell(words: str) -> str:
    return " ".join(words.replace("``", "`").split()).replace("|", "\\|")


async def _metrics() -> Mapping[str, tuple[str, tuple[str, ...], str]]:
    """Build a process with everything that has metrics, without starting it, and ask what it would tell."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        settings = Settings(
            data_dir=pathlib.Path(folder), prometheus_url="http://127.0.0.1:9", validate_with_envoy="off"
        )
        async with build(settings) as parts:
            registry: CollectorRegistry = parts.api.state.registry
            await parts.jobs.overseer.meter.look()
            async with httpx.AsyncClient(transport=httpx.ASGITransport(parts.api), base_url="http://here") as client:
                await client.get("/healthz")  # what counts requests is made for the first one
            return {
                family.name + ("_total" if family.type == "counter" else ""): (
                    family.type,
                    tuple(getattr(family, "_labelnames", ())) or _labels(registry, family.name),
                    family.documentation,
                )
                for family in registry.collect()
            }


def _labels(registry: CollectorRegistry, name: str) -> tuple[str, ...]:
    collector = registry._names_to_collectors.get(name)  # noqa: SLF001 - the library tells labels nowhere else
    return tuple(getattr(collector, "_labelnames", ()))
