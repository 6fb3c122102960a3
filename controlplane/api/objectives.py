"""Objectives by themselves, apart from a service: read and checked in the same words as in a service's document."""

import functools
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from controlplane.api.documents import known_fields, slo_from
from controlplane.api.problems import Problems, from_pydantic
from controlplane.api.schemas import EXAMPLES, ReplayRequest, SloDocument
from controlplane.errors import InvalidInputError
from controlplane.rollout.model import Slo
from controlplane.traffic.model import check_names


def read_objectives(given: object) -> list[SloDocument]:
    """Validate the shape of a list of objectives, or of those under ``slos`` in a mapping, such as a service's.

    Raises:
        InvalidInputError: It is neither; an `InvalidDocumentError` lists everything that is wrong in it.
    """
    if isinstance(given, Mapping):
        if "slos" not in given:
            raise InvalidInputError("slos", "is missing", f"add slos: {EXAMPLES['slos']}")
        given = given["slos"]
    if not isinstance(given, list):
        raise InvalidInputError("slos", "is not a list", "start each item with - ")
    whole = {"slos": given}
    try:
        return ReplayRequest.model_validate(whole).slos or []
    except ValidationError as exc:
        errors = exc.errors(include_url=False)
        raise from_pydantic(errors, whole, known=known_fields(), examples=EXAMPLES) from exc


def objectives_from(documents: Sequence[SloDocument]) -> tuple[Slo, ...]:
    """Build objectives.

    Raises:
        InvalidInputError: There is none, two have one name, or values are out of range.
    """
    problems = Problems()
    found = [problems.attempt(functools.partial(slo_from, document)) for document in documents]
    problems.raise_any()
    check_names("slos", [document.name for document in documents])
    return tuple(slo for slo in found if slo)
