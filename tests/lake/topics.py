"""Topics with tables as stock clients see them: made, filled, and what the broker's metrics say of their tables."""

import json
import re
import urllib.request

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from engines import REGION
from harness.broker import Broker

PARTITIONS = 3
# Of the rows below, as a table has them.
COLUMNS = {"id": "number", "adj_close": "number", "index": "text"}


def in_glue(aws) -> dict[str, str]:
    """What tells a broker to keep tables in that bucket, with Glue as their catalog."""
    return {"ottla.tier.url": "s3://lake/ottla", "ottla.tier.s3.endpoint": aws.url, "ottla.tier.s3.region": REGION,
            "ottla.lake.catalog": "glue", "ottla.lake.glue.endpoint": aws.url, "ottla.lake.database": "kafka"}


def row(number: int) -> dict:
    return {"id": number, "adj_close": number + 0.25, "index": "HSI" if number % 2 else "NYA"}


def value(number: int) -> bytes:
    row_of = row(number)
    return json.dumps({"Id": row_of["id"], "Adj Close": row_of["adj_close"], "Index": row_of["index"]}).encode()


def create(broker: Broker, topic: str, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    config = {"ottla.lake.enable": "true", "ottla.lake.lag.ms": "5000", **{f"ottla.lake.{key}": value for key, value in config.items()}}
    for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1, config=config)]).values():
        future.result(30)


def send(broker: Broker, topic: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "linger.ms": 5})
    failures = []
    for number, one in enumerate(values):
        while True:
            try:
                producer.produce(topic, one, key=str(number), on_delivery=lambda error, _: error and failures.append(error))
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    assert producer.flush(120) == 0 and not failures, failures[:3]


def metric(broker: Broker, name: str, topic: str) -> float:
    text = urllib.request.urlopen(f"http://127.0.0.1:{broker.health_port}/metrics").read().decode()
    found = re.search(rf'^ottla_lake_{name}\{{topic="{topic}",[^}}]*\}} (\S+)', text, re.MULTILINE)
    return float(found.group(1)) if found else 0
