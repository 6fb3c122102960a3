"""Tiny ONNX models, written byte by byte: the package that could write them is only there where torch is."""

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

Shape: TypeAlias = tuple[int | str, ...]
Node: TypeAlias = tuple[tuple[str, ...], str, str]
"""Inputs, operator, output."""

FREE: Final[Shape] = ("n", 3, "h", "w")
"""Pictures of any size."""


def field(number: int, value: int | bytes | str) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    data = value.encode() if isinstance(value, str) else value
    assert len(data) < 2**14
    return bytes([number << 3 | 2, len(data) & 0x7F | 0x80, len(data) >> 7]) + data


def describe(name: str, shape: Shape) -> bytes:
    dims = b"".join(field(1, field(1, side) if isinstance(side, int) else field(2, side)) for side in shape)
    tensor = field(1, 1) + field(2, dims)  # 1: float
    return field(1, name) + field(2, field(1, tensor))


def pack_model(nodes: Sequence[Node], *, inputs: Mapping[str, Shape], output: tuple[str, Shape]) -> bytes:
    """A model of *nodes* whose operators need no attributes."""
    graph = b"".join(
        field(1, b"".join(field(1, name) for name in given) + field(2, made) + field(4, operator))
        for given, operator, made in nodes
    )
    graph += field(2, "tiny") + b"".join(field(11, describe(name, shape)) for name, shape in inputs.items())
    return field(1, 8) + field(8, field(1, "") + field(2, 17)) + field(7, graph + field(12, describe(*output)))
