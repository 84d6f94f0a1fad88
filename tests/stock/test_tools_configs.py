"""kafka-configs of three generations: describe, alter and delete for topics, one broker and all brokers."""

import re


def described(tools, *entity) -> dict[str, str]:
    """What --describe prints as key -> value."""
    lines = tools.run("kafka-configs", "--describe", *entity).lines
    found = (re.match(r"\s+([\w.]+)=(.*?) sensitive=", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def test_topic_configs(tools, name):
    entity = ["--entity-type", "topics", "--entity-name", name]
    tools.run("kafka-topics", "--create", "--topic", name)
    assert described(tools, *entity) == {}

    tools.run("kafka-configs", "--alter", *entity, "--add-config", "retention.ms=60000,cleanup.policy=[compact,delete]")
    assert described(tools, *entity) == {"retention.ms": "60000", "cleanup.policy": "compact,delete"}

    everything = described(tools, *entity, "--all")
    assert everything["retention.ms"] == "60000"
    assert everything["segment.bytes"] == "1073741824" and everything["compression.type"] == "producer"
    assert everything["max.message.bytes"] == "1048588"

    tools.run("kafka-configs", "--alter", *entity, "--delete-config", "retention.ms,cleanup.policy")
    assert described(tools, *entity) == {}


def test_bad_topic_configs_are_refused(tools, name):
    entity = ["--entity-type", "topics", "--entity-name", name]
    tools.run("kafka-topics", "--create", "--topic", name)
    for bad in ("retention.ms=soon", "cleanup.policy=burn", "no.such.key=1"):
        refused = tools.run("kafka-configs", "--alter", *entity, "--add-config", bad, check=False)
        assert refused.code == 1 and "InvalidConfigurationException" in refused.stdout + refused.stderr, refused.report
    assert described(tools, *entity) == {}


def test_broker_configs(tools):
    """One broker wins over all brokers, which win over the default."""
    one, all_brokers = (["--entity-type", "brokers", *which] for which in (["--entity-name", "1"], ["--entity-default"]))
    try:
        tools.run("kafka-configs", "--alter", *all_brokers, "--add-config", "log.retention.ms=7200000")
        assert described(tools, *all_brokers)["log.retention.ms"] == "7200000"
        tools.run("kafka-configs", "--alter", *one, "--add-config", "log.retention.ms=3600000")
        # The broker follows the metadata log, so it tells its new value a moment later.
        everything = described(tools, *one, "--all")
        assert everything["log.retention.ms"] in ("3600000", "7200000")
        assert everything["node.id"] == "1" and everything["num.partitions"] == "1"
    finally:
        tools.run("kafka-configs", "--alter", *one, "--delete-config", "log.retention.ms", check=False)
        tools.run("kafka-configs", "--alter", *all_brokers, "--delete-config", "log.retention.ms", check=False)
    assert "log.retention.ms" not in described(tools, *one)

    refused = tools.run("kafka-configs", "--alter", *one, "--add-config", "node.id=7", check=False)
    assert refused.code == 1 and "InvalidRequestException" in refused.stdout + refused.stderr, refused.report
