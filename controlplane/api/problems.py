"""What is wrong with a document, one line each: the field's path, the problem, the fix.

Pydantic's reports and the core's refusals come out in the same words. Things that have a name are called by it
(``versions.v2.endpoints``), others by their place, counted from one (``plan.steps[2].weight``).
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic_core import ErrorDetails, PydanticCustomError

from controlplane.api.units import UnitError
from controlplane.errors import InvalidInputError, InvalidInputsError

T = TypeVar("T")

_CUSTOM = "hueshift"
_MAX_SHOWN = 60

_KINDS = {
    "string_type": ("a text", "put it in quotes"),
    "int_type": ("a whole number", "write digits only"),
    "int_parsing": ("a whole number", "write digits only"),
    "int_from_float": ("a whole number", "write digits only"),
    "bool_type": ("true or false", "write true or false"),
    "bool_parsing": ("true or false", "write true or false"),
    "list_type": ("a list", "start each item with - "),
    "tuple_type": ("a list", "start each item with - "),
    "dict_type": ("a mapping", "write key: value pairs"),
    "model_type": ("a mapping", "write key: value pairs"),
    "model_attributes_type": ("a mapping", "write key: value pairs"),
}


class InvalidDocumentError(InvalidInputsError):
    """A document has one or more problems; it reads like the first of them."""


class Problems:
    """Collects what is wrong, so that one look at a document finds all of it."""

    def __init__(self) -> None:
        self._found: list[InvalidInputError] = []

    def attempt(self, build: Callable[[], T], rename: Callable[[str], str] = str) -> T | None:
        """Return what *build* makes, or keep the core's refusal, its field renamed to the document's path."""
        try:
            return build()
        except InvalidInputError as exc:
            self._found.append(InvalidInputError(rename(exc.field), exc.problem, exc.fix))
            return None

    def attempt_all(self, build: Callable[[], T], rename: Callable[[str], str]) -> T | None:
        """Return what *build* makes, or keep everything that it refuses, fields renamed to where they were written."""
        try:
            return build()
        except InvalidInputError as exc:
            self._found += [InvalidInputError(rename(one.field), one.problem, one.fix) for one in exc.problems]
            return None

    def add(self, field: str, problem: str, fix: str) -> None:
        """Keep a finding of our own."""
        self._found.append(InvalidInputError(field, problem, fix))

    def raise_any(self) -> None:
        """Raise what was found.

        Raises:
            InvalidDocumentError: There was something.
        """
        if self._found:
            raise InvalidDocumentError(self._found)


def unit_error(exc: UnitError) -> PydanticCustomError:
    """Wrap a refusal to read a unit so that pydantic carries it."""
    return custom_error(exc.problem, exc.fix)


def custom_error(problem: str, fix: str) -> PydanticCustomError:
    """Make an error that pydantic carries and `from_pydantic` reads back."""
    return PydanticCustomError(_CUSTOM, "{problem}; {fix}", {"problem": problem, "fix": fix})


def from_pydantic(
    errors: Iterable[ErrorDetails | Mapping[str, Any]],
    given: object,
    *,
    known: Iterable[str],
    examples: Mapping[str, str],
    root: str = "document",
) -> InvalidDocumentError:
    """Translate pydantic's report on *given*.

    Args:
        errors: As `ValidationError.errors()` gives them.
        given: The value that was validated: paths use the names in it.
        known: Field names, to guess what a misspelt one should be.
        examples: What a missing field could be, by its name.
        root: What to call the whole value.
    """
    names = tuple(known)
    found = [_line(error, given, names, examples, root) for error in errors]
    unique = {str(problem): problem for problem in found}
    return InvalidDocumentError(tuple(unique.values()))


def _line(
    error: ErrorDetails | Mapping[str, Any],
    given: object,
    known: tuple[str, ...],
    examples: Mapping[str, str],
    root: str,
) -> InvalidInputError:
    path = _path(error["loc"], given) or root
    leaf = path.rpartition(".")[2]
    context: Mapping[str, Any] = error.get("ctx") or {}
    match error["type"]:
        case "missing":
            fix = "send JSON" if path == "body" else f"add {leaf}: {examples.get(leaf, '...')}"
            return InvalidInputError(path, "is missing", fix)
        case "extra_forbidden":
            close = difflib.get_close_matches(leaf, known, n=1, cutoff=0.7)
            fix = f"did you mean {close[0]}?" if close and close[0] != leaf else "remove it"
            return InvalidInputError(path, "is not a field here", fix)
        case "union_tag_not_found":
            return InvalidInputError(f"{path}.kind", "is missing", "add kind: error_rate or kind: latency")
        case "union_tag_invalid":
            known_tags = str(context["expected_tags"]).replace("'", "")
            return InvalidInputError(f"{path}.kind", f"{context['tag']!r} is not known", f"use one of {known_tags}")
        case "json_invalid":
            return InvalidInputError("body", f"is not JSON ({context.get('error', error['msg'])})", "send valid JSON")
        case "hueshift":
            return InvalidInputError(path, str(context["problem"]), str(context["fix"]))
        case kind:
            if kind in _KINDS:
                what, fix = _KINDS[kind]
                return InvalidInputError(path, f"{_shown(error['input'])} is not {what}", fix)
            message = str(error["msg"])
            return InvalidInputError(path, f"{_shown(error['input'])} is refused", message[:1].lower() + message[1:])


def _path(loc: Sequence[str | int], given: object) -> str:
    """Name the place *loc* in *given*; a union's tag in it is no place."""
    path = ""
    here = given
    for part in loc:
        if isinstance(part, int):
            here = here[part] if isinstance(here, list | tuple) and part < len(here) else None
            name = here.get("name") if isinstance(here, Mapping) else None
            path += f".{name}" if isinstance(name, str) and name else f"[{part + 1}]"
            continue
        if isinstance(here, Mapping) and part not in here and here.get("kind") == part:
            continue
        here = here.get(part) if isinstance(here, Mapping) else None
        path += f".{part}"
    return path.removeprefix(".")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
