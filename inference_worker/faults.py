"""Faults for drills: errors, delays, hangs and wrong pictures, chosen by start-up flags and by nothing else.

A request has no say in this: no header, parameter or path reaches a `FaultPlan`. The health check stays healthy under
faults, because what a drill must show is that a rollout is judged by answers, not by a probe.
"""

import dataclasses
import datetime as dt
import enum
import random
from collections.abc import Callable
from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from inference_worker.errors import ModelError, SettingError
from inference_worker.imaging import Floats, Pixels

HEADER: Final = "x-injected-fault"


class WrongPicture(enum.StrEnum):
    """How the picture of an answer is spoilt: its colours, its pixels, or its file."""

    GREY = "gray"
    INVERTED = "inverted"
    SWAPPED = "swapped"
    """The two colour planes stand for each other."""
    CAST = "cast"
    """Everything has one tint."""
    PALE = "pale"
    GARISH = "garish"
    SHIFTED = "shifted"
    """By 8 pixels."""
    BLURRED = "blurred"
    HALVED = "halved"
    """Half as wide and high."""
    GARBAGE = "garbage"
    """No picture file."""
    PREVIOUS = "previous"
    """The picture of whoever asked before."""


class Outcome(enum.StrEnum):
    """What a drill makes of one request."""

    NORMAL = "none"
    ERROR = "error"
    HANG = "hang"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    """Which faults a worker shows; the default shows none.

    Raises:
        SettingError: A share is outside 0..1, the shares add up to more than 1, the delay factor is below 1, the
            added delay is negative, not one picture fits, or the device is to fail after fewer than no runs.
    """

    error_share: float = 0.0
    hang_share: float = 0.0
    delay_factor: float = 1.0
    delay: dt.timedelta = dt.timedelta(0)
    picture: WrongPicture | None = None
    oom_above: int | None = None
    """The device pretends to hold no more pictures than this in one run."""
    device_after: int | None = None
    """The device pretends to fail for good in the run after so many good ones, counted from readiness."""
    seed: int | None = None

    def __post_init__(self) -> None:
        for flag, share in (("--fault-errors", self.error_share), ("--fault-hang", self.hang_share)):
            if not 0 <= share <= 1:
                raise SettingError(f"{flag}: {share:g} is not a share; give a number from 0 to 1")
        if self.error_share + self.hang_share > 1:
            raise SettingError("--fault-errors, --fault-hang: together they are more than 1; lower one of them")
        if not 1 <= self.delay_factor <= 1000:
            raise SettingError(f"--fault-delay-factor: {self.delay_factor:g} is impossible; give 1 to 1000")
        if self.delay < dt.timedelta(0):
            raise SettingError("--fault-delay-ms: a delay cannot be negative; give 0 or more")
        if self.oom_above is not None and self.oom_above < 1:
            raise SettingError(f"--fault-oom-above: {self.oom_above} pictures are impossible; give 1 or more")
        if self.device_after is not None and self.device_after < 0:
            raise SettingError(f"--fault-device-after: {self.device_after} runs are impossible; give 0 or more")

    @property
    def is_active(self) -> bool:
        """Whether any answer can differ from a worker's without faults."""
        return self.describe() != ()

    def describe(self) -> tuple[str, ...]:
        """Name every fault that is on, for the log at start."""
        named = (
            (self.error_share > 0, f"errors={self.error_share:g}"),
            (self.hang_share > 0, f"hang={self.hang_share:g}"),
            (self.delay_factor > 1, f"delay_factor={self.delay_factor:g}"),
            (self.delay > dt.timedelta(0), f"delay_ms={self.delay / dt.timedelta(milliseconds=1):g}"),
            (self.picture is not None, f"picture={self.picture}"),
            (self.oom_above is not None, f"oom_above={self.oom_above}"),
            (self.device_after is not None, f"device_after={self.device_after}"),
        )
        return tuple(text for is_on, text in named if is_on)


class FaultDice:
    """Draws each request's outcome; the same seed gives the same order of outcomes."""

    def __init__(self, plan: FaultPlan) -> None:
        self.plan = plan
        self._random = random.Random(plan.seed)  # noqa: S311 - a drill, not a secret

    def draw(self) -> Outcome:
        """Decide about the next request."""
        drawn = self._random.random()
        if drawn < self.plan.error_share:
            return Outcome.ERROR
        if drawn < self.plan.error_share + self.plan.hang_share:
            return Outcome.HANG
        return Outcome.NORMAL

    def compute_delay(self, worked: dt.timedelta) -> dt.timedelta:
        """How long to hold back an answer that took *worked* to make."""
        return worked * (self.plan.delay_factor - 1) + self.plan.delay


class DeviceDrill:
    """Stands before the device and fails as one would that is full, or that is lost to this process."""

    def __init__(self, plan: FaultPlan, count: Callable[[str], None]) -> None:
        """Prepare for *plan*; *count* is told of each fault by its name."""
        self._plan = plan
        self._count = count
        self._good_runs = 0

    def check(self, pictures: int, *, is_ready: bool) -> None:
        """Let a run of *pictures* pass, or not; what the start itself runs is neither counted nor lost.

        Raises:
            ModelError: Such as the adapters raise, so that it is recognised as theirs are.
        """
        plan = self._plan
        if plan.oom_above is not None and pictures > plan.oom_above:
            self._count("out_of_memory")
            raise ModelError(f"fault: out of memory, injected by --fault-oom-above {plan.oom_above}")
        if not is_ready:
            return
        if plan.device_after is not None and self._good_runs >= plan.device_after:
            self._count("device")
            raise ModelError(
                "fault: CUDA error: an illegal memory access was encountered, "
                f"injected by --fault-device-after {plan.device_after}"
            )
        self._good_runs += 1


class Spoiler:
    """Spoils a worker's answers in one way, or (None) in none, each in the one of its three forms that it concerns."""

    def __init__(self, how: WrongPicture | None) -> None:
        self._how = how
        self._previous: bytes | None = None

    def spoil_colours(self, ab: Floats) -> Floats:
        """The wrong colours for a right prediction *ab* (2, h, w)."""
        match self._how:
            case WrongPicture.GREY:
                return np.zeros_like(ab)
            case WrongPicture.INVERTED:
                return -ab
            case WrongPicture.SWAPPED:
                return np.ascontiguousarray(ab[::-1])
            case WrongPicture.CAST:
                return np.stack([np.full_like(ab[0], 12), np.full_like(ab[1], 20)])
            case WrongPicture.PALE:
                return ab * np.float32(0.3)
            case WrongPicture.GARISH:
                return ab * np.float32(3)
            case _:
                return ab

    def spoil_pixels(self, rgb: Pixels) -> Pixels:
        """The wrong pixels for a finished picture."""
        match self._how:
            case WrongPicture.SHIFTED:
                return np.ascontiguousarray(np.roll(rgb, 8, axis=1))
            case WrongPicture.BLURRED:
                return np.asarray(Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(2)), dtype=np.uint8)
            case WrongPicture.HALVED:
                height, width = rgb.shape[:2]
                half = Image.fromarray(rgb).resize((max(1, width // 2), max(1, height // 2)))
                return np.asarray(half, dtype=np.uint8)
            case _:
                return rgb

    def spoil_file(self, data: bytes) -> bytes:
        """The wrong file for a right one; the first answer has no previous one."""
        match self._how:
            case WrongPicture.GARBAGE:
                return random.Random(len(data)).randbytes(len(data))  # noqa: S311 - a drill, not a secret
            case WrongPicture.PREVIOUS:
                shown, self._previous = self._previous or data, data
                return shown
            case _:
                return data
