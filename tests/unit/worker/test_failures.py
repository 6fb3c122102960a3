"""Texts as the libraries write them: torch's exceptions, ONNX Runtime's statuses with cudaGetErrorString inside."""

import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail, Fail, RuntimeException

from inference_worker.errors import ModelError
from inference_worker.failures import is_device_lost, is_out_of_memory


class OutOfMemoryError(RuntimeError):
    """Named as torch's is."""


class AcceleratorError(RuntimeError):
    """As torch's since 2.8: with the number that CUDA gave."""

    def __init__(self, text: str, error_code: int) -> None:
        super().__init__(text)
        self.error_code = error_code


NODE = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. Name:'c1'"
ARENA = "bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*)"
PLACE = "GPU=0 ; hostname=worker-1 ; file=cuda_call.cc ; line=129 ; expr=cudaStreamSynchronize(stream);"
ADVICE = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
    "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."
)

FULL = [
    MemoryError(),
    OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 22.05 GiB"),
    OutOfMemoryError("whatever it says"),
    AcceleratorError(f"CUDA error: out of memory{ADVICE}", 2),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("std::bad_alloc"),
    RuntimeException(
        f"{NODE} Status Message: {ARENA} Failed to allocate memory for requested buffer of size 765249024"
    ),
    RuntimeException(
        f"{NODE} Status Message: {ARENA} Available memory of 189612800 is smaller than requested bytes of 221179904"
    ),
    Fail(f"[ONNXRuntimeError] : 1 : FAIL : CUDA failure 2: out of memory ; {PLACE}"),
    Fail(f"[ONNXRuntimeError] : 1 : FAIL : CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; {PLACE}"),
]
LOST = [
    *(
        RuntimeError(f"CUDA error: {text}{ADVICE}")
        for text in (
            "uncorrectable ECC error encountered",
            "uncorrectable NVLink error detected during the execution",
            "an illegal memory access was encountered",
            "the launch timed out and was terminated",
            "context is destroyed",
            "device-side assert triggered",
            "hardware stack error",
            "an illegal instruction was encountered",
            "misaligned address",
            "operation not supported on global/shared address space",
            "invalid program counter",
            "unspecified launch failure",
            "unknown error",
        )
    ),
    *(
        AcceleratorError("CUDA error: in words of another release", code)
        for code in (214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999)
    ),
    Fail(f"[ONNXRuntimeError] : 1 : FAIL : CUDA failure 700: an illegal memory access was encountered ; {PLACE}"),
    EPFail(f"[ONNXRuntimeError] : 11 : EP_FAIL : CUDA failure 719: unspecified launch failure ; {PLACE}"),
    Fail(f"{NODE} Status Message: CUDA error cudaErrorIllegalAddress:an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`"),
]
ORDINARY = [
    None,
    ValueError("an illegal instruction was encountered, by something that has no GPU"),
    RuntimeError("Given groups=1, weight of size [48, 3, 4, 4], expected input[1, 1, 64, 64] to have 3 channels"),
    RuntimeException(f"{NODE} Status Message: Got invalid dimensions for input: x for the following indices"),
    RuntimeError("CUDA error: invalid configuration argument"),
    RuntimeError(f"CUDA error: no kernel image is available for execution on the device{ADVICE}"),
    AcceleratorError(f"CUDA error: invalid argument{ADVICE}", 1),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    Fail(f"[ONNXRuntimeError] : 1 : FAIL : CUDNN failure 9: CUDNN_STATUS_NOT_SUPPORTED ; {PLACE}"),
]


def wrap(cause: Exception | None) -> ModelError:
    """As a backend tells of it."""
    wrapped = ModelError("model: the runtime failed on this input; see the worker's log")
    wrapped.__cause__ = cause
    return wrapped


@pytest.mark.parametrize("failure", FULL)
def test_lack_of_memory_is_recognised_and_is_no_lost_device(failure: Exception) -> None:
    for exc in (failure, wrap(failure)):
        assert is_out_of_memory(exc)
        assert not is_device_lost(exc)


@pytest.mark.parametrize("failure", LOST)
def test_what_ends_a_cuda_context_is_recognised(failure: Exception) -> None:
    for exc in (failure, wrap(failure)):
        assert is_device_lost(exc)
        assert not is_out_of_memory(exc)


@pytest.mark.parametrize("failure", ORDINARY)
def test_one_runs_own_failure_is_neither(failure: Exception | None) -> None:
    for exc in (failure, wrap(failure)):
        assert not is_out_of_memory(exc)
        assert not is_device_lost(exc)
