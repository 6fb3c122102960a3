"""The requests that change traffic, and the one line that says why."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from controlplane.api.problems import custom_error
from controlplane.api.schemas import Document, PlanDocument, SloDocument, StepDocument
from controlplane.api.values import Moment, Weight
from controlplane.errors import InvalidInputError

MAX_WHY_CHARS = 500


def one_line(field: str, text: str) -> str:
    """Return a reason on one line, without control characters: it goes into the audit and onto terminals.

    Raises:
        InvalidInputError: It is too long.
    """
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    if len(line) > MAX_WHY_CHARS:
        raise InvalidInputError(field, f"has {len(line)} characters", f"use at most {MAX_WHY_CHARS}")
    return line


def _read_why(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return one_line("why", value)
    except InvalidInputError as exc:
        raise custom_error(exc.problem, exc.fix) from exc


Why = Annotated[str, BeforeValidator(_read_why), Field(description="The reason, for the audit; one line.")]


def _read_step(value: object) -> object:
    """Let a step be just its weight."""
    return {"weight": value} if isinstance(value, str | int | float) and not isinstance(value, bool) else value


class StartRequest(Document):
    """Start a rollout to the version *to*. *steps* replaces those of the service's plan, *plan* the whole of it.

    *replaces* names the version whose traffic moves, where several have some; the others keep theirs.

    Where a rollout is active already, *supersede* takes it back to zero first and *queue* waits until it has ended,
    *only_after_success* only if it was promoted; *at* waits for that time, and then for what is active. A version that
    failed is started *again* only when that is said.
    """

    to: str
    replaces: str | None = None
    steps: list[Annotated[StepDocument, BeforeValidator(_read_step)]] | None = None
    plan: PlanDocument | None = None
    supersede: bool = False
    queue: bool = False
    only_after_success: bool = False
    at: Moment | None = None
    again: bool = False
    why: Why = ""

    @property
    def waits(self) -> bool:
        """Whether it may have to wait."""
        return self.supersede or self.queue or self.at is not None


class UndoRequest(Document):
    """Give traffic back: to the version *to*, or to the one before the last promotion."""

    to: str | None = None
    why: Why = ""


class FreezeRequest(Document):
    """Let nothing get more traffic *until* then."""

    until: Moment
    why: Why = ""


class CommandRequest(Document):
    """Move the active rollout; *why* goes into the audit."""

    why: Why = ""


class PromoteRequest(CommandRequest):
    """Take the next step, or with *full* the last one, without waiting for the judge."""

    full: bool = False


class SplitRequest(Document):
    """Set the live split by hand, outside a rollout. Versions that are not named get nothing."""

    weights: dict[str, Weight]
    why: Why = ""


class ReplayRequest(Document):
    """Judge a rollout's record again: by the *slos* given, or else by its own. *all* asks for every second."""

    slos: list[SloDocument] | None = None
    all: bool = False
