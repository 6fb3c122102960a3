"""Messages that differ from a given one in one place: what a validator must judge as Envoy does."""

import copy
from collections.abc import Iterator
from typing import Any

from google.protobuf import any_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_WHOLE = {
    FieldDescriptor.CPPTYPE_INT32: (0, 1, -1, 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (0, 1, -1, 315_576_000_001),
    FieldDescriptor.CPPTYPE_UINT32: (0, 1, 101, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 1, 2**63),
    FieldDescriptor.CPPTYPE_DOUBLE: (0.0, -1.0, 101.0),
    FieldDescriptor.CPPTYPE_FLOAT: (0.0, -1.0, 101.0),
    FieldDescriptor.CPPTYPE_BOOL: (True, False),
    FieldDescriptor.CPPTYPE_ENUM: (0, 1, 77),
    FieldDescriptor.CPPTYPE_STRING: ("", "a b", "a\nb", "x" * 70_000),
}


def mutants(message: Message) -> Iterator[tuple[str, Any]]:
    """Yield copies of *message*, each with one field changed, emptied or (for messages) newly there; with its path."""
    if isinstance(message, any_pb2.Any):
        yield from _packed(message)
        return
    for field in message.DESCRIPTOR.fields:
        name = field.name
        if not field.is_repeated and field.message_type is not None and not message.HasField(name):
            changed: Any = copy.deepcopy(message)
            getattr(changed, name).SetInParent()
            yield f".{name}+", changed
    for field, value in message.ListFields():
        yield f".{field.name}-", _without(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        if field.is_repeated:
            yield from _of_list(message, field, value)
        elif field.message_type is not None:
            for path, inner in mutants(value):
                changed = copy.deepcopy(message)
                getattr(changed, field.name).CopyFrom(inner)
                yield f".{field.name}{path}", changed
        else:
            for other in _values(field, value):
                changed = copy.deepcopy(message)
                setattr(changed, field.name, other)
                yield f".{field.name}={_short(other)}", changed


def _without(message: Message, name: str) -> Any:
    changed = copy.deepcopy(message)
    changed.ClearField(name)
    return changed


def _of_list(message: Message, field: FieldDescriptor, values: Any) -> Iterator[tuple[str, Any]]:
    for place, value in enumerate(values):
        if field.message_type is None:
            for other in _values(field, value):
                changed: Any = copy.deepcopy(message)
                getattr(changed, field.name)[place] = other
                yield f".{field.name}[{place}]={_short(other)}", changed
        else:
            for path, inner in mutants(value):
                changed = copy.deepcopy(message)
                getattr(changed, field.name)[place].CopyFrom(inner)
                yield f".{field.name}[{place}]{path}", changed


def _packed(message: any_pb2.Any) -> Iterator[tuple[str, Any]]:
    found = descriptor_pool.Default().FindMessageTypeByName(message.type_url.rpartition("/")[2])
    for path, inner in mutants(message_factory.GetMessageClass(found).FromString(message.value)):
        changed = any_pb2.Any()
        changed.Pack(inner)
        yield path, changed


def _values(field: FieldDescriptor, value: Any) -> Iterator[Any]:
    if field.type == FieldDescriptor.TYPE_BYTES:
        yield b""
        return
    yield from (other for other in _WHOLE[field.cpp_type] if other != value)


def _short(value: Any) -> str:
    return repr(value)[:20]
