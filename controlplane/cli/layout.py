"""How pages are laid out: fields, trees in columns, and paragraphs, folded so that nothing is wider than asked for."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

GAP: Final = "  "
MIN_INFO: Final = 20
"""Columns that the last column of a tree needs at least, before another one is left out."""
NARROW: Final = 60
"""Columns below which a tree does without its kinds."""

_FOLDING: Final = Console(width=10_000, file=None, highlight=False, markup=False, emoji=False)
"""Rich wants a console to fold text; nothing is ever printed on this one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A line of a tree, and what hangs below it."""

    name: Text
    kind: str = ""
    status: Text = dataclasses.field(default_factory=Text)
    age: str = ""
    info: Text = dataclasses.field(default_factory=Text)
    children: "list[Node]" = dataclasses.field(default_factory=list)

    def add(self, child: "Node") -> "Node":
        """Hang *child* below this one, and return it."""
        self.children.append(child)
        return child


class Part(Protocol):
    """Something that fits itself to a width."""

    def lines(self, width: int) -> Iterator[Text]:
        """Yield lines of at most *width* columns."""


class Page:
    """Parts below each other, each folded to the width that there is."""

    def __init__(self, *parts: Part | Text) -> None:
        self._parts = parts

    def lines(self, width: int) -> list[Text]:
        """Return the page as lines of at most *width* columns."""
        return [line for part in self._parts for line in _lines(part, width)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the page as Rich prints it."""
        del console
        for line in self.lines(options.max_width):
            line.no_wrap = True
            line.overflow = "crop"
            yield line


@dataclasses.dataclass(frozen=True, slots=True)
class Fields:
    """Labels and what they say, all beginning in one column."""

    rows: Sequence[tuple[str, Text]]

    def lines(self, width: int) -> Iterator[Text]:
        """Fold values under themselves."""
        left = max((cell_len(label) for label, _ in self.rows), default=0) + len(GAP)
        for label, value in self.rows:
            for place, part in enumerate(fold(value, max(width - left, 1))):
                yield Text((label if place == 0 else "").ljust(left)) + part


@dataclasses.dataclass(frozen=True, slots=True)
class Paragraph:
    """A sentence behind *indent* spaces; what is folded is indented further."""

    text: Text
    indent: int = 0

    def lines(self, width: int) -> Iterator[Text]:
        """Fold it."""
        before = " " * self.indent
        if cell_len(self.text.plain) + self.indent <= width:
            yield Text(before) + self.text
            return
        for place, part in enumerate(fold(self.text, max(width - self.indent - len(GAP), 1))):
            yield Text(before if place == 0 else before + GAP) + part


@dataclasses.dataclass(frozen=True, slots=True)
class Tree:
    """A tree whose nodes have columns, as `kubectl argo rollouts get` draws it."""

    root: Node

    def lines(self, width: int) -> Iterator[Text]:
        """Fold every column that is too narrow for its text; guides go on beside it."""
        rows = list(_walk(self.root, "", ""))
        heads = ("NAME", "KIND", "STATUS", "AGE", "INFO")
        widths = _widths([(_length(first, node.name), node) for first, _, node in rows], heads, width)
        if rows and any(heads):
            titles = [Text(head, style="bold") for head in heads]
            yield _joined([_padded(title, size) for title, size in zip(titles, widths, strict=True) if size])
        for first, rest, node in rows:
            name = _folded_name(node.name, first, rest, widths[0])
            others = (Text(node.kind), node.status, Text(node.age, style="dim"), node.info)
            columns = [name, *(fold(text, size) if size else [] for text, size in zip(others, widths[1:], strict=True))]
            guide = Text(_after(node, rest), style="dim")
            for cells in itertools.zip_longest(*columns):
                shown = [guide if cells[0] is None else cells[0], *(cell or Text() for cell in cells[1:])]
                yield _joined([_padded(cell, size) for cell, size in zip(shown, widths, strict=True) if size])


def columns(heads: Sequence[Text], rows: Iterable[Sequence[Text]], widths: Sequence[int]) -> Iterator[Text]:
    """Yield heads and rows as a table; what is wider than its column is folded in it."""
    yield _joined([_padded(head, width) for head, width in zip(heads, widths, strict=True)])
    for row in rows:
        folded = [fold(text, width) for text, width in zip(row, widths, strict=False)]
        for cells in itertools.zip_longest(*folded, fillvalue=Text()):
            yield _joined([_padded(cell, width) for cell, width in zip(cells, widths, strict=True)])


def fold(text: Text, width: int) -> list[Text]:
    """Return *text* as lines of at most *width* columns; no text is one empty line."""
    if cell_len(text.plain) <= width:
        return [text]
    folded = list(text.wrap(_FOLDING, width, overflow="fold"))
    for line in folded:
        line.rstrip()
    return folded


def _lines(part: Part | Text, width: int) -> Iterable[Text]:
    return fold(part, width) if isinstance(part, Text) else part.lines(width)


def _walk(node: Node, first: str, rest: str) -> Iterator[tuple[str, str, Node]]:
    """Yield each node with the guides before its first line and before those that follow."""
    yield first, rest, node
    for place, child in enumerate(node.children):
        last = place == len(node.children) - 1
        yield from _walk(child, rest + ("└──" if last else "├──"), rest + ("   " if last else "│  "))


def _after(node: Node, rest: str) -> str:
    return rest + ("│" if node.children else "")


def _length(guide: str, name: Text) -> int:
    return cell_len(guide) + cell_len(name.plain)


def _widths(rows: Sequence[tuple[int, Node]], heads: Sequence[str], width: int) -> list[int]:
    """Return how wide each column is; 0 for one that there is no room for."""

    def widest(head: str, lengths: Iterable[int], most: int) -> int:
        return min(max([cell_len(head), *lengths]), most)

    kind = widest(heads[1], (cell_len(node.kind) for _, node in rows), 12) if width >= NARROW else 0
    status = widest(heads[2], (cell_len(node.status.plain) for _, node in rows), max(width // 5, 10))
    age = widest(heads[3], (cell_len(node.age) for _, node in rows), 6)
    longest = widest(heads[4], (cell_len(node.info.plain) for _, node in rows), width)
    names = [length for length, _ in rows]
    fixed = sum(size + len(GAP) for size in (kind, status, age) if size) + len(GAP)
    # Names may have what the last column can spare.
    name = widest(heads[0], names, max(width * 2 // 5, width - fixed - min(longest, width * 2 // 5), 10))
    info = width - fixed - name
    if info < MIN_INFO and kind:
        info, kind = info + kind + len(GAP), 0
    return [name, kind, status, age, max(min(longest, info), 1)]


def _folded_name(name: Text, first: str, rest: str, width: int) -> list[Text]:
    if _length(first, name) <= width:
        return [Text(first, style="dim") + name]
    room = max(width - max(cell_len(first), cell_len(rest) + 2), 1)
    guides = itertools.chain((first,), itertools.repeat(rest + "  "))
    return [Text(guide, style="dim") + part for guide, part in zip(guides, fold(name, room), strict=False)]


def _padded(text: Text, width: int) -> Text:
    padded = text.copy()
    padded.truncate(width, overflow="crop", pad=True)
    return padded


def _joined(cells: Sequence[Text]) -> Text:
    line = Text(GAP).join(cells)
    line.rstrip()
    return line
