"""What it takes to let kafka-python 3.0 join a group and mean it."""

from kafka import KafkaConsumer


def subscribe(consumer: KafkaConsumer, topics) -> None:
    """Subscribes and learns of the topics before the first poll joins the group.

    A leader that joins before its metadata has settled may assign nothing for good. Or it joins again, and if a poll ends
    while that join is under way, the client takes itself for joined: it hands out records and refuses to commit them.
    `topics` waits for an update that is under way and then for one of its own, so nothing older can arrive after it.
    """
    consumer.subscribe(topics)
    missing = set(topics) - consumer.topics()
    assert not missing, f"no such topic: {missing}"
