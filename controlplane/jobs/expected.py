"""What somebody who changes a thing believes it to be: a change upon another belief is refused, not merged."""

import dataclasses
from typing import Generic, TypeVar

from controlplane.errors import PreconditionFailedError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Expected(Generic[T]):
    """The value that a change replaces; None: there is nothing yet."""

    value: T | None


def check_expected(expected: Expected[T] | None, found: T | None, *, what: str) -> None:
    """Refuse a change of *what* unless it is as *expected*; None expects nothing in particular.

    Raises:
        PreconditionFailedError: It is something else.
    """
    if expected is not None and expected.value != found:
        raise PreconditionFailedError(f"{what} was changed by someone else; read it again and decide anew")
