// KafkaJS's admin client and a group of two that shares four partitions; prints "ok" when all of it held.
// Arguments: bootstrap, topic.
const assert = require("assert");
const { Kafka, ConfigResourceTypes, logLevel } = require("kafkajs");

const [bootstrap, topic] = process.argv.slice(2);

async function until(condition, what) {
  for (let tries = 0; tries < 450; tries++) {
    if (await condition()) return;
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error(`not within 45 s: ${what}`);
}

async function main() {
  const kafka = new Kafka({ clientId: "kafkajs", brokers: [bootstrap], logLevel: logLevel.NOTHING });
  const admin = kafka.admin();
  await admin.connect();
  assert.strictEqual(await admin.createTopics({ topics: [{ topic, numPartitions: 2, configEntries: [{ name: "retention.ms", value: "60000" }] }] }), true);
  assert.strictEqual(await admin.createTopics({ topics: [{ topic }] }), false);
  await admin.createPartitions({ topicPartitions: [{ topic, count: 4 }] });
  const resource = { type: ConfigResourceTypes.TOPIC, name: topic };
  const configs = await admin.describeConfigs({ resources: [{ ...resource, configNames: ["retention.ms"] }] });
  assert.strictEqual(configs.resources[0].configEntries[0].configValue, "60000");
  await admin.alterConfigs({ resources: [{ ...resource, configEntries: [{ name: "cleanup.policy", value: "compact" }] }] });
  await admin.alterConfigs({ resources: [{ ...resource, configEntries: [] }] });

  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
  await producer.connect();
  for (let partition = 0; partition < 4; partition++)
    await producer.send({ topic, messages: [...Array(10).keys()].map((n) => ({ partition, value: `${partition}-${n}` })) });
  await producer.disconnect();

  const seen = new Set();
  const shares = new Map();
  const member = async (id) => {
    const consumer = kafka.consumer({ groupId: topic, sessionTimeout: 10000, heartbeatInterval: 300, rebalanceTimeout: 10000 });
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => shares.set(id, payload.memberAssignment[topic] || []));
    await consumer.connect();
    await consumer.subscribe({ topics: [topic], fromBeginning: true });
    await consumer.run({ eachMessage: async ({ message }) => { seen.add(message.value.toString()); } });
    return consumer;
  };
  const shared = (...sizes) => until(() =>
    [...shares.values()].map((share) => share.length).sort().join() === sizes.join() &&
    [...shares.values()].flat().sort().join() === "0,1,2,3", `shares of ${sizes}`);
  const one = await member(1);
  await shared(4);
  const two = await member(2);
  await shared(2, 2);
  await until(() => seen.size === 40, "all 40 messages");
  await one.disconnect();
  shares.delete(1);
  await shared(4);
  await two.disconnect();

  const offsets = await admin.fetchTopicOffsets(topic);
  assert.deepStrictEqual(offsets.map((o) => [o.low, o.high]), Array(4).fill(["0", "10"]));
  await admin.setOffsets({ groupId: topic, topic, partitions: [{ partition: 1, offset: "4" }] });
  const committed = await admin.fetchOffsets({ groupId: topic, topics: [topic] });
  assert.strictEqual(committed[0].partitions.find((p) => p.partition === 1).offset, "4");
  await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: "6" }] });
  assert.strictEqual((await admin.fetchTopicOffsets(topic)).find((p) => p.partition === 0).low, "6");
  assert((await admin.listGroups()).groups.some((group) => group.groupId === topic));
  assert.strictEqual((await admin.describeGroups([topic])).groups[0].state, "Empty");
  await admin.deleteGroups([topic]);
  await admin.deleteTopics({ topics: [topic] });
  assert.strictEqual((await admin.describeCluster()).brokers.length, 1);
  await admin.disconnect();
  console.log("ok");
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
