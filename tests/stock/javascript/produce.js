// Produces a JSON array of strings from stdin as one batch.
// Arguments: bootstrap, topic, codec.
const { Kafka, logLevel } = require("kafkajs");
const codecs = require("./codecs");

const [bootstrap, topic, codec] = process.argv.slice(2);

async function main() {
  await codecs.register();
  const lines = JSON.parse(require("fs").readFileSync(0, "utf8"));
  const producer = new Kafka({ clientId: "kafkajs", brokers: [bootstrap], logLevel: logLevel.ERROR }).producer();
  await producer.connect();
  await producer.send({ topic, compression: codecs.typeOf[codec], messages: lines.map((value) => ({ value })) });
  await producer.disconnect();
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
