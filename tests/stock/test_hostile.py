"""A client that means harm, or has gone mad: whole frames with absurd values, half frames, floods of connections.

Each gets Kafka's error or loses its connection. Meanwhile others are served, memory stays bounded, and the log says
nothing that a person would have to look at. Bytes that are no requests at all are the business of tests/fuzz.
"""

import gzip
import resource
import socket
import struct
import threading
import time
import zlib

import crc32c
import lz4.block
import lz4.frame
import pytest
import snappy
import zstandard

from harness.process import wait_until

pytestmark = pytest.mark.usefixtures("only_ottla")

PRODUCE, FETCH, LIST_OFFSETS, METADATA, OFFSET_COMMIT, FIND_COORDINATOR = 0, 1, 2, 3, 8, 10
JOIN_GROUP, CREATE_TOPICS, DELETE_RECORDS, INIT_PRODUCER_ID, CREATE_PARTITIONS = 11, 19, 21, 22, 37

NONE, OFFSET_OUT_OF_RANGE, CORRUPT_MESSAGE, UNKNOWN_TOPIC_OR_PARTITION = 0, 1, 2, 3
MESSAGE_TOO_LARGE, INVALID_TOPIC, INVALID_REQUIRED_ACKS, INVALID_PARTITIONS = 10, 17, 21, 37
INVALID_REPLICATION_FACTOR, POLICY_VIOLATION, OUT_OF_ORDER_SEQUENCE = 38, 44, 45
MEMBER_ID_REQUIRED, INVALID_RECORD = 79, 87

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
# Of a node that sits still, and what the worst client here may add to it.
MEMORY_BYTES_MAX = 600 << 20
MIB = 1 << 20


# -- writing frames


def string(text):
    data = text.encode() if isinstance(text, str) else text
    return struct.pack(">h", -1) if text is None else struct.pack(">h", len(data)) + data


def data(value):
    return struct.pack(">i", len(value)) + value


def array(items):
    items = list(items)
    return struct.pack(">i", len(items)) + b"".join(items)


def varint(value):
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value & ~0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def record(delta, value, timestamp_delta=0):
    body = b"\0" + varint(timestamp_delta) + varint(delta) + varint(-1) + varint(len(value)) + value + varint(0)
    return varint(len(body)) + body


def batch(records, count=None, codec=0, magic=2, last_delta=None, producer=(-1, -1, -1), crc=None, attributes=0):
    """`records`: encoded records, or their compressed bytes with the count beside."""
    payload = b"".join(records) if isinstance(records, list) else records
    count = len(records) if count is None else count
    now = int(time.time() * 1000)
    covered = struct.pack(">hiqqqhii", codec | attributes, count - 1 if last_delta is None else last_delta, now, now, *producer, count)
    covered += payload
    crc = crc32c.crc32c(covered) if crc is None else crc
    body = struct.pack(">ibI", 0, magic, crc) + covered
    return struct.pack(">qi", 0, len(body)) + body


class Reader:
    def __init__(self, answer):
        self.answer, self.position = answer, 0

    def take(self, layout):
        values = struct.unpack_from(">" + layout, self.answer, self.position)
        self.skip(struct.calcsize(">" + layout))
        return values[0] if len(values) == 1 else values

    def string(self):
        length = self.take("h")
        if length < 0:
            return None
        self.skip(length)
        return self.answer[self.position - length : self.position].decode()

    def skip(self, size):
        self.position += size


class Closed(Exception):
    """The broker closed the connection."""


