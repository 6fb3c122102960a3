"""What a runtime's exception says about its device, whichever runtime it is and however deep the cause lies.

Some CUDA errors end a context: NVIDIA's documentation of the error says that "the process must be terminated and
relaunched", and until then every call fails with the same error. Those take a worker out of service. All others belong
to one run. Torch gives the number as `error_code` (torch.AcceleratorError) or, before 2.8, only the text of
cudaGetErrorString; ONNX Runtime writes `CUDA failure 700: ...` or `CUDA error cudaErrorIllegalAddress:...`.
"""

import re
import traceback
from collections.abc import Iterator
from typing import Final

OUT_OF_MEMORY_WORDS: Final = (
    "out of memory",
    "failed to allocate memory",  # ONNX Runtime's arena, when the device has no more
    "is smaller than requested bytes",  # the same arena, when it has reached its own limit
    "status_alloc_failed",  # cuBLAS and cuDNN for their work space
    "allocation_failed",  # cuDNN 9
    "cudaerrormemoryallocation",
    "bad allocation",
    "bad_alloc",
    "can't allocate memory",
)
FATAL_CODES: Final = frozenset(
    {
        214,  # cudaErrorECCUncorrectable
        220,  # cudaErrorNvlinkUncorrectable
        226,  # cudaErrorContained
        700,  # cudaErrorIllegalAddress
        702,  # cudaErrorLaunchTimeout
        709,  # cudaErrorContextIsDestroyed
        710,  # cudaErrorAssert
        714,  # cudaErrorHardwareStackError
        715,  # cudaErrorIllegalInstruction
        716,  # cudaErrorMisalignedAddress
        717,  # cudaErrorInvalidAddressSpace
        718,  # cudaErrorInvalidPc
        719,  # cudaErrorLaunchFailure
        721,  # cudaErrorTensorMemoryLeak
        999,  # cudaErrorUnknown
    }
)
FATAL_WORDS: Final = (
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
    "illegal memory access was encountered",
    "launch timed out",
    "context is destroyed",
    "device-side assert triggered",  # torch's advice under every CUDA error has "device-side assertions"
    "hardware stack error",
    "illegal instruction was encountered",
    "misaligned address",
    "not supported on global/shared address space",
    "invalid program counter",
    "unspecified launch failure",
    "cuda error: unknown error",
)
FATAL_STATUSES: Final = ("cublas_status_execution_failed", "cublas_status_mapping_error", "cudnn_status_mapping_error")
"""Of the libraries above CUDA, those that tell of a failed kernel or of memory that is gone."""
ONNX_RUNTIME_CODE: Final = re.compile(r"cuda failure (\d+)\b")


def follow_causes(exc: BaseException | None) -> Iterator[BaseException]:
    """*exc*, what caused it, and so on."""
    while exc is not None:
        yield exc
        exc = exc.__cause__


def is_out_of_memory(exc: BaseException | None) -> bool:
    """Whether *exc*, or what caused it, is a device's or a process's way to say that memory ran out."""
    return any(
        isinstance(cause, MemoryError)
        or type(cause).__name__ == "OutOfMemoryError"  # torch's, without torch
        or any(words in str(cause).lower() for words in OUT_OF_MEMORY_WORDS)
        for cause in follow_causes(exc)
    )


def is_device_lost(exc: BaseException | None) -> bool:
    """Whether *exc*, or what caused it, says that this process will get nothing more from its device."""
    return not is_out_of_memory(exc) and any(_is_fatal(cause) for cause in follow_causes(exc))


def _is_fatal(cause: BaseException) -> bool:
    if getattr(cause, "error_code", None) in FATAL_CODES:
        return True
    text = str(cause).lower()
    found = ONNX_RUNTIME_CODE.search(text)
    if found is not None and int(found[1]) in FATAL_CODES:
        return True
    return any(words in text for words in FATAL_STATUSES) or (
        "cuda" in text and any(words in text for words in FATAL_WORDS)
    )


def forget_frames(exc: BaseException | None) -> None:
    """Let go of what a failed run's frames still hold: its half-done tensors, where memory is short."""
    for cause in follow_causes(exc):
        traceback.clear_frames(cause.__traceback__)
