"""What all answers of the REST API are made of: shapes that do not change, pages of lists, and problems."""

from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")


class View(BaseModel):
    """Base of everything that is answered."""

    model_config = ConfigDict(frozen=True)


class Page(View, Generic[T]):
    """A part of a list. *next* is the cursor of the page after it, null on the last one."""

    items: list[T]
    next: str | None


class Problem(View):
    """Something that is wrong with a request: one line, and its parts."""

    detail: str
    field: str | None = None
    fix: str | None = None


class ProblemView(Problem):
    """Why a request was refused (RFC 9457). *code* is for programs, *problems* is all that is wrong with an input."""

    type: str
    title: str
    status: int
    code: str
    problems: list[Problem] = []