class Client:
    def __init__(self, broker, timeout_s=15):
        self.socket = socket.create_connection(("127.0.0.1", broker.port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, key, version, body):
        header = struct.pack(">hhi", key, version, 7) + string("hostile")
        try:
            self.socket.sendall(struct.pack(">i", len(header) + len(body)) + header + body)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed from error

    def call(self, key, version, body):
        self.send(key, version, body)
        reader = Reader(self._read(struct.unpack(">i", self._read(4))[0]))
        assert reader.take("i") == 7
        return reader

    def _read(self, size):
        parts = bytearray()
        while len(parts) < size:
            try:
                part = self.socket.recv(size - len(parts))
            except ConnectionResetError as error:
                raise Closed from error
            if not part:
                raise Closed
            parts += part
        return bytes(parts)

    # -- requests

    def produce(self, topic, records, partition=0, acks=-1):
        """Error code, base offset."""
        one = array([struct.pack(">i", partition) + data(records)])
        answer = self.call(PRODUCE, 8, string(None) + struct.pack(">hi", acks, 10_000) + array([string(topic) + one]))
        assert answer.take("i") == 1 and answer.string() == topic and answer.take("i") == 1
        _, error, base_offset = answer.take("ihq")
        return error, base_offset

    def fetch(self, partitions, max_bytes=MIB, partition_max_bytes=MIB, max_wait_ms=0):
        """`partitions`: (topic, partition, offset). Error code of the request, and those of the partitions."""
        body = struct.pack(">iiiibii", -1, max_wait_ms, 1, max_bytes, 0, 0, -1)
        body += array(
            string(topic) + array(struct.pack(">iiqqi", partition, -1, offset, -1, partition_max_bytes) for partition, offset in wanted)
            for topic, wanted in partitions.items()
        )
        answer = self.call(FETCH, 11, body + array([]) + string(""))
        _, error, _ = answer.take("ihi")
        errors = []
        for _ in range(answer.take("i")):
            answer.string()
            for _ in range(answer.take("i")):
                _, one, _, _, _, aborted, _, length = answer.take("ihqqqiii")
                assert aborted <= 0
                answer.skip(max(length, 0))
                errors.append(one)
        return error, errors

    def create(self, *topics, replication=1, validate_only=False):
        """`topics`: (name, partitions) or (name, partitions, configs). Error codes by name."""
        def one(name, partitions, configs=()):
            pairs = array(string(key) + string(value) for key, value in dict(configs).items())
            return string(name) + struct.pack(">ih", partitions, replication) + array([]) + pairs

        answer = self.call(CREATE_TOPICS, 4, array(one(*topic) for topic in topics) + struct.pack(">ib", 20_000, validate_only))
        errors = {}
        for _ in range(answer.take("ii")[1]):
            name = answer.string()
            errors[name] = answer.take("h")
            answer.string()
        return errors


# -- what holds in every test


@pytest.fixture
def only_ottla(broker_kind):
    if broker_kind != "ottla":
        pytest.skip("bounds that Kafka does not have")


@pytest.fixture
def node(start_broker):
    """A node with a topic `t`, which must be as well after the test as before."""
    # A thousand connections at once do not wait for each other's handshake.
    broker = start_broker({"socket.listen.backlog.size": "2000"})
    with Client(broker) as client:
        assert client.create(("t", 1)) == {"t": NONE}
        assert client.produce("t", batch([record(0, b"before")])) == (NONE, 0)
    yield broker
    assert broker.process.running(), broker.log()
    with Client(broker) as client:
        error, base_offset = client.produce("t", batch([record(0, b"after")]))
        assert error == NONE
        assert client.fetch({"t": [(0, base_offset)]}) == (NONE, [NONE])
    assert peak_bytes(broker) < MEMORY_BYTES_MAX
    alarming = [line for line in broker.log().splitlines() if "panicked" in line or " ERROR " in line]
    assert not alarming, alarming[:5]


def peak_bytes(broker):
    """The most memory that the node ever held."""
    with open(f"/proc/{broker.process.pid}/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


class Bystander(threading.Thread):
    """Another client, and the longest that it waited for an answer."""

    def __init__(self, broker):
        super().__init__(daemon=True)
        self.broker, self.longest_s, self.answers, self.failure = broker, 0.0, 0, None
        self.done = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join()
        assert self.failure is None, self.failure
        assert self.answers > 0

    def run(self):
        try:
            with Client(self.broker) as client:
                while not self.done.is_set():
                    began = time.monotonic()
                    error, _ = client.produce("t", batch([record(0, b"bystander")]))
                    assert error == NONE, error
                    self.longest_s = max(self.longest_s, time.monotonic() - began)
                    self.answers += 1
                    self.done.wait(0.01)
        except Exception as error:  # noqa: BLE001: told in the test's own thread
            self.failure = error


# -- tests


def test_batches_that_are_not_what_they_say(node):
    good = batch([record(0, b"x")])
    with Client(node) as client:
        for error, records in [
            (CORRUPT_MESSAGE, batch([record(0, b"x")], crc=1)),
            (CORRUPT_MESSAGE, good[:40]),
            (CORRUPT_MESSAGE, struct.pack(">qi", 0, 2**31 - 1) + good[12:]),
            (CORRUPT_MESSAGE, struct.pack(">qi", 0, -1) + good[12:]),
            (INVALID_RECORD, batch([record(0, b"x")], magic=1)),
            (INVALID_RECORD, batch([record(0, b"x"), record(7, b"y")])),
            (INVALID_RECORD, batch([record(0, b"x")], last_delta=2**31 - 1)),
            (INVALID_RECORD, batch([record(0, b"x")], count=2**31 - 1, last_delta=2**31 - 2)),
            (INVALID_RECORD, batch([record(0, b"x")], count=-1)),
            (INVALID_RECORD, batch([], count=0)),
            (INVALID_RECORD, batch([record(0, b"x")[:-1]])),
            (INVALID_RECORD, batch([varint(2**31 - 1) + b"\0" * 20])),
            (INVALID_RECORD, batch([record(0, b"x")], attributes=0x20)),
            (INVALID_RECORD, b""),
        ]:
            got, _ = client.produce("t", records)
            assert got == error or {got, error} <= {INVALID_RECORD, CORRUPT_MESSAGE}, (got, error, records[:80])
        assert client.produce("t", good, acks=5)[0] == INVALID_REQUIRED_ACKS
        for partition in (1, -1, 2**31 - 1, -(2**31)):
            assert client.produce("t", good, partition=partition)[0] == UNKNOWN_TOPIC_OR_PARTITION
        # None of it was appended.
        assert client.produce("t", good) == (NONE, 1)


def test_sequences_out_of_order(node):
    with Client(node) as client:
        _, error, producer_id, epoch = client.call(INIT_PRODUCER_ID, 1, string(None) + struct.pack(">i", 60_000)).take("ihqh")
        assert error == NONE

        def produce(sequence, as_producer=producer_id, as_epoch=epoch):
            return client.produce("t", batch([record(0, b"x")], producer=(as_producer, as_epoch, sequence)))

        assert produce(0) == (NONE, 1)
        assert produce(0) == (NONE, 1), "a duplicate is acknowledged with the first one's offset"
        for sequence in (2, 7, 2**31 - 1):
            assert produce(sequence)[0] == OUT_OF_ORDER_SEQUENCE
        assert produce(-5)[0] in (INVALID_RECORD, OUT_OF_ORDER_SEQUENCE)
        assert produce(1) == (NONE, 2)
        # Made-up producers, far more than any log remembers batches of.
        for made_up in range(1 << 40, (1 << 40) + 500):
            assert produce(0, as_producer=made_up, as_epoch=0)[0] == NONE


def bomb(codec, zeros_mib):
    """One record of so many MiB of zeros, compressed by repeating what a MiB compresses to."""
    # The last zero stands for the record's count of headers.
    size = zeros_mib * MIB - 1
    head = b"\0" + varint(0) + varint(0) + varint(-1) + varint(size)
    head = varint(len(head) + size + 1) + head
    zeros = bytes(MIB)
    if codec == "gzip":
        def deflated(part):
            squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
            return squeeze.compress(part) + squeeze.flush(zlib.Z_FULL_FLUSH)

        crc = zlib.crc32(head)
        for _ in range(zeros_mib):
            crc = zlib.crc32(zeros, crc)
        end = b"\3\0" + struct.pack("<II", crc, len(head) + size + 1)
        return gzip.compress(b"")[:10] + deflated(head) + deflated(zeros) * zeros_mib + end
    if codec == "snappy":
        def block(part):
            return data(snappy.compress(part))

        return b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1) + block(head) + block(zeros) * zeros_mib
    if codec == "lz4":
        frame = lz4.frame.LZ4FrameCompressor(block_size=lz4.frame.BLOCKSIZE_MAX1MB, block_linked=False)
        squeeze = lz4.block.compress

        def block(part):
            small = squeeze(part, store_size=False)
            return struct.pack("<I", len(small)) + small if len(small) < len(part) else struct.pack("<I", len(part) | 1 << 31) + part

        return frame.begin() + block(head) + block(zeros) * zeros_mib + bytes(4)
    squeeze = zstandard.ZstdCompressor(level=1).compressobj()
    return squeeze.compress(head) + b"".join(squeeze.compress(zeros) for _ in range(zeros_mib)) + squeeze.flush()


def test_zip_bombs_of_every_codec(node):
    with Client(node) as client:
        assert client.create(("bombs", 1, {"max.message.bytes": str(64 * MIB)})) == {"bombs": NONE}
        # The bombs are well made: it is their size alone that is refused.
        for offset, (codec, number) in enumerate(CODECS.items()):
            assert client.produce("bombs", batch(bomb(codec, 4), count=1, codec=number)) == (NONE, offset), codec
    bombs = {codec: batch(bomb(codec, 400), count=1, codec=number) for codec, number in CODECS.items()}
    answers = []

    def throw(records):
        with Client(node, timeout_s=60) as client:
            answers.append(client.produce("bombs", records)[0])

    with Bystander(node) as bystander:
        throwing = [threading.Thread(target=throw, args=(records,)) for records in bombs.values() for _ in range(2)]
        for thread in throwing:
            thread.start()
        for thread in throwing:
            thread.join()
    assert answers == [MESSAGE_TOO_LARGE] * len(throwing)
    assert bystander.longest_s < 5


def test_fetches_and_offsets_of_what_is_not_there(node):
    with Client(node) as client:
        for max_bytes in (-1, -(2**31), 0, 2**31 - 1):
            for partition_max_bytes in (-1, 0, 2**31 - 1):
                assert client.fetch({"t": [(0, 0)]}, max_bytes, partition_max_bytes) == (NONE, [NONE])
        for offset in (-1, -(2**63), 2**63 - 1, 99):
            assert client.fetch({"t": [(0, offset)]}) == (NONE, [OFFSET_OUT_OF_RANGE])
        assert client.fetch({"t": [(-1, 0)], "..": [(0, 0)], "no/where": [(0, 0)]}) == (NONE, [UNKNOWN_TOPIC_OR_PARTITION] * 3)
        assert client.fetch({"t": [(0, 2)]}, max_wait_ms=-(2**31)) == (NONE, [OFFSET_OUT_OF_RANGE])
        many = 20_000
        error, errors = client.fetch({"nowhere": [(partition, 0) for partition in range(many)]})
        assert (error, errors) == (NONE, [UNKNOWN_TOPIC_OR_PARTITION] * many)
        # The same partition over and over brings its records once or a few times, not a million times.
        error, errors = client.fetch({"t": [(0, 0)] * 10_000})
        assert error == NONE and set(errors) == {NONE}

        for topic, partition, timestamp in [("nowhere", 0, -1), ("t", -1, -1), ("t", 5, -2), ("..", 0, 0)]:
            one = array([struct.pack(">iiq", partition, -1, timestamp)])
            answer = client.call(LIST_OFFSETS, 5, struct.pack(">ib", -1, 0) + array([string(topic) + one]))
            assert answer.take("ii")[1] == 1 and answer.string() == topic
            assert answer.take("iih")[2] == UNKNOWN_TOPIC_OR_PARTITION
        for offset in (-2, 10**9, 2**63 - 1):
            one = array([struct.pack(">iq", 0, offset)])
            answer = client.call(DELETE_RECORDS, 1, array([string("t") + one]) + struct.pack(">i", 10_000))
            answer.take("ii"), answer.string()
            assert answer.take("iiqh")[3] == OFFSET_OUT_OF_RANGE
    with Client(node) as client, pytest.raises(Closed):
        client.fetch({"nowhere": [(partition, 0) for partition in range(1_000_000)]})


def test_topics_that_nobody_should_create(node):
    bad_names = ["..", ".", "a/b", "../../etc/passwd", "a" * 250, "", "a\0b", "a b", "ä", "a\nb"]
    with Client(node) as client:
        assert client.create(*((name, 1) for name in bad_names)) == {name: INVALID_TOPIC for name in bad_names}
        for partitions in (0, -2, -(2**31)):
            assert client.create(("p", partitions)) == {"p": INVALID_PARTITIONS}
        for replication in (0, -2, 2, 32_767):
            assert client.create(("p", 1), replication=replication) == {"p": INVALID_REPLICATION_FACTOR}
        with Bystander(node) as bystander:
            for partitions in (100_000, 2**31 - 1):
                assert client.create(("p", partitions)) == {"p": POLICY_VIOLATION}
            errors = client.create(*((f"flood-{number}", 1) for number in range(100_000)))
            assert len(errors) == 100_000 and set(errors.values()) == {POLICY_VIOLATION}
            grow = string("t") + struct.pack(">i", 2**31 - 1) + struct.pack(">i", -1)
            answer = client.call(CREATE_PARTITIONS, 1, array([grow]) + struct.pack(">ib", 10_000, 0))
            answer.take("ii"), answer.string()
            assert answer.take("h") not in (NONE, -1)
        assert bystander.longest_s < 5
        # Asking after a topic of a bad name creates none either.
        for name in bad_names:
            answer = client.call(METADATA, 4, array([string(name)]) + b"\1")
            assert struct.pack(">h", INVALID_TOPIC) + string(name) in answer.answer
    directories = {path.name for path in node.data_dir.iterdir() if path.is_dir()}
    assert {name for name in directories if name[0] not in "_."} <= {"t-0", "metadata"}, directories


def test_groups_with_huge_members(node):
    def join(client, group, member, metadata, version=5, session_ms=10_000):
        body = string(group) + struct.pack(">ii", session_ms, 60_000) + string(member) + string(None)
        body += string("consumer") + array([string("range") + data(metadata)])
        answer = client.call(JOIN_GROUP, version, body)
        _, error, _ = answer.take("ihi")
        answer.string(), answer.string()
        return error, answer.string()

    with Client(node) as client:
        answer = client.call(FIND_COORDINATOR, 1, string("g") + b"\0")
        assert answer.take("ih")[1] == NONE
        with Bystander(node) as bystander:
            for number in range(60):
                error, member = join(client, f"g-{number}", "", b"")
                assert error == MEMBER_ID_REQUIRED
                error, _ = join(client, f"g-{number}", member, bytes(15 * MIB))
                assert error != NONE, "more than can ever be stored"
        assert bystander.longest_s < 5
        error, member = join(client, "g", "", b"")
        for session_ms in (0, -1, 2**31 - 1):
            assert join(client, "g", member, b"x", session_ms=session_ms)[0] == 26  # INVALID_SESSION_TIMEOUT
        assert join(client, "", "", b"")[0] == 24  # INVALID_GROUP_ID
        assert join(client, "g", member, b"x")[0] == NONE
        for partition in (-1, 9, 2**31 - 1):
            one = struct.pack(">iqi", partition, 5, -1) + string("")
            body = string("other") + struct.pack(">i", -1) + string("") + string(None)
            answer = client.call(OFFSET_COMMIT, 7, body + array([string("t") + array([one])]))
            answer.take("ii"), answer.string()
            assert answer.take("iih")[2] == UNKNOWN_TOPIC_OR_PARTITION


def test_a_thousand_connections_that_say_half_a_word(node):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4_096)), hard))
    before = peak_bytes(node)
    connections = []
    try:
        with Bystander(node) as bystander:
            for number in range(1_000):
                connection = socket.create_connection(("127.0.0.1", node.port), timeout=5)
                connections.append(connection)
                # A large frame begun and never finished; every other one says nothing at all.
                if number % 2:
                    connection.sendall(struct.pack(">ihhi", 90 * MIB, PRODUCE, 8, 7) + b"\0")
            for _ in range(3):
                for connection in connections[1::2]:
                    connection.sendall(b"\0")
        assert bystander.longest_s < 5
        assert peak_bytes(node) - before < 200 * MIB, "a claimed length alone costs nothing"
    finally:
        for connection in connections:
            connection.close()
    # And one with a length that nobody may claim.
    for length in (-1, 0, 2**31 - 1):
        with Client(node) as client:
            client.socket.sendall(struct.pack(">i", length) + bytes(8))
            with pytest.raises(Closed):
                client._read(1)


def test_a_client_that_never_reads(node):
    """Answers pile up in its socket, not in the node."""
    with Client(node) as client:
        for _ in range(8):
            assert client.produce("t", batch([record(0, bytes(900_000))]))[0] == NONE
    before = peak_bytes(node)
    body = struct.pack(">iiiibii", -1, 0, 1, 50 * MIB, 0, 0, -1)
    body += array([string("t") + array([struct.pack(">iiqqi", 0, -1, 0, -1, 50 * MIB)])]) + array([]) + string("")
    greedy = [Client(node) for _ in range(20)]
    try:
        with Bystander(node) as bystander:
            for client in greedy:
                client.socket.settimeout(0.2)
                for _ in range(200):
                    try:
                        client.send(FETCH, 11, body)
                    except TimeoutError:
                        break
            wait_until(lambda: bystander.answers > 20, 20, "others are served")
        assert bystander.longest_s < 5
        assert peak_bytes(node) - before < 200 * MIB
    finally:
        for client in greedy:
            client.socket.close()
