"""The root of our exceptions: each carries facts, and its text is the one line a user reads.

A message names the field that is wrong and the fix. HTTP status codes and exit codes are chosen at the edge
(`api/app.py`, `cli/client.py`), by class.
"""

import datetime as dt
from collections.abc import Sequence


class ControlPlaneError(Exception):
    """Anything this program refuses or cannot do, said in one line."""


class InvalidInputError(ControlPlaneError):
    """A value from outside is wrong: *field* is its path (``plan.steps[2].weight``), *fix* says what would be right."""

    def __init__(self, field: str, problem: str, fix: str) -> None:
        super().__init__(f"{field}: {problem}; {fix}")
        self.field = field
        self.problem = problem
        self.fix = fix

    @property
    def problems(self) -> tuple["InvalidInputError", ...]:
        """Everything that was found wrong together."""
        return (self,)


class InvalidInputsError(InvalidInputError):
    """Several values are wrong, at least one; it reads like the first of them."""

    def __init__(self, problems: Sequence[InvalidInputError]) -> None:
        first = problems[0]
        super().__init__(first.field, first.problem, first.fix)
        self._problems = tuple(problems)

    @property
    def problems(self) -> tuple[InvalidInputError, ...]:
        """All of them."""
        return self._problems


class NotFoundError(ControlPlaneError):
    """A named thing does not exist; *known* lists what does, where the caller may know that."""

    def __init__(self, kind: str, name: str, known: tuple[str, ...] | None = ()) -> None:
        hint = f"known: {', '.join(known)}" if known else "there is none yet"
        words = "or is not yours to see" if known is None else f"({hint})"
        super().__init__(f"{kind} {name!r} does not exist{',' if known is None else ''} {words}")
        self.kind = kind
        self.name = name


class ConflictError(ControlPlaneError):
    """The request is sound but cannot be done in the present state; the text says what to do first."""


class GoneError(ControlPlaneError):
    """What is asked for was there once and is not any more; the text says since when."""


class OverQuotaError(ControlPlaneError):
    """It would be more than was agreed: *quota* names which; *retry_after* is when it will do, where that is known."""

    def __init__(self, quota: str, problem: str, fix: str, *, retry_after: dt.timedelta | None = None) -> None:
        super().__init__(f"{quota}: {problem}; {fix}")
        self.quota = quota
        self.problem = problem
        self.fix = fix
        self.retry_after = retry_after


class StaleWriteError(ControlPlaneError):
    """Someone else changed a row since it was loaded; load again and decide again."""


class PreconditionFailedError(ControlPlaneError):
    """The caller set a condition on a change (that nobody changed it meanwhile), and it does not hold."""


class UnavailableError(ControlPlaneError):
    """Something we depend on (the database, a port) does not answer; nothing was changed."""


class TooManyError(ControlPlaneError):
    """The caller has as many of something as one may have; it works again once some of them are gone."""


class UnauthorizedError(ControlPlaneError):
    """No API key, or one that is not known."""


class RevokedKeyError(UnauthorizedError):
    """The API key was that of *name* until it was revoked; whoever shows it learns no more than with an unknown one."""

    def __init__(self, words: str, *, name: str) -> None:
        super().__init__(words)
        self.name = name


class ForbiddenError(ControlPlaneError):
    """Whoever asks is known, but this is not for them to do, on *service* where it is about one."""

    def __init__(self, words: str, *, service: str = "", who: str = "") -> None:
        super().__init__(words)
        self.service = service
        self.who = who
        """Who it is, where the request does not tell."""


class HiddenError(NotFoundError):
    """Something of *service*, which is there or not: the caller may not know. It reads as if it were not."""

    def __init__(self, kind: str, name: str, *, service: str) -> None:
        super().__init__(kind, name, None)
        self.service = service
