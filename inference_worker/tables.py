"""Pure: reads a TOML table key by key, strictly: what is missing, of another type or never asked for is an error."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Final

from inference_worker.errors import ModelError

MAX_TEXT: Final = 2000
MAX_FIGURE: Final = 2**63


class Table:
    """One table; every key is taken once, and `close` refuses those that nobody took."""

    def __init__(self, facts: Mapping[str, object], *, source: str, path: str = "") -> None:
        """Read *facts*; *source* names the file and *path* the table in it, for messages."""
        self._facts = facts
        self._source = source
        self._path = path
        self._known: list[str] = []

    def refuse(self, key: str, what: str) -> ModelError:
        """The error that names file, field and what to write there."""
        return ModelError(f"{self._source}: {self._path}{key}: {what}")

    def take_text(self, key: str, default: str | None = None, *, fits: re.Pattern[str] | None = None) -> str:
        """One printable line, not empty.

        Args:
            key: The field.
            default: What a missing field means; None demands it.
            fits: What the whole text must match.

        Raises:
            ModelError: It is missing, no text or does not fit.
        """
        value = self._take(key, default)
        if not isinstance(value, str):
            raise self.refuse(key, f"{_show(value)} is no text; write it in quotation marks")
        if value != default and (not value.strip() or not value.isprintable() or len(value) > MAX_TEXT):
            raise self.refuse(key, f"{_show(value)} is not one printable line of at most {MAX_TEXT} characters")
        if fits is not None and value != default and not fits.fullmatch(value):
            raise self.refuse(key, f"{_show(value)} does not fit; write {fits.pattern}")
        return value

    def take_word(self, key: str, known: Sequence[str]) -> str:
        """One of the *known* words.

        Raises:
            ModelError: It is missing or another word.
        """
        value = self.take_text(key)
        if value not in known:
            raise self.refuse(key, f"{_show(value)} is unknown; choose one of {', '.join(known)}")
        return value

    def take_whole(self, key: str, default: int | None = None, *, low: int, high: int) -> int:
        """A whole number in low..high.

        Raises:
            ModelError: It is missing, no whole number or out of range.
        """
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.refuse(key, f"{_show(value)} is impossible; write a whole number from {low} to {high}")
        return value

    def take_flag(self, key: str, *, default: bool) -> bool:
        """True or false.

        Raises:
            ModelError: It is neither.
        """
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self.refuse(key, f"{_show(value)} is impossible; write true or false")
        return value

    def take_pair(self, key: str) -> tuple[int, int] | None:
        """Two whole numbers, or None where there are none.

        Raises:
            ModelError: It is something else.
        """
        if key not in self._facts:
            return None
        value = self._take(key, None)
        if not isinstance(value, list) or [type(item) for item in value] != [int, int]:
            raise self.refuse(key, f"{_show(value)} is impossible; write two whole numbers, such as [460, 680]")
        return value[0], value[1]

    def take_list(self, key: str) -> list[str | int]:
        """Texts and whole numbers, at least one.

        Raises:
            ModelError: It is missing, empty or something else.
        """
        value = self._take(key, None)
        if not isinstance(value, list) or not value or any(type(item) not in {str, int} for item in value):
            raise self.refuse(key, f"{_show(value)} is impossible; write texts or whole numbers in brackets")
        return value

    def take_table(self, key: str, *, is_needed: bool = True) -> "Table":
        """A table within; one that is missing and not needed is empty.

        Raises:
            ModelError: It is needed and missing, or no table.
        """
        value = self._take(key, None if is_needed else {})
        if not isinstance(value, dict):
            raise self.refuse(key, f"{_show(value)} is no table; write [{self._path}{key}] and its fields below")
        return Table(value, source=self._source, path=f"{self._path}{key}.")

    def take_tables(self, key: str) -> list["Table"]:
        """A list of at least one table.

        Raises:
            ModelError: It is missing, empty or something else.
        """
        value = self._take(key, None)
        if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
            raise self.refuse(key, f"{_show(value)} is no list of tables; write [[{self._path}{key}]] for each")
        return [
            Table(item, source=self._source, path=f"{self._path}{key}[{place}].") for place, item in enumerate(value)
        ]

    def take_rest(self) -> dict[str, str | bool | int | float]:
        """Everything that was not taken: texts, numbers, true and false by names of the writer's choice.

        Raises:
            ModelError: One is something else.
        """
        rest: dict[str, str | bool | int | float] = {}
        for key, value in self._facts.items():
            if key in self._known:
                continue
            if isinstance(value, str):
                rest[key] = self.take_text(key)
            elif isinstance(value, bool | int | float) and abs(value) < MAX_FIGURE:  # neither nan nor inf
                self._known.append(key)
                rest[key] = value
            else:
                raise self.refuse(key, f"{_show(value)} is impossible; write a number, a text, true or false")
        return rest

    def has(self, key: str) -> bool:
        """Whether the field is there; whoever asks takes it then."""
        self._known.append(key)
        return key in self._facts

    def close(self) -> None:
        """Refuse what nobody took.

        Raises:
            ModelError: Names the first unknown field, and the known one that it resembles.
        """
        for key in self._facts:
            if key not in self._known:
                alike = difflib.get_close_matches(key, self._known, n=1)
                fix = f"did you mean {alike[0]}?" if alike else f"leave it out; known are {', '.join(self._known)}"
                raise self.refuse(key, f"unknown field; {fix}")

    def _take(self, key: str, default: object) -> object:
        self._known.append(key)
        if key not in self._facts and default is None:
            raise self.refuse(key, "missing; add it")
        return self._facts.get(key, default)


def _show(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python does not write numbers of thousands of digits
        return "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."
