"""The demo, benches and drills: programs of `controlplane.lab`, started by name.

The product never imports them, so neither does this module: what is not installed here is simply not found.
"""

import enum
import functools
import importlib
import pathlib
from typing import Annotated, Any

import typer

from controlplane.cli.formats import Format, for_programs
from controlplane.cli.options import OutputOption, surroundings_of
from controlplane.cli.waiting import spinner
from controlplane.errors import InvalidInputError

JsonFile = Annotated[
    pathlib.Path | None,
    typer.Option("--json", help="Also write the results to this file, as JSON.", show_default=False),
]

SeedOption = Annotated[int | None, typer.Option("--seed", help="Where chance starts.", show_default=False)]
RateOption = Annotated[float | None, typer.Option("--rate", min=1, help="Requests per second.", show_default=False)]

bench = typer.Typer(no_args_is_help=True, help="Measure the product against the real Envoy.")


def demo(
    json: JsonFile = None,
    svg: Annotated[
        pathlib.Path | None,
        typer.Option("--svg", help="Also write a picture of the output to this file.", show_default=False),
    ] = None,
) -> None:
    """Run the main job on this machine.

    Real Envoy, real photos, one good release and three bad ones. Exit code 0 only if the good one was promoted and the
    bad ones were rolled back.
    """
    _run("demo", json_file=json, svg_file=svg)


@bench.command()
def rollback(
    runs: Annotated[int, typer.Option("--runs", min=1, max=1000, help="How often each case is run.")] = 5,
    scenario: Annotated[str | None, typer.Option("--scenario", help="Only this case.", show_default=False)] = None,
    history_s: Annotated[
        float | None, typer.Option("--history-s", min=0, help="Seconds of history before it.", show_default=False)
    ] = None,
    seed: SeedOption = None,
    json: JsonFile = None,
) -> None:
    """Measure seconds from a version's first bad response to its last."""
    _run("bench_rollback", runs=runs, scenario=scenario, history_s=history_s, seed=seed, json_file=json)


@bench.command()
def flips(
    count: Annotated[int | None, typer.Option("--flips", min=1, help="How many.", show_default=False)] = None,
    rate: RateOption = None,
    requests: Annotated[
        int | None, typer.Option("--requests", min=1, help="At least so many in all.", show_default=False)
    ] = None,
    json: JsonFile = None,
) -> None:
    """Flip 0 <-> 100 % under load: count failed requests, time from commit to ACK."""
    _run("bench_flips", flips=count, rate=rate, requests=requests, json_file=json)


@bench.command()
def envoys(
    count: Annotated[int, typer.Option("--count", min=1, max=200, help="How many Envoys.")] = 20,
    changes: Annotated[int, typer.Option("--changes", min=1, max=10_000, help="How many changes of weights.")] = 100,
    rate: RateOption = None,
    database_url: Annotated[
        str | None,
        typer.Option("--database-url", help="A PostgreSQL for this bench alone; else SQLite.", show_default=False),
    ] = None,
    json: JsonFile = None,
) -> None:
    """Change weights past real Envoys: time from commit to the last one's ACK."""
    _run("bench_envoys", count=count, changes=changes, rate=rate, database_url=database_url, json_file=json)


class Mode(enum.StrEnum):
    """How clients speak xDS."""

    SOTW = "sotw"
    DELTA = "delta"


class Size(enum.StrEnum):
    """How large the changed route configuration is."""

    SMALL = "small"
    MEDIUM = "medium"


class Kinds(enum.StrEnum):
    """What clients subscribe to."""

    RDS = "rds"
    ALL = "all"


class Carrier(enum.StrEnum):
    """The server's transport."""

    LEAN = "lean"
    GRPC = "grpc"


StreamsOption = Annotated[int, typer.Option("--streams", min=1, max=20_000, help="How many, each on its connection.")]
TransportOption = Annotated[Carrier, typer.Option("--transport", help="The server's, see HUESHIFT_XDS_TRANSPORT.")]
ModeOption = Annotated[Mode, typer.Option("--mode", help="How clients speak xDS.")]


