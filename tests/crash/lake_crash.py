"""Kills the brokers of a cluster while topics become tables, and counts every acknowledged record in the tables by three engines.

    make lake-crash               200 kills (CRASHES=n for another number)

Three brokers on 127.0.0.1 write the tables of three topics to a bucket and enter them in Glue (both: strict moto). One answer in
three of Glue's UpdateTable gets lost, and some of S3's do. Partition 0 of each topic has its leader, and with it the table its
committer, on another node. A kill -9 meets the committer of one of them: when it stores a data file, when it has written the table's
next state and asks Glue for the swap, when it joins small files, or at any other moment. Some kills come once more during the
start. Between kills leaders are moved back by preferred elections, and some committers are frozen for longer than their session,
to wake up when somebody else has the table. New columns come all the while.

While it runs, no table may have a row twice or fewer rows than before. At the end PyIceberg, DuckDB and chDB must each find every
acknowledged record once, at its offset, and nothing else; the quarantine must be empty.

In the end a data file is added to a table a second time, and then taken out, by PyIceberg: the same check must see both, with each
engine, for a check that cannot fail proves nothing.
"""

import argparse
import collections
import ctypes
import json
import os
import random
import re
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
for place in ("stock", "cluster", "lake"):
    sys.path.insert(0, str(REPOSITORY / "tests" / place))

import engines  # noqa: E402
from cluster import Cluster  # noqa: E402
from confluent_kafka import ElectionType, KafkaException, Producer, TopicPartition  # noqa: E402
from confluent_kafka.admin import AdminClient  # noqa: E402
from harness import environment  # noqa: E402
from harness.aws import Aws  # noqa: E402
from harness.process import run, wait_until  # noqa: E402
from load import LostPromise, quiet  # noqa: E402
from network import LocalPorts  # noqa: E402

NODES = 3
PARTITIONS = 4
TABLES = ["one", "two", "three"]
BUCKET, DATABASE = "lake", "ottla"
# Of all topics together, a second.
RATE = 240
# After so many rows of a topic its values have a new member.
ROWS_PER_COLUMN = 5_000
SESSION_MS = 1_500
# The shortest that a topic may have.
LAG_MS = 5_000
COLUMNS = {"id": "number", "price": "number", "index": "text"}
ENGINES = {engine.name: engine for engine in (engines.PyIceberg, engines.DuckDb, engines.ChDb)}
NEVER = 1 << 40
# In so many, everything that may come has come.
KILLS_ENOUGH = 50
# What a kill may be aimed at: requests to the bucket, by table.
AIMS = {
    "a data file": "/{table}/data/[^?]*/\\d[^/]*parquet",
    "a swap": "/{table}/metadata/[^?]*metadata.json",
}
# Comes once in so many commits: whatever is waited for, this is taken too.
RARE, RARE_PATH = "a compaction", "/{table}/data/[^?]*/joined"
# Slow and late answers widen the moments in which a kill is worth something. Rules are tried in this order.
STORE_FAULTS = [
    {"kind": "lose", "method": "PUT", "every": 29},
    {"kind": "fail", "method": "PUT", "every": 31},
    {"kind": "refuse", "method": "PUT", "every": 37},
    {"kind": "drop", "method": "GET", "every": 41},
    {"kind": "cut", "method": "GET", "every": 43},
    {"kind": "slow", "method": "PUT", "path": "/data/", "every": 2, "seconds": 0.4},
    {"kind": "late", "method": "PUT", "path": "metadata.json", "every": 2, "seconds": 0.3},
]
# The first, so that there is one in the shortest run; then every fourth, and every ninth of the others: one in three.
SWAP_FAULTS = [
    {"kind": "lose", "operation": "UpdateTable", "times": 1},
    {"kind": "lose", "operation": "UpdateTable", "every": 4},
    {"kind": "fail", "operation": "UpdateTable", "every": 9},
]
CATALOG_FAULTS = [
    *SWAP_FAULTS,
    {"kind": "slow", "operation": "UpdateTable", "every": 2, "seconds": 0.5},
    {"kind": "late", "operation": "UpdateTable", "every": 2, "seconds": 0.5},
    {"kind": "lose", "operation": "CreateTable", "every": 2},
    {"kind": "drop", "operation": "GetTable", "every": 19},
]


