"""Requests over a plain socket, because no client tells what one chosen node says: Metadata, DescribeQuorum, DescribeLogDirs.

Each in a version old enough for any broker, decoded by hand. An OSError means that the node did not answer.
"""

import socket
import struct
from dataclasses import dataclass, field

_CLIENT_ID = b"harness"


@dataclass
class Partition:
    error: int
    leader: int
    leader_epoch: int
    replicas: list[int]
    isr: list[int]
    offline: list[int]


@dataclass
class Metadata:
    cluster_id: str | None
    brokers: dict[int, tuple[str, int]]
    topics: dict[str, dict[int, Partition]] = field(default_factory=dict)


@dataclass
class Quorum:
    error: int
    leader: int = -1
    leader_epoch: int = -1
    high_watermark: int = -1
    # Id to log end offset.
    voters: dict[int, int] = field(default_factory=dict)
    observers: dict[int, int] = field(default_factory=dict)


@dataclass
class LogDir:
    """Partitions by (topic, number, is future): size and lag."""
    error: int
    partitions: dict[tuple[str, int, bool], tuple[int, int]] = field(default_factory=dict)


class _Reader:
    def __init__(self, data: bytes):
        self._data = data
        self._at = 0

    def take(self, form: str) -> int:
        size = struct.calcsize(form)
        if self._at + size > len(self._data):
            raise ConnectionError("the answer is too short")
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += size
        return value

    def int8(self) -> int:
        return self.take(">b")

    def int16(self) -> int:
        return self.take(">h")

    def int32(self) -> int:
        return self.take(">i")

    def int64(self) -> int:
        return self.take(">q")

    def bytes(self, length: int) -> bytes:
        self._at += length
        return self._data[self._at - length : self._at]

    def string(self) -> str | None:
        length = self.int16()
        return None if length < 0 else self.bytes(length).decode()

    def ints(self) -> list[int]:
        return [self.int32() for _ in range(self.int32())]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(">B")
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def tags(self) -> None:
        for _ in range(self.varint()):
            self.varint()
            self.bytes(self.varint())


def exchange(host: str, port: int, frame: bytes, timeout_s: float = 2) -> bytes:
    """Sends one frame and reads one, both without their length."""
    with socket.create_connection((host, port), timeout=timeout_s) as connection:
        connection.sendall(struct.pack(">i", len(frame)) + frame)
        stream = connection.makefile("rb")
        length = stream.read(4)
        if len(length) < 4:
            raise ConnectionError("the connection was closed without an answer")
        answer = stream.read(struct.unpack(">i", length)[0])
        if len(answer) < struct.unpack(">i", length)[0]:
            raise ConnectionError("the connection was closed within an answer")
        return answer


def _header(api_key: int, version: int) -> bytes:
    return struct.pack(">hhih", api_key, version, 1, len(_CLIENT_ID)) + _CLIENT_ID


def metadata(host: str, port: int, topics: list[str] | None = None, timeout_s: float = 2) -> Metadata:
    """Metadata version 7, of all topics or of those named; creates none."""
    body = struct.pack(">i", -1 if topics is None else len(topics))
    for topic in topics or []:
        body += struct.pack(">h", len(topic)) + topic.encode()
    answer = _Reader(exchange(host, port, _header(3, 7) + body + b"\0", timeout_s))
    answer.int32()  # correlation id
    answer.int32()  # throttle time
    brokers = {}
    for _ in range(answer.int32()):
        node = answer.int32()
        brokers[node] = (answer.string(), answer.int32())
        answer.string()  # rack
    found = Metadata(answer.string(), brokers)
    answer.int32()  # controller
    for _ in range(answer.int32()):
        answer.int16()
        partitions = found.topics.setdefault(answer.string(), {})
        answer.int8()  # internal
        for _ in range(answer.int32()):
            error = answer.int16()
            index = answer.int32()
            partitions[index] = Partition(error, answer.int32(), answer.int32(), answer.ints(), answer.ints(), answer.ints())
    return found


def describe_quorum(host: str, port: int, timeout_s: float = 2) -> Quorum:
    """DescribeQuorum version 0 of the one partition of the metadata log."""
    topic = b"__cluster_metadata"
    body = b"\2" + bytes([len(topic) + 1]) + topic + b"\2" + struct.pack(">i", 0) + b"\0" * 3
    answer = _Reader(exchange(host, port, _header(55, 0) + b"\0" + body, timeout_s))
    answer.int32()  # correlation id
    answer.tags()
    error = answer.int16()
    if error != 0:
        return Quorum(error)
    answer.varint()  # one topic
    answer.bytes(answer.varint() - 1)
    answer.varint()  # one partition
    answer.int32()
    found = Quorum(answer.int16(), answer.int32(), answer.int32(), answer.int64())
    for replicas in (found.voters, found.observers):
        for _ in range(answer.varint() - 1):
            replica = answer.int32()
            replicas[replica] = answer.int64()
            answer.tags()
    return found


def describe_log_dirs(host: str, port: int, timeout_s: float = 2) -> dict[str, LogDir]:
    """DescribeLogDirs version 1 of all partitions, by path."""
    answer = _Reader(exchange(host, port, _header(35, 1) + struct.pack(">i", -1), timeout_s))
    answer.int32()  # correlation id
    answer.int32()  # throttle time
    found = {}
    for _ in range(answer.int32()):
        error = answer.int16()
        directory = found.setdefault(answer.string(), LogDir(error))
        for _ in range(answer.int32()):
            topic = answer.string()
            for _ in range(answer.int32()):
                partition, size, lag = answer.int32(), answer.int64(), answer.int64()
                directory.partitions[topic, partition, bool(answer.int8())] = (size, lag)
    return found
