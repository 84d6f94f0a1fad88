"""Kafka's own command line tools of one generation, started by script name.

The classes behind the scripts moved between generations (kafka.admin, kafka.tools, org.apache.kafka.tools), so each is
looked up in that generation's jars. The JVM is told to be small and quick: one compiler tier, serial collector, and
an archive of the loaded classes, which halves the CPU time of a start. The first run of a family of tools writes it.
"""

import functools
import os
import zipfile

from . import environment
from .process import Finished, Process, run

# Script name -> simple class name, and the packages where generations keep it, newest first.
_PACKAGES = ["org/apache/kafka/tools", "org/apache/kafka/tools/consumer", "org/apache/kafka/tools/consumer/group",
             "org/apache/kafka/tools/reassign", "kafka/admin", "kafka/tools"]
_CLASSES = {
    "kafka-broker-api-versions": "BrokerApiVersionsCommand",
    "kafka-cluster": "ClusterTool",
    "kafka-configs": "ConfigCommand",
    "kafka-console-consumer": "ConsoleConsumer",
    "kafka-console-producer": "ConsoleProducer",
    "kafka-consumer-groups": "ConsumerGroupCommand",
    "kafka-consumer-perf-test": "ConsumerPerformance",
    "kafka-delete-records": "DeleteRecordsCommand",
    "kafka-dump-log": "DumpLogSegments",
    "kafka-features": "FeatureCommand",
    "kafka-get-offsets": "GetOffsetShell",
    "kafka-groups": "GroupsCommand",
    "kafka-leader-election": "LeaderElectionCommand",
    "kafka-log-dirs": "LogDirsCommand",
    "kafka-metadata-quorum": "MetadataQuorumCommand",
    "kafka-producer-perf-test": "ProducerPerformance",
    "kafka-reassign-partitions": "ReassignPartitionsCommand",
    "kafka-storage": "StorageTool",
    "kafka-topics": "TopicCommand",
    "kafka-transactions": "TransactionsCommand",
    "kafka-verifiable-consumer": "VerifiableConsumer",
    "kafka-verifiable-producer": "VerifiableProducer",
}
# perf tools and verifiable producers name the broker in ways of their own; the callers pass those options themselves.
_OWN_BOOTSTRAP = {"kafka-dump-log", "kafka-storage", "kafka-producer-perf-test"}
# Which archive of classes a tool shares; those not named share "admin".
_FAMILIES = {
    "kafka-console-consumer": "consumer",
    "kafka-console-producer": "producer",
    "kafka-consumer-perf-test": "consumer",
    "kafka-dump-log": "disk",
    "kafka-producer-perf-test": "producer",
    "kafka-storage": "disk",
    "kafka-verifiable-consumer": "consumer",
    "kafka-verifiable-producer": "producer",
}


@functools.cache
def _classes_of(version: str) -> frozenset[str]:
    names: set[str] = set()
    for jar in environment.java_jars(version).glob("kafka*.jar"):
        with zipfile.ZipFile(jar) as archive:
            names.update(name for name in archive.namelist() if name.endswith(".class"))
    return frozenset(names)


class KafkaTools:
    """The tools of one Kafka version, against one broker."""

    def __init__(self, version: str, bootstrap: str | None = None):
        self.version = version
        self.bootstrap = bootstrap
        self.generation = tuple(int(part) for part in version.split("."))
        self._jars = environment.java_jars(version)

    def main_class(self, script: str) -> str:
        for package in _PACKAGES:
            path = f"{package}/{_CLASSES[script]}"
            if f"{path}.class" in _classes_of(self.version):
                return path.replace("/", ".")
        raise LookupError(f"Kafka {self.version} has no {script}")

    def java(self, main_class: str, *arguments: str, heap: str = "256m", options: tuple[str, ...] = ()) -> list[str]:
        return ["java", f"-Xmx{heap}", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xlog:disable", *options,
                f"-Dlog4j.configuration=file:{self._log_config('log4j.properties')}",
                f"-Dlog4j.configurationFile={self._log_config('log4j2.properties')}",
                "-cp", f"{self._jars}/*", main_class, *arguments]

    def command(self, script: str, *arguments: str, options: tuple[str, ...] | None = None) -> list[str]:
        where = ["--bootstrap-server", self.bootstrap] if self.bootstrap and script not in _OWN_BOOTSTRAP else []
        if options is None:
            archive = self._archive(script)
            options = (f"-XX:SharedArchiveFile={archive}",) if archive.exists() else ()
        return self.java(self.main_class(script), *where, *arguments, options=options)

    def run(self, script: str, *arguments: str, timeout_s: float = 90, stdin: str | None = None, check: bool = True) -> Finished:
        archive = self._archive(script)
        if archive.exists():
            return run(self.command(script, *arguments), timeout_s=timeout_s, stdin=stdin, check=check)
        # Written beside and moved into place, because another worker may be reading or writing it.
        written = archive.with_suffix(f".{os.getpid()}")
        options = (f"-XX:ArchiveClassesAtExit={written}",)
        finished = run(self.command(script, *arguments, options=options), timeout_s=timeout_s, stdin=stdin, check=check)
        if written.exists():
            written.replace(archive)
        return finished

    def _archive(self, script: str):
        return self._jars.with_name(f"{self.version}-{_FAMILIES.get(script, 'admin')}.jsa")

    def start(self, script: str, *arguments: str) -> Process:
        return Process(self.command(script, *arguments))

    @staticmethod
    def _log_config(name: str) -> str:
        return str(environment.REPOSITORY / "tests" / "stock" / "harness" / name)