def value(number: int) -> bytes:
    row = {"Id": number, "Price": number + 0.5, "Index": f"i{number % 7}"}
    if number >= ROWS_PER_COLUMN:
        row[f"Since {number // ROWS_PER_COLUMN}"] = number
    return json.dumps(row).encode()


def row(number: int) -> dict:
    """The same as the table has it."""
    return {"id": number, "price": number + 0.5, "index": f"i{number % 7}"}


class Rows:
    """Sends numbered rows to all topics until it is told to stop; remembers where each was acknowledged."""

    def __init__(self, bootstrap: str, tables: list[str]):
        self._tables = tables
        # Number to partition and offset, by topic; the offset is -1 where the producer was not told, as of a duplicate.
        self.places: dict[str, dict[int, tuple[int, int]]] = {table: {} for table in tables}
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._producer = Producer({
            "bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, "linger.ms": 5,
            "message.timeout.ms": 600_000, "reconnect.backoff.max.ms": 500, "queue.buffering.max.messages": 5_000,
        }, logger=quiet)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        sent, begin = 0, time.monotonic()
        while not self._stop.is_set():
            while sent < (time.monotonic() - begin) * RATE:
                number, table = divmod(sent, len(self._tables))
                try:
                    self._producer.produce(self._tables[table], value(number), key=str(number), partition=number % PARTITIONS,
                                           on_delivery=self._delivered)
                except BufferError:
                    # What is due must not come in one burst later.
                    begin = time.monotonic() - sent / RATE
                    break
                sent += 1
            self._producer.poll(0.01)

    def _delivered(self, error, message) -> None:
        if error is not None:
            self.failures.append(str(error))
            return
        offset = message.offset() if message.offset() is not None else -1
        self.places[message.topic()][int(message.key())] = (message.partition(), max(offset, -1))

    def count(self) -> int:
        return sum(len(places) for places in self.places.values())

    def finish(self) -> None:
        self._stop.set()
        self._thread.join()
        left = self._producer.flush(300)
        assert left == 0 and not self.failures, f"{left} records are not acknowledged; refused: {self.failures[:3]}"

    def abandon(self) -> None:
        self._stop.set()
        self._thread.join()
        self._producer.purge()


@dataclass
class Account:
    """What happened."""

    kills: collections.Counter = field(default_factory=collections.Counter)
    kills_in_starts: int = 0
    frozen: int = 0
    moved: int = 0
    conflicts: int = 0
    duplicates: int = 0
    missing: int = 0


