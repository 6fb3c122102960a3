"""The demo, benches and drills: programs of `controlplane.lab`, started by name.

The product never imports them, so neither does this module: what is not installed here is simply not found.
"""

import importlib
import inspect
import pathlib
from typing import Annotated, Any

import typer

from controlplane.errors import InvalidInputError

JsonFile = Annotated[
    pathlib.Path | None,
    typer.Option("--json", help="Also write the results to this file, as JSON.", show_default=False),
]

bench = typer.Typer(no_args_is_help=True, help="Measure the product against the real Envoy.")


def demo(json: JsonFile = None) -> None:
    """Run the main job on this machine: real Envoy, real photos, one good release and three bad ones.

    Exit code 0 only if the good one was promoted and the bad ones were rolled back.
    """
    _run("demo", json=json)


@bench.command()
def rollback(
    runs: Annotated[int, typer.Option("--runs", min=1, max=1000, help="How often each case is run.")] = 5,
    json: JsonFile = None,
) -> None:
    """Measure seconds from a version's first bad response to its last."""
    _run("bench_rollback", runs=runs, json=json)


@bench.command()
def flips(
    json: JsonFile = None,
) -> None:
    """Flip 0 <-> 100 % under load: count failed requests, time from commit to ACK."""
    _run("bench_flips", json=json)


def soak(json: JsonFile = None) -> None:
    """Run rollouts without end while the control plane is killed at random; no request may fail."""
    _run("soak", json=json)


def simulate(
    scenarios: Annotated[pathlib.Path, typer.Option("--scenarios", help="The scenarios, JSON.")],
    replications: Annotated[int, typer.Option("--replications", min=1, help="Runs per scenario.")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="Where chance starts.")] = 1,
    json: JsonFile = None,
) -> None:
    """Run the production judge on simulated rollouts."""
    _run("simulate", scenarios=scenarios, replications=replications, seed=seed, json=json)


def register(app: typer.Typer) -> None:
    """Add these commands to *app*."""
    for command in (demo, soak, simulate):
        app.command(rich_help_panel="Measure")(command)
    app.add_typer(bench, name="bench", rich_help_panel="Measure")


def _run(program: str, **arguments: Any) -> None:
    """Call ``controlplane.lab.<program>.main(**arguments)``; what it returns is the exit code."""
    name = f"controlplane.lab.{program}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and exc.name.startswith("controlplane"):
            raise InvalidInputError(program, "is not part of this installation", "use the source checkout") from exc
        raise InvalidInputError(
            program, f"needs the package {exc.name}", "install it with: pip install 'hueshift[all]'"
        ) from exc
    result = module.main(**arguments)
    if inspect.iscoroutine(result):
        import asyncio  # noqa: PLC0415 - see main

        result = asyncio.run(result)
    raise typer.Exit(int(result or 0))
