"""kafka-topics of three generations: create, list, describe, alter, delete."""

import re


def test_create_list_describe_alter_delete(tools, name):
    created = tools.run("kafka-topics", "--create", "--topic", name, "--replication-factor", "1", "--partitions", "2",
                        "--config", "retention.ms=86400000")
    assert f"Created topic {name}." in created.stdout

    assert name in tools.run("kafka-topics", "--list").lines

    described = tools.run("kafka-topics", "--describe", "--topic", name).stdout
    assert re.search(rf"Topic: {name}\s+TopicId: [\w-]{{22}}\s+PartitionCount: 2\s+ReplicationFactor: 1", described)
    assert "retention.ms=86400000" in described
    for partition in (0, 1):
        assert re.search(rf"Partition: {partition}\s+Leader: 1\s+Replicas: 1\s+Isr: 1", described), described

    tools.run("kafka-topics", "--alter", "--topic", name, "--partitions", "5")
    assert "PartitionCount: 5" in tools.run("kafka-topics", "--describe", "--topic", name).stdout

    tools.run("kafka-topics", "--delete", "--topic", name)
    assert name not in tools.run("kafka-topics", "--list").lines


def test_refusals_name_the_reason(tools, name):
    tools.run("kafka-topics", "--create", "--topic", name, "--partitions", "3")
    again = tools.run("kafka-topics", "--create", "--topic", name, "--partitions", "3", check=False)
    assert again.code == 1
    assert "TopicExistsException" in again.stdout + again.stderr

    fewer = tools.run("kafka-topics", "--alter", "--topic", name, "--partitions", "2", check=False)
    assert fewer.code == 1
    assert "InvalidPartitionsException" in fewer.stdout + fewer.stderr

    three = tools.run("kafka-topics", "--create", "--topic", f"{name}-three", "--replication-factor", "3", check=False)
    assert three.code == 1
    assert "InvalidReplicationFactorException" in three.stdout + three.stderr

    config = tools.run("kafka-topics", "--create", "--topic", f"{name}-config", "--config", "retention.ms=soon", check=False)
    assert config.code == 1
    assert "retention.ms" in config.stdout + config.stderr
