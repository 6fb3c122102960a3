"""The `hueshift` command: reads the command line, and turns every error into one line on stderr and an exit code.

Commands import what they need when they run: `hueshift --help` must not wait for a gRPC server to load.
"""

import functools
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from controlplane.cli import (
    audit,
    batch,
    completion,
    events,
    explaining,
    fleet,
    job_operations,
    jobs,
    keys,
    local,
    measure,
    notify,
    openapi,
    quality,
    readiness,
    reference,
    release,
    shares,
)
from controlplane.cli.examples import add_examples
from controlplane.cli.surroundings import Surroundings
from controlplane.codes import Code, by_slug
from controlplane.errors import ControlPlaneError

HELP = """Move live traffic from one model version to the next behind Envoy, on evidence.

The API's address is taken from HUESHIFT_URL (default http://127.0.0.1:8000), the key from HUESHIFT_API_KEY or the file
that HUESHIFT_API_KEY_FILE names; where `hueshift serve` runs, its own key file is found by itself.

Exit codes: 0 done; 1 the answer is no (rolled back, a failed check); 2 wrong input or usage (`status`: undecided in
time, or a person must look); 3 the control plane or its database does not answer; 4 refused (not found, conflict, API
key)."""

INTERRUPTED = 130

app = typer.Typer(
    name="hueshift",
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help drawn by Rich takes a second to import
)


@app.callback()
def hueshift(
    context: typer.Context,
    url: Annotated[str | None, typer.Option("--url", help="Where the API is.", show_default=False)] = None,
    no_color: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--no-color", help="Print without colours.")
    ] = False,
) -> None:
    """Keep what holds for every command."""
    surroundings: Surroundings = context.obj
    surroundings.url = url or surroundings.url
    surroundings.color = not no_color


release.register(app)
events.register(app)
readiness.register(app)
fleet.register(app)
local.register(app)
keys.register(app)
shares.register(app)
audit.register(app)
measure.register(app)
quality.register(app)
notify.register(app)
jobs.register(app)
job_operations.register()
openapi.register(app)
batch.register(app)
explaining.register(app)
completion.register(app)
reference.register(app)


def run(arguments: Sequence[str], surroundings: Surroundings) -> int:
    """Run one command and return its exit code."""
    try:
        result = _command().main(
            args=_in_order(arguments), prog_name="hueshift", standalone_mode=False, obj=surroundings
        )
    except ControlPlaneError as exc:
        return _report(exc)
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        return 0
    except Exception as exc:
        # Typer's errors about usage have no class that it exports.
        words = getattr(exc, "format_message", None)
        if words is None:
            raise
        return _report_usage(str(words()), getattr(exc, "ctx", None))
    return result if isinstance(result, int) else 0


def _in_order(arguments: Sequence[str]) -> list[str]:
    """Return *arguments* with --no-color in front, wherever it stands: people type it behind the command."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own = [each for each in arguments[:end] if each == "--no-color"]
    return [*own[:1], *(each for each in arguments[:end] if each != "--no-color"), *arguments[end:]]


@functools.cache
def _command() -> Any:  # a class that Typer does not export
    return add_examples(typer.main.get_command(app))


def _report(exc: ControlPlaneError) -> int:
    from controlplane.cli.client import RefusalError, code_of, exit_code  # noqa: PLC0415 - see above

    problems = getattr(exc, "problems", None)
    if isinstance(exc, RefusalError):
        lines = exc.lines
    else:
        lines = tuple(str(problem) for problem in problems) if problems else (str(exc),)
    code = code_of(exc)
    for line in lines:
        print(f"hueshift: {with_code(' '.join(line.split()), code)}", file=sys.stderr)
    return exit_code(exc)


def with_code(words: str, code: Code | None) -> str:
    """Return *words* with the command that mends it, unless they name one already, and the code at the end."""
    if code is None:
        return words
    run = f"; run: {code.run}" if code.run and "hueshift " not in words else ""
    return f"{words}{run} [{code.id}]"


def _report_usage(words: str, context: typer.Context | None) -> int:
    if words.strip():
        where = context.command_path if context else "hueshift"
        said = f"{' '.join(words.split()).rstrip('.')}; see {where} --help"
        print(f"hueshift: {with_code(said, by_slug('usage'))}", file=sys.stderr)
    return 2


def main() -> None:
    """Enter here from the shell."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="replace")  # a mark that the terminal cannot show is no reason to fail
    sys.exit(run(sys.argv[1:], Surroundings()))