class Chaos:
    def __init__(self, cluster: Cluster, aws: Aws, tables: list[str], chance: random.Random):
        self.cluster, self.aws, self.tables, self.chance = cluster, aws, tables, chance
        self.account = Account()
        self._admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "socket.timeout.ms": 10_000}, logger=quiet)
        paths = {(table, aim): path.format(table=table) for table in tables for aim, path in {**AIMS, RARE: RARE_PATH}.items()}
        watching = [{"kind": "slow", "method": "PUT", "every": NEVER, "path": path} for path in paths.values()]
        # Which of the rules it is.
        self._watched = {hit: index for index, hit in enumerate(paths)}
        aws.faults(*watching, *STORE_FAULTS, name=BUCKET)
        aws.faults(*CATALOG_FAULTS, name=DATABASE)

    def step(self) -> None:
        """One node is killed, and some seconds later it is back. One is away at a time, so that producing goes on."""
        if self.chance.random() < 0.8:
            self._move_leaders_back()
        table, aim = self._wait_for(self.chance.choice(self.tables), self.chance.choice([*AIMS, "anything"]))
        if self.chance.random() < 0.1:
            self._freeze(self.cluster.leader(table))
        committer = self.cluster.leader(table)
        self._kill(committer)
        self.account.kills[aim] += 1
        time.sleep(self.chance.choice([0, 0.2, SESSION_MS / 1000 + 0.5]))
        if self.chance.random() < 0.2:
            self.cluster.nodes[committer].spawn()
            time.sleep(self.chance.uniform(0, 0.5))
            self._kill(committer)
            self.account.kills_in_starts += 1
        self.cluster.restart(committer)

    def _wait_for(self, table: str, aim: str) -> tuple[str, str]:
        """Until a request of that kind comes to the bucket, but not for ever, for there need be none; or until files of any table
        are joined. Whose committer is to be killed, and at what."""
        wanted = {self._watched[table, aim]: (table, aim)} if aim in AIMS else {}
        wanted |= {self._watched[one, RARE]: (one, RARE) for one in self.tables}
        before = self.faults(BUCKET)
        deadline = time.monotonic() + (8 if aim in AIMS else self.chance.uniform(0.5, 8))
        while time.monotonic() < deadline:
            now = self.faults(BUCKET)
            for rule, hit in wanted.items():
                if now[rule]["met"] > before[rule]["met"]:
                    # Now, or a moment later: between two requests, or in a later one.
                    time.sleep(self.chance.choice([0, self.chance.uniform(0, 1)]))
                    return hit
            time.sleep(0.03)
        return table, "anything"

    def _kill(self, node: int) -> None:
        self.account.conflicts += self.conflicts(node)
        self.cluster.nodes[node].kill()

    def _freeze(self, node: int) -> None:
        """It wakes up with what it was about to commit, and somebody else has the table by then."""
        self.cluster.nodes[node].pause()
        time.sleep(SESSION_MS / 1000 + self.chance.uniform(0.5, LAG_MS / 1000 + 2))
        self.cluster.nodes[node].resume()
        time.sleep(self.chance.uniform(0, 2))
        self.account.frozen += 1

    def _move_leaders_back(self) -> None:
        """Each table's committer to its own node, when that is in sync again."""
        wanted = [TopicPartition(table, 0) for table in self.tables]
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline and not all(self._in_sync(table) for table in self.tables):
            time.sleep(0.1)
        try:
            # Its keyword arguments do not work in this version.
            elected = self._admin.elect_leaders(ElectionType.PREFERRED, wanted).result(30)
        except KafkaException:
            # The controller was on its way.
            return
        self.account.moved += sum(error is None for error in elected.values())

    def _in_sync(self, table: str) -> bool:
        found = self.cluster.partition(table)
        return found is not None and len(found.isr) == NODES

    def conflicts(self, node: int) -> int:
        """What this process has counted so far; 0 if it is not there to tell."""
        try:
            with urllib.request.urlopen(f"http://{self.cluster.nodes[node].metrics_address}/metrics", timeout=1) as answer:
                text = answer.read().decode()
        except OSError:
            return 0
        return sum(map(int, re.findall(r"^ottla_lake_commit_conflicts_total\S* (\d+)", text, re.MULTILINE)))

    def faults(self, name: str) -> list[dict]:
        with urllib.request.urlopen(f"{self.aws.url}/_faults/{name}") as answer:
            return json.load(answer)