@bench.command()
def fanout(
    streams: StreamsOption = 1_000,
    changes: Annotated[int, typer.Option("--changes", min=1, max=10_000, help="How many changes of weights.")] = 20,
    mode: ModeOption = Mode.SOTW,
    size: Annotated[Size, typer.Option("--size", help="Of the changed routes: 0.2 or 4 kB.")] = Size.SMALL,
    kinds: Annotated[Kinds, typer.Option("--kinds", help="What clients subscribe to.")] = Kinds.RDS,
    transport: TransportOption = Carrier.LEAN,
    json: JsonFile = None,
) -> None:
    """Change weights past many streams: latency, server CPU and memory of each.

    Exit code 0 only if no change was lost and a stream costs at most 170 us of CPU per change and 55 kB.
    """
    _run(
        "bench_fanout",
        streams=streams,
        changes=changes,
        mode=mode.value,
        size=size.value,
        kinds=kinds.value,
        transport=transport.value,
        json_file=json,
    )


@bench.command()
def storm(
    streams: StreamsOption = 1_000,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=100, help="How many storms.")] = 3,
    mode: ModeOption = Mode.SOTW,
    transport: TransportOption = Carrier.LEAN,
    json: JsonFile = None,
) -> None:
    """Drop all clients and let them return at once: seconds until in sync, memory."""
    _run("bench_storm", streams=streams, rounds=rounds, mode=mode.value, transport=transport.value, json_file=json)


@bench.command()
def overload(
    seconds: Annotated[float, typer.Option("--seconds", min=5, max=600, help="How long the overload lasts.")] = 60.0,
    queue: Annotated[int, typer.Option("--queue", min=2, max=512, help="How many requests the worker takes in.")] = 16,
    json: JsonFile = None,
) -> None:
    """Give a worker ten times what it can do: how late are the served, does anything grow or get lost?"""
    _run("bench_overload", seconds=seconds, queue=queue, json_file=json)


@bench.command("events")
def bench_events(
    rate: Annotated[int, typer.Option("--rate", min=1, max=20_000, help="Events a second.")] = 1_000,
    readers: Annotated[int, typer.Option("--readers", min=1, max=400, help="How many read.")] = 100,
    slow: Annotated[int, typer.Option("--slow", min=0, max=50, help="How many more do not.")] = 5,
    seconds: Annotated[float, typer.Option("--seconds", min=1, max=600, help="For how long.")] = 30.0,
    json: JsonFile = None,
) -> None:
    """Tell many readers what happens: CPU and memory of the server, latencies, slow readers dropped.

    Exit code 0 only if it costs at most half a core, no reader misses an event, and those that do not read are dropped.
    """
    _run("bench_events", rate=rate, readers=readers, slow=slow, seconds=seconds, json_file=json)


@bench.command("jobs")
def bench_jobs(
    count: Annotated[int, typer.Option("--jobs", min=10, max=1_000_000, help="How many are in the crowd.")] = 5_000,
    queue_url: Annotated[
        str | None,
        typer.Option(
            "--queue-url",
            envvar="HUESHIFT_QUEUE_URL",
            help="A RabbitMQ that runs; else one is started.",
            show_default=False,
        ),
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option("--database-url", help="A PostgreSQL for this bench alone, too.", show_default=False),
    ] = None,
    json: JsonFile = None,
) -> None:
    """Put jobs through RabbitMQ and SQL past trivial workers: CPU per job, jobs per second, a VIP's wait.

    Exit code 0 only if a job costs at most 5 ms of CPU, 100 pass in a second, and a VIP behind the crowd starts within
    2 s.
    """
    _run("bench_jobs", jobs=count, queue_url=queue_url, database_url=database_url, json_file=json)


class QueueCarrier(enum.StrEnum):
    """What carries jobs' wake-ups."""

    RABBITMQ = "rabbitmq"
    SQL = "sql"


