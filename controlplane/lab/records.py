"""What a load generator writes down of every request, in compact arrays, and the first questions one asks of it."""

import array
import collections
import dataclasses
import enum
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controlplane.lab.http1 import Message, header

MAX_WORDS = 4_096
"""Different values that are kept; a server that says something new each time must not fill our memory."""

_WORDS_BYTES = 120


class Outcome(enum.IntEnum):
    """What the client met."""

    ANSWERED = 0
    SOCKET_ERROR = 1
    TIMED_OUT = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Records:
    """What became of each request, in the order of their ends; times are steady seconds of this machine.

    *marks* holds, per watched header, an index into *words*, whose entry 0 is "" (absent); so does *error* for the
    client's error or the first words of an answer that is not 2xx. *shed* requests were never sent.
    """

    due: npt.NDArray[np.float64]
    start: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]
    status: npt.NDArray[np.int16]
    outcome: npt.NDArray[np.int8]
    error: npt.NDArray[np.int32]
    marks: Mapping[str, npt.NDArray[np.int32]]
    words: tuple[str, ...]
    shed: int = 0

    def __len__(self) -> int:
        return len(self.end)

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Which were answered 2xx."""
        answered: npt.NDArray[np.bool_] = (
            (self.outcome == Outcome.ANSWERED) & (self.status >= 200) & (self.status < 300)
        )
        return answered

    @property
    def duration_ms(self) -> npt.NDArray[np.float64]:
        """Milliseconds from sending to the whole answer."""
        spans: npt.NDArray[np.float64] = (self.end - self.start) * 1_000
        return spans

    def has(self, mark: str, word: str | None = None) -> npt.NDArray[np.bool_]:
        """Which carry header *mark*, with the value *word* if one is given."""
        column = self.marks[mark]
        if word is None:
            present: npt.NDArray[np.bool_] = column > 0
            return present
        same: npt.NDArray[np.bool_] = column == (self.words.index(word) if word in self.words else -1)
        return same

    def failures(self) -> dict[str, int]:
        """Count what was not 2xx by "status outcome: words"; injected faults, where watched, are left out."""
        bad = ~self.ok
        if "x-injected-fault" in self.marks:
            bad &= self.marks["x-injected-fault"] == 0
        found: collections.Counter[str] = collections.Counter()
        for at in np.flatnonzero(bad):
            outcome = Outcome(int(self.outcome[at])).name.lower()
            found[f"{self.status[at]} {outcome}: {self.words[self.error[at]]}"] += 1
        return dict(found)

    def save(self, path: Path) -> None:
        """Write a NumPy archive."""
        marks = {f"mark.{name}": column for name, column in self.marks.items()}
        np.savez(
            path,
            allow_pickle=False,
            due=self.due,
            start=self.start,
            end=self.end,
            status=self.status,
            outcome=self.outcome,
            error=self.error,
            words=np.array(json.dumps(self.words)),
            shed=np.array(self.shed),
            **marks,
        )

    @classmethod
    def read(cls, path: Path) -> "Records":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(
                due=stored["due"],
                start=stored["start"],
                end=stored["end"],
                status=stored["status"],
                outcome=stored["outcome"],
                error=stored["error"],
                marks={name.removeprefix("mark."): stored[name] for name in stored.files if name.startswith("mark.")},
                words=tuple(json.loads(str(stored["words"]))),
                shed=int(stored["shed"]),
            )


class Recorder:
    """Appends one row per finished request; `records` may be asked while requests still run."""

    def __init__(self, watch: Sequence[str]) -> None:
        self._watch = tuple((name, name.lower().encode()) for name in watch)
        self._due = array.array("d")
        self._start = array.array("d")
        self._end = array.array("d")
        self._status = array.array("h")
        self._outcome = array.array("b")
        self._error = array.array("i")
        self._marks = {name: array.array("i") for name in watch}
        self._words: dict[str, int] = {"": 0}
        self.shed = 0

    def __len__(self) -> int:
        return len(self._end)

    def answered(self, due: float, start: float, end: float, message: Message) -> int:
        """Record an answer; return its status."""
        status = message.status
        words = "" if 200 <= status < 300 else message.body[:_WORDS_BYTES].decode(errors="replace").strip()
        self._add((due, start, end), status, Outcome.ANSWERED, words)
        if self._watch:
            lower = message.head.lower()
            for name, key in self._watch:
                value = header(lower, key)
                self._marks[name].append(0 if value is None else self._intern(value.decode(errors="replace")))
        return status

    def failed(self, due: float, start: float, end: float, outcome: Outcome, words: str) -> None:
        """Record a request that got no answer."""
        self._add((due, start, end), 0, outcome, words)
        for column in self._marks.values():
            column.append(0)

    def records(self) -> Records:
        """Return a copy of everything recorded so far."""
        return Records(
            due=np.array(self._due, dtype=np.float64),
            start=np.array(self._start, dtype=np.float64),
            end=np.array(self._end, dtype=np.float64),
            status=np.array(self._status, dtype=np.int16),
            outcome=np.array(self._outcome, dtype=np.int8),
            error=np.array(self._error, dtype=np.int32),
            marks={name: np.array(column, dtype=np.int32) for name, column in self._marks.items()},
            words=tuple(self._words),
            shed=self.shed,
        )

    def _add(self, times: tuple[float, float, float], status: int, outcome: Outcome, words: str) -> None:
        self._due.append(times[0])
        self._start.append(times[1])
        self._end.append(times[2])
        self._status.append(status)
        self._outcome.append(outcome)
        self._error.append(self._intern(words) if words else 0)

    def _intern(self, word: str) -> int:
        if word not in self._words and len(self._words) >= MAX_WORDS:
            word = "(other)"
        return self._words.setdefault(word, len(self._words))


def summarise(records: Records) -> dict[str, Any]:
    """Return the figures that people ask for first."""
    spans = records.duration_ms[records.outcome == Outcome.ANSWERED]
    lasted = float(records.end.max() - records.start.min()) if len(records) else 0.0
    median, p99 = (np.percentile(spans, [50, 99]) if len(spans) else (math.nan, math.nan)) if len(records) else (0, 0)
    return {
        "requests": len(records),
        "seconds": round(lasted, 3),
        "per_second": round(len(records) / lasted, 1) if lasted else 0.0,
        "p50_ms": round(float(median), 2),
        "p99_ms": round(float(p99), 2),
        "not_2xx": int((~records.ok).sum()),
        "shed": records.shed,
        "failures": records.failures(),
    }
