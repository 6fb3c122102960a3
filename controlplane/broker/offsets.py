"""Pure: how far a partition of a Kafka topic may be committed while its messages are answered in any order."""

import dataclasses


@dataclasses.dataclass(slots=True)
class Offsets:
    """One partition, for as long as it is ours.

    Kafka knows no single acknowledgements, only one offset: everything below it is done. So the lowest message that is
    not answered holds all later ones back, and a crash repeats those, which is harmless.
    """

    position: int | None = None
    """Where reading goes on. None: nothing is known of the partition yet."""
    is_lost: bool = False
    """Whether the partition is somebody else's by now, and so are the messages that were taken from it."""
    _open: dict[int, None] = dataclasses.field(default_factory=dict)
    _committed: int | None = None
    """What `advance` returned last, or what is below all that was read. None: it is to be committed in any case."""

    def take(self, offset: int) -> None:
        """A message was read. Offsets only grow, but may leave out some."""
        self._open[offset] = None
        self.reach(offset + 1)

    def reach(self, position: int) -> None:
        """There is nothing to read below *position* that has not been read."""
        if self.position is None:
            self._committed = min(self._open, default=position)
        self.position = position

    def finish(self, offset: int) -> None:
        """A message was answered; once more is fine."""
        self._open.pop(offset, None)

    def advance(self) -> int | None:
        """Return the offset to commit now, None when it is no higher than before."""
        low = next(iter(self._open), self.position)
        if low is None or low == self._committed:
            return None
        self._committed = low
        return low

    def retract(self) -> None:
        """What `advance` returned last was not committed: it is to be tried again."""
        self._committed = None