class Tables:
    """What the engines find in the tables."""

    def __init__(self, aws: Aws, names: list[str]):
        self.aws, self.names = aws, names
        self._engines = {name: make() for name, make in ENGINES.items()}
        self._rows = dict.fromkeys(names, 0)

    def at(self, table: str) -> engines.InGlue:
        return engines.InGlue(self.aws.url, DATABASE, table)

    def exists(self, table: str) -> bool:
        return self.at(table).entry() is not None

    def check_running(self) -> int:
        """No row twice and none gone, at any moment; how many there are."""
        for table in filter(self.exists, self.names):
            found = self._engines["DuckDB"].totals(self.at(table), {})
            if found["rows"] != found[engines.DISTINCT]:
                raise LostPromise(f"table {table} has {found['rows']} rows of {found[engines.DISTINCT]} records")
            if found["rows"] < self._rows[table]:
                raise LostPromise(f"table {table} had {self._rows[table]} rows and has {found['rows']}")
            self._rows[table] = found["rows"]
        return sum(self._rows.values())

    def check(self, rows: Rows, account: Account) -> int:
        """Every acknowledged record once, by each engine; how many. `LostPromise` otherwise, with all that is wrong."""
        wrong = []
        count = 0
        for table, places in rows.places.items():
            for name in ENGINES:
                wrong += self.differences(name, table, places, account)
            count += len(places)
            if self.exists(f"{table}__quarantine"):
                wrong.append(f"there is a quarantine of {table}")
        if wrong:
            raise LostPromise("; ".join(wrong))
        return count

    def differences(self, name: str, table: str, places: dict[int, tuple[int, int]], account: Account) -> list[str]:
        """What one engine finds otherwise than it was acknowledged."""
        engine, at, wrong = self._engines[name], self.at(table), []
        numbers = collections.Counter(engine.values(at, "id"))
        duplicates = sum(numbers.values()) - len(numbers)
        missing = [number for number in places if number not in numbers]
        foreign = [number for number in numbers if number not in places]
        account.duplicates += duplicates
        account.missing += len(missing)
        if duplicates or missing or foreign:
            wrong.append(f"{name}: table {table} has {duplicates} rows too many, lacks {len(missing)} {missing[:3]}, "
                         f"and has {len(foreign)} that were not acknowledged {foreign[:3]}")
        wanted = engines.totals([row(number) for number in places], list(COLUMNS))
        found = engine.totals(at, COLUMNS)
        wrong += [f"{name}: {what} of {table} is {found[what]} instead of {wanted[what]}" for what in wanted
                  if found[what] != wanted[what]]
        if name == "PyIceberg":
            columns = [engine.values(at, column) for column in ("id", "kafka_partition", "kafka_offset")]
            moved = [number for number, partition, offset in zip(*columns)
                     if number in places and places[number] not in [(partition, offset), (partition, -1)]]
            wrong += [f"{name}: {len(moved)} rows of {table} say another offset than was acknowledged"] if moved else []
        return wrong

    def snapshots(self) -> collections.Counter:
        """Commits by what they did."""
        made = collections.Counter()
        for table in self.names:
            for snapshot in self._engines["PyIceberg"].table(self.at(table)).metadata.snapshots:
                made[snapshot.summary.operation.value] += 1
                made["joined files"] += int(snapshot.summary.additional_properties.get("deleted-data-files", 0))
        return made

    def prove_that_faults_are_seen(self, rows: Rows) -> None:
        """The cluster must have ended."""
        table = self.names[0]
        for plant, count in [(add_file_twice, "duplicates"), (take_file_out, "missing")]:
            plant(self._engines["PyIceberg"].table(self.at(table)))
            for name in ENGINES:
                seen = Account()
                told = self.differences(name, table, rows.places[table], seen)
                assert getattr(seen, count) > 0, f"{name} does not see what {plant.__name__} did: {told}"
            print(f"{plant.__name__} is seen by {', '.join(ENGINES)}", flush=True)

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()


def add_file_twice(table) -> None:
    [task, *_] = table.scan().plan_files()
    with table.transaction() as transaction, transaction.update_snapshot().fast_append() as append:
        append.append_data_file(task.file)


def take_file_out(table) -> None:
    [task, *_] = table.scan().plan_files()
    with table.transaction() as transaction, transaction.update_snapshot().overwrite() as overwrite:
        overwrite.delete_data_file(task.file)


def status(cluster: Cluster) -> list[dict]:
    """As `ottla lake status` says it; nothing while it cannot."""
    asked = run([str(environment.ottla_binary()), "lake", "status", "--json", "-b", cluster.bootstrap], check=False)
    return [json.loads(line) for line in asked.lines] if asked.code == 0 else []


def has_all(cluster: Cluster, tables: list[str]) -> bool:
    told = status(cluster)
    return len(told) == len(tables) and all(one["lag_records"] == 0 for one in told)


def make_cluster(directory: Path, aws: Aws, tables: list[str]) -> Cluster:
    cluster = Cluster("ottla", directory, {
        "ottla.tier.url": f"s3://{BUCKET}/here",
        "ottla.tier.s3.endpoint": aws.url,
        "ottla.lake.catalog": "glue",
        "ottla.lake.glue.endpoint": aws.url,
        "broker.session.timeout.ms": str(SESSION_MS),
        "broker.heartbeat.interval.ms": "250",
        # Moves are ours to make.
        "auto.leader.rebalance.enable": "false",
    }, network=LocalPorts())
    cluster.start(NODES)
    for first, table in enumerate(tables):
        replicas = [[(first + partition + replica) % NODES + 1 for replica in range(NODES)] for partition in range(PARTITIONS)]
        cluster.create_topic(table, assignment=replicas, ottla_lake_enable="true", ottla_lake_lag_ms=LAG_MS)
    return cluster


