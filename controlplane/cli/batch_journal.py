"""What a batch remembers beside its results, so that the same command goes on where it was stopped, however it was.

One line of JSON per photo that has ended, only ever appended to; the last line of a name counts, and one that a kill
cut off counts as none. A line is written before its result is moved into place: a result without a line is not ours.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import threading
from types import TracebackType
from typing import BinaryIO, Final, Self

from controlplane.errors import InvalidInputError

NAME: Final = ".hueshift-batch.jsonl"
PART: Final = ".hueshift-part-"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """How a photo ended.

    Args:
        name: The photo's.
        task_id: The one that its content and the options make.
        turn: Which job of that task it is; more than 1 where an earlier one cannot be run again.
        job: The job's id; "" when there was none.
        file: The result's path below the folder of results; "" when there is none.
        sha256: The result's, in hex.
        words: Why there is no result.
    """

    name: str
    task_id: str
    turn: int = 1
    job: str = ""
    file: str = ""
    sha256: str = ""
    words: str = ""


class Journal:
    """The journal of one folder of results. Only one process at a time may have it open."""

    def __init__(self, out: pathlib.Path) -> None:
        self.out = out
        self.records: dict[str, Record] = {}
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            file = self._file = (self.out / NAME).open("a+b")
        except OSError as exc:
            raise self._refused(exc) from exc
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            file.close()
            raise InvalidInputError("--out", f"another batch writes to {self.out} now", "wait for its end") from exc
        for left in self.out.glob(f"{PART}*"):
            left.unlink(missing_ok=True)
        file.seek(0)
        text = file.read()
        if text and not text.endswith(b"\n"):
            file.write(b"\n")
        for line in text.splitlines():
            self._read(line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def files(self) -> frozenset[str]:
        """The results that batches have written here."""
        return frozenset(record.file for record in self.records.values() if record.file)

    def add(self, record: Record) -> None:
        """Remember how a photo ended.

        Raises:
            InvalidInputError: The folder cannot be written any more.
        """
        line = json.dumps(dataclasses.asdict(record), ensure_ascii=False).encode() + b"\n"
        with self._lock:
            assert self._file is not None  # noqa: S101 - it is open
            try:
                self._file.write(line)
                self._file.flush()
            except OSError as exc:
                raise self._refused(exc) from exc
            self.records[record.name] = record

    def add_result(self, record: Record, content: bytes) -> None:
        """Write a result, whole or not at all, and remember it; raises as `add` does."""
        place = self.out / record.file
        part = self.out / f"{PART}{threading.get_ident()}"
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self.add(record)
            part.replace(place)
        except OSError as exc:
            raise self._refused(exc) from exc

    def is_written(self, record: Record) -> bool:
        """Whether the result of *record* is there, as it was written."""
        try:
            return hashlib.sha256((self.out / record.file).read_bytes()).hexdigest() == record.sha256
        except OSError:
            return False

    def _read(self, line: bytes) -> None:
        try:
            record = Record(**json.loads(line))
        except (ValueError, TypeError):
            return  # cut off by a kill: its photo is asked for again, which colours nothing twice
        self.records[record.name] = record

    def _refused(self, exc: OSError) -> InvalidInputError:
        return InvalidInputError(
            "--out", f"{self.out} cannot be written ({exc.strerror})", "make room, or name another"
        )
