"""Broker processes with a data directory of their own: Ottla, or Apache Kafka 3.9 to prove that a test is right.

Both are given the same server.properties, with Kafka's own keys: a file that starts Kafka must start Ottla.
`Server` is a process of any role; `Broker` is a cluster of one, ready when a Metadata answer lists it.
"""

import shutil
import signal
import time
from pathlib import Path

from . import environment, tools, wire
from .ports import free_port
from .process import Process, run, wait_until

KAFKA_CLUSTER_ID = "q1Sh-9_ISia_zwGINzRvyQ"


class Server:
    """A process made from a server.properties, started and ended any number of times."""

    # The JVM options of Kafka; without, the small and quick ones of the tools.
    kafka_jvm: list[str] | None = None

    def __init__(self, kind: str, directory: Path, config: dict[str, str]):
        self.kind = kind
        self.directory = directory
        self.data_dir = directory / "data"
        self.config = config
        self.process: Process | None = None
        self._generations: list[Process] = []

    # -- life

    def spawn(self) -> None:
        """Starts the process and waits for nothing."""
        assert self.process is None or not self.process.running(), "the broker is running already"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.process = Process(self._command(self._write_properties()), cwd=self.directory)
        self._generations.append(self.process)

    def start(self, timeout_s: float = 60) -> "Server":
        self.spawn()
        try:
            wait_until(self._ready_or_ended, timeout_s, "the broker answers Metadata")
            assert self.process.running(), "the broker ended instead of starting"
        except (TimeoutError, AssertionError) as error:
            log = self.log()
            self.process.kill()
            raise AssertionError(f"{error}\n{log}") from None
        return self

    def stop(self, timeout_s: float = 60) -> int:
        """A controlled shutdown; its exit code."""
        self.process.signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()

    def end(self) -> None:
        if self.process is not None:
            self.process.end()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self) -> str:
        return "\n".join(process.output() for process in self._generations[-3:])

    # -- files

    def partition_dir(self, topic: str, partition: int) -> Path:
        """Where it lies; in the first directory if it lies nowhere."""
        places = [Path(path) / f"{topic}-{partition}" for path in self.config.get("log.dirs", str(self.data_dir)).split(",")]
        return next((place for place in places if place.exists()), places[0])

    # -- inside

    def _write_properties(self) -> Path:
        properties = self.directory / "server.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in self.config.items()))
        return properties

    def _command(self, properties: Path) -> list[str]:
        if self.kind == "ottla":
            return [str(environment.ottla_binary()), "start", str(properties)]
        kafka = tools.KafkaTools(environment.KAFKA_BROKER_VERSION)
        if not (self.data_dir / "meta.properties").exists():
            run(kafka.command("kafka-storage", "format", "-t", KAFKA_CLUSTER_ID, "-c", str(properties), *self._format_options()))
        if self.kafka_jvm:
            jars = environment.java_jars(environment.KAFKA_BROKER_VERSION)
            return ["java", *self.kafka_jvm, "-cp", f"{jars}/*", "kafka.Kafka", str(properties)]
        return kafka.java("kafka.Kafka", str(properties), heap="512m")

    def _format_options(self) -> list[str]:
        """What Kafka's format step must be told beyond the properties."""
        return []

    def _ready_or_ended(self) -> bool:
        return not self.process.running() or self._ready()

    def _ready(self) -> bool:
        raise NotImplementedError


class Broker(Server):
    """Broker and controller in one, on ports of its own."""

    def __init__(self, kind: str, directory: Path, config: dict[str, str] | None = None):
        self.port = free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.health_port = free_port()
        controller_port = free_port()
        super().__init__(kind, directory, {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(directory / "data"),
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            # Few partitions, so that the tests that read the files on disk have few to read.
            "offsets.topic.num.partitions": "4",
        })
        if kind == "ottla":
            self.config["ottla.metrics.listener"] = f"127.0.0.1:{self.health_port}"
        self.config.update(config or {})

    def _ready(self) -> bool:
        try:
            return bool(wire.metadata("127.0.0.1", self.port, []).brokers)
        except OSError:
            return False


def wait_for_topic_files(broker: Broker, topic: str, partition: int = 0, timeout_s: float = 10) -> Path:
    directory = broker.partition_dir(topic, partition)
    wait_until(directory.is_dir, timeout_s, f"{directory} exists")
    return directory


def now_ms() -> int:
    return int(time.time() * 1000)