def crash(kills: int, names: list[str], chance: random.Random) -> None:
    os.environ |= {"AWS_ACCESS_KEY_ID": engines.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": engines.SECRET_KEY}
    directory = Path(tempfile.mkdtemp(prefix="ottla-lake-crash-"))
    aws, cluster, rows = Aws(BUCKET), None, None
    tables = Tables(aws, names)
    begin = time.monotonic()
    try:
        cluster = make_cluster(directory, aws, names)
        chaos = Chaos(cluster, aws, names, chance)
        account = chaos.account
        rows = Rows(cluster.bootstrap, names)
        wait_until(lambda: all(map(tables.exists, names)), 60, "all tables are there", poll_s=0.5)
        while (killed := account.kills.total() + account.kills_in_starts) < kills:
            chaos.step()
            cluster.check_alive()
            if killed // 20 < (now := account.kills.total() + account.kills_in_starts) // 20:
                print(f"{time.monotonic() - begin:.0f} s: {now} kills, {rows.count()} rows acknowledged, "
                      f"{tables.check_running()} in the tables, none twice", flush=True)
        rows.finish()
        wait_until(lambda: has_all(cluster, names), 300, "all rows are in the tables", poll_s=1)
        swaps, stores = chaos.faults(DATABASE), chaos.faults(BUCKET)
        # The engines are not what is to be tried.
        aws.faults(name=DATABASE)
        aws.faults(name=BUCKET)
        account.conflicts += sum(map(chaos.conflicts, cluster.nodes))
        told = status(cluster)
        assert all(one["quarantined"] == 0 for one in told), told
        made = tables.snapshots()
        try:
            tables.check(rows, account)
        finally:
            report(account, swaps, stores, made, rows, time.monotonic() - begin)
        assert lost_answers(swaps) > 0, "no answer of Glue's was lost"
        if kills >= KILLS_ENOUGH:
            proven = {"compactions": made["replace"], "conflicts": account.conflicts, "moves": account.moved, "freezes": account.frozen}
            assert all(proven.values()), f"there was nothing to prove something by: {proven}"
        for node in cluster.nodes.values():
            assert node.stop() == 0, f"the controlled shutdown of node {node.id} failed\n{node.log()}"
        tables.prove_that_faults_are_seen(rows)
    except BaseException:
        if cluster:
            print(cluster.logs(), file=sys.stderr)
        keep_bucket(aws, directory / "bucket")
        print(f"the files are kept in {directory}", file=sys.stderr)
        raise
    else:
        shutil.rmtree(directory, ignore_errors=True)
    finally:
        if rows:
            rows.abandon()
        if cluster:
            for node in cluster.nodes.values():
                if node.process:
                    node.kill()
        tables.close()
        aws.end()


def lost_answers(rules: list[dict]) -> int:
    """Of changes that were made."""
    return sum(rule["came_true"] for rule in rules if rule.get("operation") == "UpdateTable" and rule["kind"] in ("lose", "fail"))


def report(account: Account, swaps: list[dict], stores: list[dict], made: collections.Counter, rows: Rows, seconds: float) -> None:
    asked = next(rule["met"] for rule in swaps if rule.get("operation") == "UpdateTable")
    store = sum(rule["came_true"] for rule in stores if rule["kind"] in ("lose", "fail", "drop", "cut", "refuse"))
    aims = ", ".join(f"{count} at {aim}" for aim, count in sorted(account.kills.items()))
    print(f"""
kills                 {account.kills.total() + account.kills_in_starts} in {seconds:.0f} s: {aims}, {account.kills_in_starts} in a start
committers frozen     {account.frozen}
leaders moved back    {account.moved}
answers lost          {lost_answers(swaps)} of Glue's {asked} to UpdateTable; {store} of S3's lost, cut or refused
commits               {made["append"]} with rows
commit conflicts      {account.conflicts}, as far as processes lived to tell
compactions           {made["replace"]} of {made["joined files"]} files
rows                  {rows.count()} in {len(rows.places)} tables
duplicates            {account.duplicates}
missing               {account.missing}
""", flush=True)


def keep_bucket(aws: Aws, directory: Path) -> None:
    """moto has it in memory only."""
    import boto3

    s3 = boto3.client("s3", endpoint_url=aws.url, region_name=engines.REGION)
    aws.faults(name=BUCKET)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for found in page.get("Contents", []):
            path = directory / found["Key"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(s3.get_object(Bucket=BUCKET, Key=found["Key"])["Body"].read())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crashes", type=int, default=200)
    parser.add_argument("--tables", type=int, choices=range(1, len(TABLES) + 1), default=len(TABLES))
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"{arguments.crashes} kills, --seed {seed}", flush=True)
    crash(arguments.crashes, TABLES[:arguments.tables], random.Random(seed))
    print("every acknowledged record is in its table once, by all engines")


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG: ends with the make that started it
    main()
