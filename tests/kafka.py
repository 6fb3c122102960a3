"""librdkafka's own mock of a Kafka cluster, in this process, with real sockets on loopback: what it has for C programs.

No Kafka broker is in any package index. The mock knows groups, offsets and idempotent producers; it keeps nothing on
disk, and makes each topic with four partitions for whoever asks. It is not what a real broker does, where that differs.
"""

import contextlib
import ctypes
import datetime as dt
import pathlib
from collections.abc import Iterator

import confluent_kafka

from controlplane.broker.kafka import KafkaQueue

BROKERS = 3
PARTITIONS = 4
PRODUCE = 0  # the numbers of Kafka's requests
OFFSET_COMMIT = 8
# and of its errors
NOT_LEADER = 6
REBALANCE_IN_PROGRESS = 27
TOPIC_AUTHORIZATION_FAILED = 29
ERROR_CHARS = 512
TIMEOUT_S = 30

_pointer = ctypes.c_void_p
_SIGNATURES = {
    "rd_kafka_conf_new": (_pointer, []),
    "rd_kafka_conf_set": (ctypes.c_int, [_pointer, *[ctypes.c_char_p] * 3, ctypes.c_size_t]),
    "rd_kafka_new": (_pointer, [ctypes.c_int, _pointer, ctypes.c_char_p, ctypes.c_size_t]),
    "rd_kafka_destroy": (None, [_pointer]),
    "rd_kafka_mock_cluster_new": (_pointer, [_pointer, ctypes.c_int]),
    "rd_kafka_mock_cluster_destroy": (None, [_pointer]),
    "rd_kafka_mock_cluster_bootstraps": (ctypes.c_char_p, [_pointer]),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [_pointer, ctypes.c_int32]),
    "rd_kafka_mock_broker_set_down": (ctypes.c_int, [_pointer, ctypes.c_int32]),
    "rd_kafka_mock_broker_set_up": (ctypes.c_int, [_pointer, ctypes.c_int32]),
    "rd_kafka_mock_topic_create": (ctypes.c_int, [_pointer, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]),
    "rd_kafka_mock_topic_set_error": (None, [_pointer, ctypes.c_char_p, ctypes.c_int]),
    "rd_kafka_mock_push_request_errors_array": (
        None,
        [_pointer, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int)],
    ),
}

PATIENCE = dt.timedelta(seconds=20)
SILENT_FOR = dt.timedelta(seconds=4)
"""The mock lets a rebalance take about as long."""


def open_queue(url: str, *, patience: dt.timedelta = PATIENCE) -> KafkaQueue:
    """Open the queue as a process does; what is expected of a take that comes first is that it waits for its group."""
    return KafkaQueue(url, patience=patience, silent_for=SILENT_FOR)


def _library() -> ctypes.CDLL:
    (found,) = (pathlib.Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs").glob("librdkafka-*.so*")
    library = ctypes.CDLL(str(found))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class MockKafka:
    """A cluster of three brokers that a test may stop, and that fails as a test says."""

    def __init__(self, library: ctypes.CDLL, cluster: int) -> None:
        self._library = library
        self._cluster = cluster
        servers = library.rd_kafka_mock_cluster_bootstraps(cluster).decode()
        self.url = f"kafka://{servers}"
        self._client = {"bootstrap.servers": servers, "group.id": "a-test"}

    def produce(self, topic: str, *bodies: bytes) -> None:
        """Send what a foreign producer would."""
        producer = confluent_kafka.Producer({"bootstrap.servers": self._client["bootstrap.servers"]})
        for body in bodies:
            producer.produce(topic, body)
        assert producer.flush(TIMEOUT_S) == 0

    def read(self, topic: str, count: int) -> list[confluent_kafka.Message]:
        """Read *count* messages from a topic's beginning, in nobody's name."""
        consumer = confluent_kafka.Consumer(self._client)
        consumer.assign([confluent_kafka.TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
        try:
            return consumer.consume(count, TIMEOUT_S)
        finally:
            consumer.close()

    def committed(self, group: str, topic: str) -> int:
        """Return the offset that a group has committed of a topic's first partition."""
        consumer = confluent_kafka.Consumer({**self._client, "group.id": group})
        (found,) = consumer.committed([confluent_kafka.TopicPartition(topic, 0)], TIMEOUT_S)
        consumer.close()
        return found.offset

    def stop(self) -> None:
        """Cut all connections and take no new ones; what is stored stays."""
        assert self._library.rd_kafka_mock_broker_set_down(self._cluster, -1) == 0

    def start(self) -> None:
        """Take connections again."""
        assert self._library.rd_kafka_mock_broker_set_up(self._cluster, -1) == 0

    def make_topic(self, name: str, *, partitions: int) -> None:
        """Make a topic with other than four partitions."""
        assert self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1) == 0

    def break_topic(self, name: str, error: int) -> None:
        """Have brokers say *error* of a topic; 0 mends it."""
        self._library.rd_kafka_mock_topic_set_error(self._cluster, name.encode(), error)

    def fail(self, request: int, *errors: int) -> None:
        """Answer the next requests of a kind with *errors*, one each."""
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, request, len(errors), (ctypes.c_int * len(errors))(*errors)
        )


@contextlib.contextmanager
def running_kafka() -> Iterator[MockKafka]:
    """Start a mock cluster, and end it."""
    library = _library()
    said = ctypes.create_string_buffer(ERROR_CHARS)
    config = library.rd_kafka_conf_new()
    library.rd_kafka_conf_set(config, b"log_level", b"0", said, ERROR_CHARS)
    handle = library.rd_kafka_new(0, config, said, ERROR_CHARS)
    assert handle, said.value
    cluster = library.rd_kafka_mock_cluster_new(handle, BROKERS)
    # As a broker's group.initial.rebalance.delay.ms: nobody else is to be waited for.
    library.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0)
    try:
        yield MockKafka(library, cluster)
    finally:
        library.rd_kafka_mock_cluster_destroy(cluster)
        library.rd_kafka_destroy(handle)
