"""`advertised.listeners`: clients are told this address, and go there, whatever address they asked first."""

import socket
import threading

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from harness import environment
from harness.ports import free_port
from harness.tools import KafkaTools


class Forwarder:
    """Passes connections to another port and counts them: the address that the broker advertises."""

    def __init__(self, port: int, to: int):
        self.connections = 0
        self._to = to
        self._listener = socket.create_server(("127.0.0.2", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            far = socket.create_connection(("127.0.0.1", self._to))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        self._listener.close()


@pytest.fixture
def advertised(start_broker):
    port = free_port()
    broker = start_broker({"advertised.listeners": f"PLAINTEXT://127.0.0.2:{port}"})
    forwarder = Forwarder(port, broker.port)
    yield broker, forwarder, f"127.0.0.2:{port}"
    forwarder.close()


def test_clients_go_to_the_advertised_address(advertised, ended):
    broker, forwarder, address = advertised
    (node,) = AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=30).brokers.values()
    assert f"{node.host}:{node.port}" == address

    producer = Producer({"bootstrap.servers": broker.bootstrap})
    producer.produce("advertised", b"through the advertised address")
    assert producer.flush(30) == 0
    assert forwarder.connections > 0

    for version in ("3.3.1", "3.9.0"):
        before = forwarder.connections
        tools = KafkaTools(version, broker.bootstrap)
        consumed = tools.run("kafka-console-consumer", "--topic", "advertised", "--from-beginning", "--max-messages", "1",
                             "--timeout-ms", "30000")
        assert consumed.lines == ["through the advertised address"]
        assert forwarder.connections > before
