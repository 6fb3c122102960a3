"""What can go wrong with one request or with the start; each message names the field and the fix."""


class WorkerError(Exception):
    """Root of the worker's own exceptions."""


class ComeAgainError(WorkerError):
    """Nothing is wrong with the request; after `wait_s` seconds it may well be answered."""

    wait_s: float = 1.0


class BadRequestError(WorkerError):
    """The request itself is malformed: no body, no picture in the form, an unknown parameter value."""


class BodyTooLargeError(WorkerError):
    """The body has more bytes than the worker takes."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"image: the body is larger than {max_bytes} bytes; send a smaller or more compressed file")
        self.max_bytes = max_bytes


class TooManyPixelsError(WorkerError):
    """The picture's header announces more pixels than the worker decodes."""

    def __init__(self, width: int, height: int, max_pixels: int) -> None:
        announced = f"{width} x {height} pixels" if width else "far too many pixels"
        super().__init__(f"image: {announced}; scale it down to {max_pixels} pixels or fewer")
        self.max_pixels = max_pixels


class UnsupportedTypeError(WorkerError):
    """The body is of a type the worker does not read."""

    def __init__(self, found: str) -> None:
        why = " without the library pi-heif beside the worker" if found.startswith(("image/hei", "image/hev")) else ""
        super().__init__(f"image: type {found!r} is not read{why}; send JPEG, PNG, WebP, TIFF or BMP")
        self.found = found


class UnreadableImageError(WorkerError):
    """The picture is of a known type and broken, or its shape is not for this model."""


class ColourInputError(WorkerError):
    """The photo already has colours of its own."""

    def __init__(self, residual: float, limit: float) -> None:
        super().__init__(
            f"image: the photo is already in colour (residual chroma {residual:.1f}, limit {limit:.1f}); "
            "send a grey or toned photo, or add ?force=true to recolour it"
        )
        self.residual = residual


class QueueFullError(ComeAgainError):
    """As many requests, bytes or pixels as the worker holds are already inside."""

    def __init__(self, what: str, *, wait_s: float = 1.0) -> None:
        super().__init__(f"queue: {what}; send the request again later")
        self.wait_s = wait_s


class NotReadyError(ComeAgainError):
    """The model is still loading, or the worker is stopping."""

    def __init__(self, state: str) -> None:
        super().__init__(f"model: the worker is {state}; wait until /readyz answers 200")
        self.state = state


class LateError(ComeAgainError):
    """The answer would come after its caller has given up, so the work is not begun."""

    def __init__(self, needed_s: float, given_s: float) -> None:
        super().__init__(
            f"deadline: the answer would take about {needed_s:.2g} s and is wanted within {given_s:.2g} s; "
            "send the request again later, or allow it more time"
        )
        self.wait_s = max(1.0, needed_s - given_s)


class DeadlineError(ComeAgainError):
    """The request waited longer than the worker, or its caller, lets it wait."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"deadline: no answer within {seconds:g} s; send the request again later")


class DeviceMemoryError(ComeAgainError):
    """The device has no memory for this picture, even alone."""

    def __init__(self) -> None:
        super().__init__("memory: the device has no room for this picture; send it again later, or ask a smaller size")


class DeviceLostError(ComeAgainError):
    """The device failed for good; the worker leaves, and what stands in its place may well answer."""

    wait_s = 5.0

    def __init__(self) -> None:
        super().__init__("device: it has failed and this worker is starting anew; send the request again later")


class SlowUploadError(WorkerError):
    """The body did not arrive in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"image: the body did not arrive within {seconds:g} s; send a smaller file or a faster stream")


class NoModelError(WorkerError):
    """The path is for a kind of model that this worker does not serve."""

    def __init__(self, path: str, served: str) -> None:
        super().__init__(f"path: no model behind {path} on this worker; it serves {served}")


class TokenError(WorkerError):
    """Kept samples were asked for without their token, or with another."""

    def __init__(self) -> None:
        super().__init__("authorization: not this worker's sample token; send `Bearer TOKEN` of --sample-token-file")


class NoSampleError(WorkerError):
    """No such sample is kept, or no longer."""

    def __init__(self) -> None:
        super().__init__("sample: not kept, or no longer; GET /samples lists those that are")


class InjectedError(WorkerError):
    """A drill asked for this failure by a start-up flag."""

    def __init__(self) -> None:
        super().__init__("fault: this failure was injected by --fault-errors; restart the worker without it")


class ClientGoneError(WorkerError):
    """Whoever asked has closed the connection; nobody reads the answer."""

    def __init__(self) -> None:
        super().__init__("client: the connection was closed before the answer was ready")


class ModelError(WorkerError):
    """A model is unknown, missing, damaged, or its description is not valid."""


class PullError(WorkerError):
    """A model's files could not be fetched, or are not what its card says."""


class SettingError(WorkerError):
    """A start-up flag has an impossible value."""
