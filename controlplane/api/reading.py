"""Documents as people write them: YAML, read strictly, into shapes."""

from collections.abc import Hashable, Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from controlplane.api.documents import spec_from
from controlplane.api.problems import from_pydantic
from controlplane.api.schemas import (
    EXAMPLES,
    ServiceDocument,
    known_fields,
)
from controlplane.errors import InvalidInputError
from controlplane.traffic.model import (
    ServiceSpec,
)


class StrictLoader(yaml.SafeLoader):
    """YAML without objects, in which no key is written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - the library's signature
        seen: set[object] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                if key_node.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key_node.value!r} is written twice", problem_mark=key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, *, source: str = "document") -> object:
    """Return the one YAML (or JSON) document in *text*; *source* is its name in errors.

    Raises:
        InvalidInputError: It is not YAML, or not exactly one document.
    """
    found = load_documents(text, source)
    if len(found) > 1:
        raise InvalidInputError(source, f"holds {len(found)} documents", "write one service per file, without ---")
    return found[0]


def load_documents(text: str, source: str, *, start: str = "service: NAME") -> list[object]:
    """Return the documents in *text*, at least one, each of which should *start* so; raises as `parse_yaml` does."""
    try:
        found = list(yaml.load_all(text, Loader=StrictLoader))
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise InvalidInputError(place, " ".join(str(exc.problem or exc).split()), "correct the YAML there") from exc
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise InvalidInputError(source, f"is not YAML ({' '.join(str(exc).split())[:120]})", "correct it") from exc
    if not found or found == [None]:
        raise InvalidInputError(source, "is empty", f"start it with {start}")
    return found


def read_document(given: object) -> ServiceDocument:
    """Validate the shape of a service's document.

    Raises:
        InvalidDocumentError: Something is missing, misspelt or of the wrong kind.
    """
    if not isinstance(given, Mapping):
        raise InvalidInputError("document", "is not a mapping", "start it with service: NAME")
    try:
        return ServiceDocument.model_validate(given)
    except ValidationError as exc:
        errors = exc.errors(include_url=False)
        raise from_pydantic(errors, given, known=known_fields(), examples=EXAMPLES) from exc


def parse_service(text: str, *, source: str = "document") -> ServiceSpec:
    """Read a service from YAML or JSON.

    Raises:
        InvalidInputError: It is wrong; an `InvalidDocumentError` lists everything that is.
    """
    return spec_from(read_document(parse_yaml(text, source=source)))
