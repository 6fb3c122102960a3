"""Says which services there are and what their messages look like, so that grpcurl and its like need no files.

Version 1 of the protocol is version 1alpha under another name; newer clients ask for it first.
"""

from collections.abc import Iterable
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_reflection.v1alpha import reflection, reflection_pb2

SERVICES: Final = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


def reflection_handlers(
    services: Iterable[str], files: Iterable[descriptor_pb2.FileDescriptorProto]
) -> dict[str, "grpc.RpcMethodHandler[Any, Any]"]:
    """Return the methods of the reflection service, by name.

    Args:
        services: The names that it lists.
        files: Descriptions of services that no generated code has registered, after those that they import.
    """
    servicer = reflection.aio.ReflectionServicer((*services, SERVICES[-1]), pool=_Pool(files))
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return {"ServerReflectionInfo": method}


class _Pool:
    """What generated code has registered, and some files of our own that must not get in its way."""

    def __init__(self, files: Iterable[descriptor_pb2.FileDescriptorProto]) -> None:
        self._known = descriptor_pool.Default()
        self._own = descriptor_pool.DescriptorPool()
        for file in files:
            self._own.Add(file)

    def FindFileByName(self, name: str) -> FileDescriptor:  # noqa: N802 - protobuf's name
        try:
            return self._own.FindFileByName(name)
        except KeyError:
            return self._known.FindFileByName(name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802
        try:
            return self._own.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._known.FindFileContainingSymbol(symbol)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._known, name)
