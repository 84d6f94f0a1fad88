// Produces samples with one codec and prints, one JSON line each, what comes back to a group.
// Arguments: bootstrap, topic, codec, acks; the samples as a JSON line on stdin (bytes in base64).
const { Kafka, logLevel } = require("kafkajs");
const codecs = require("./codecs");

const [bootstrap, topic, codec, acks] = process.argv.slice(2);
const bytes = (text) => (text === null ? null : Buffer.from(text, "base64"));
const text = (value) => (value === null || value === undefined ? null : Buffer.from(value).toString("base64"));

async function main() {
  await codecs.register();
  const samples = JSON.parse(require("fs").readFileSync(0, "utf8"));
  const kafka = new Kafka({ clientId: "kafkajs", brokers: [bootstrap], logLevel: logLevel.ERROR });

  const producer = kafka.producer();
  await producer.connect();
  await producer.send({
    topic,
    acks: Number(acks),
    compression: codecs.typeOf[codec],
    messages: samples.map((sample) => {
      const headers = {};
      for (const [key, value] of sample.headers) headers[key] = [...(headers[key] || []), bytes(value)];
      return { key: bytes(sample.key), value: bytes(sample.value), headers, timestamp: String(sample.timestamp) };
    }),
  });
  await producer.disconnect();

  const consumer = kafka.consumer({ groupId: topic, sessionTimeout: 10000, heartbeatInterval: 500 });
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  let seen = 0;
  await new Promise((done, failed) => {
    // A coordinator that is loading its partition is a crash from which KafkaJS restarts by itself.
    consumer.on(consumer.events.CRASH, ({ payload }) => payload.restart || failed(payload.error));
    consumer.run({
      eachMessage: async ({ message }) => {
        const headers = Object.entries(message.headers).flatMap(([key, values]) =>
          (Array.isArray(values) ? values : [values]).map((value) => [key, text(value)]));
        console.log(JSON.stringify({ key: text(message.key), value: text(message.value), headers, timestamp: Number(message.timestamp) }));
        if (++seen === samples.length) done();
      },
    }).catch(failed);
  });
  await consumer.disconnect();
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
