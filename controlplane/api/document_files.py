"""Files with several documents: read one by one, with the line of everything that could be wrong in them."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import yaml

from controlplane.api.reading import StrictLoader, load_documents
from controlplane.errors import InvalidInputError

_PART: Final = re.compile(r"\[(\d+)\]|\.?([^.\[\]]+)")


@dataclasses.dataclass(frozen=True, slots=True)
class GivenDocument:
    """One document of a file; *number* counts the file's from 1, *several* tells whether there are more."""

    source: str
    number: int
    several: bool
    content: object
    node: yaml.Node | None = dataclasses.field(compare=False, repr=False)

    def place(self, field: str) -> str:
        """Write where *field* is: file, line, document, path."""
        found = f"{self.source}:{self.line(field)}"
        kind = self.content.get("kind") if isinstance(self.content, dict) else None
        count = f"document {self.number}" if self.several else ""
        words = " ".join(word for word in (count, f"({kind})" if kind and count else "") if word)
        return ": ".join(part for part in (found, words, field) if part)

    def line(self, field: str) -> int:
        """Return the line of *field*, or of the nearest thing around it that is written down; lines count from 1."""
        node = self.node
        if node is None:
            return 1
        line = node.start_mark.line + 1
        for place, name in _PART.findall(field):
            inner = _item(node, int(place) - 1) if place else _value(node, name)
            if inner is None:
                break
            key, node = inner
            line = key.start_mark.line + 1
        return line


def read_documents(text: str, source: str) -> list[GivenDocument]:
    """Return all documents of a text; empty ones, as between two ``---``, are none.

    Raises:
        InvalidInputError: It is not YAML, or holds no document.
    """
    contents = load_documents(text, source, start="apiVersion: hueshift.dev/v1")
    nodes = list(yaml.compose_all(text, Loader=StrictLoader))
    found = [(content, node) for content, node in zip(contents, nodes, strict=True) if content is not None]
    return [
        GivenDocument(source, number, len(found) > 1, content, node)
        for number, (content, node) in enumerate(found, start=1)
    ]


def placed(document: GivenDocument, problems: Sequence[InvalidInputError]) -> Iterator[InvalidInputError]:
    """Say of each problem where in its file it is."""
    for one in problems:
        field = "" if one.field == "document" else one.field
        yield InvalidInputError(document.place(field), one.problem, one.fix)


def _value(node: yaml.Node, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        pairs: list[tuple[Any, Any]] = node.value
        return next(((key, value) for key, value in pairs if getattr(key, "value", None) == name), None)
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            named = _value(item, "name") if isinstance(item, yaml.MappingNode) else None
            if named is not None and getattr(named[1], "value", None) == name:
                return item, item
    return None


def _item(node: yaml.Node, place: int) -> tuple[yaml.Node, yaml.Node] | None:
    if isinstance(node, yaml.SequenceNode) and 0 <= place < len(node.value):
        return node.value[place], node.value[place]
    return None