def soak(
    kills: Annotated[
        int | None, typer.Option("--kills", min=1, help="How many; with --jobs, of each part.", show_default=False)
    ] = None,
    rate: RateOption = None,
    sequences: Annotated[
        int | None,
        typer.Option(
            "--sequences", min=1, help="Instead, have so many conversations of xDS clients.", show_default=False
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", min=10, help="Instead, hand in so many jobs and kill all they pass through.", show_default=False
        ),
    ] = None,
    workers_away: Annotated[
        float | None,
        typer.Option("--workers-away", min=0, help="With --jobs: seconds without any worker.", show_default=False),
    ] = None,
    queue: Annotated[
        QueueCarrier | None, typer.Option("--queue", help="With --jobs: what carries them.", show_default=False)
    ] = None,
    seed: SeedOption = None,
    json: JsonFile = None,
) -> None:
    """Run rollouts and kill the control plane.

    At random moments, again and again; no request may fail. With --jobs, jobs come in instead, and control plane,
    dispatcher, queue, workers and Envoy are killed: each job must end once, and none may be lost.
    """
    if sequences is not None:
        _run("fuzz", sequences=sequences, seed=seed)
    if jobs is not None:
        carrier = None if queue is None else queue.value
        _run("soak_jobs", jobs=jobs, kills=kills, workers_away=workers_away, queue=carrier, seed=seed, json_file=json)
    _run("soak", kills=kills, rate=rate, seed=seed, json_file=json)


def simulate(
    scenarios: Annotated[pathlib.Path, typer.Option("--scenarios", help="The scenarios, JSON.", show_default=False)],
    replications: Annotated[
        int | None, typer.Option("--replications", min=1, help="Runs per scenario.", show_default=False)
    ] = None,
    seed: SeedOption = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            "--engine",
            help="Who decides; give it again for more. hueshift (by default), flagger60_t5, flagger10_t5, argo60_f0, "
            "argo60_f3, kayenta, sre_burn, or all.",
            show_default=False,
        ),
    ] = None,
    json: JsonFile = None,
) -> None:
    """Run the production judge on simulated rollouts, beside the rules of its peers if wanted."""
    _run("simulate", scenarios=scenarios, replications=replications, seed=seed, engines=engine, json_file=json)


def plan(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The service.", show_default=False)],
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=0.001, help="Requests per second, instead of the recent ones.", show_default=False),
    ] = None,
    errors: Annotated[
        str | None, typer.Option("--errors", help="Share that fails anyway, as 0.1%.", show_default=False)
    ] = None,
    p50: Annotated[str | None, typer.Option("--p50", help="Median latency, as 120ms.", show_default=False)] = None,
    p95: Annotated[
        str | None, typer.Option("--p95", help="95th percentile of latency, as 400ms.", show_default=False)
    ] = None,
    replications: Annotated[int, typer.Option("--replications", min=10, max=2_000, help="Runs per case.")] = 100,
    output: OutputOption = Format.TABLE,
) -> None:
    """Say what a rollout would be like, before it starts.

    From the service's traffic of the last 10 minutes, its SLOs and its plan: how long a healthy version takes to
    promote, how soon and after how many harmed requests which defect is caught, how often it ends inconclusive, and
    what to change.
    """
    from controlplane.api.answers import ServiceView, TrafficView  # noqa: PLC0415 - see main
    from controlplane.api.documents import spec_from  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415
    from controlplane.cli.estimates import given_traffic  # noqa: PLC0415
    from controlplane.rollout.objectives import policy_of  # noqa: PLC0415

    surroundings = surroundings_of(context)
    with surroundings.client() as client:
        spec = spec_from(client.get(ServiceView, "services", name).document)
        recent = client.get(TrafficView, "services", name, "traffic")
    with spinner("simulating rollouts", color=surroundings.color):
        _run(
            "planning",
            service=name,
            traffic=given_traffic(recent, rate=rate, errors=errors, p50=p50, p95=p95),
            plan=spec.plan,
            policy=policy_of(spec.slos),
            replications=replications,
            write=functools.partial(printing.print_data, form=output) if for_programs(output) else None,
        )


def register(app: typer.Typer) -> None:
    """Add these commands to *app*."""
    for command in (demo, soak, simulate, plan):
        app.command()(command)
    app.add_typer(bench, name="bench")


def _run(program: str, **arguments: Any) -> None:
    """Call ``controlplane.lab.<program>.main`` with the *arguments* that were given; it returns the exit code."""
    name = f"controlplane.lab.{program}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and exc.name.startswith("controlplane"):
            raise InvalidInputError(program, "is not part of this installation", "use the source checkout") from exc
        raise InvalidInputError(
            program, f"needs the package {exc.name}", "install it with: pip install 'hueshift[all]'"
        ) from exc
    main = getattr(module, "main", None)
    if main is None:
        raise InvalidInputError(program, "is not a program in this release", "see hueshift --help for those that are")
    raise typer.Exit(int(main(**{key: value for key, value in arguments.items() if value is not None}) or 0))
