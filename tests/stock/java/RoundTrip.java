// Admin, producer and consumer of kafka-clients against one broker: RoundTrip BOOTSTRAP_SERVERS TOPIC.
// Ends with 0 and "all well", or with the first thing that was not as it must be.

import java.time.Duration;
import java.util.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.serialization.*;

public class RoundTrip {
    static final List<String> CODECS = List.of("none", "gzip", "snappy", "lz4", "zstd");
    static final int PER_CODEC = 50;
    static final int PARTITIONS = 3;

    public static void main(String[] arguments) throws Exception {
        Map<String, Object> where = Map.of("bootstrap.servers", arguments[0]);
        String topic = arguments[1];
        try (Admin admin = Admin.create(where)) {
            is(admin.describeCluster().nodes().get().size(), 1);
            admin.createTopics(List.of(new NewTopic(topic, PARTITIONS, (short) 1))).all().get();
            refused(TopicExistsException.class, admin.createTopics(List.of(new NewTopic(topic, 1, (short) 1))).all());

            Map<Integer, List<String>> sent = new TreeMap<>();
            for (String codec : CODECS) {
                produce(where, topic, codec, sent);
            }
            is(consume(where, topic), sent);

            var committed = admin.listConsumerGroupOffsets(topic).partitionsToOffsetAndMetadata().get();
            var latest = new HashMap<TopicPartition, OffsetSpec>();
            committed.keySet().forEach(partition -> latest.put(partition, OffsetSpec.latest()));
            is(committed.size(), PARTITIONS);
            admin.listOffsets(latest).all().get().forEach(
                (partition, end) -> is(end.offset(), committed.get(partition).offset()));
            is(admin.describeConsumerGroups(List.of(topic)).all().get().get(topic).groupState(), GroupState.EMPTY);
            is(admin.listGroups().all().get().stream().anyMatch(group -> group.groupId().equals(topic)), true);
            admin.deleteConsumerGroups(List.of(topic)).all().get();

            var resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
            var retention = new AlterConfigOp(new ConfigEntry("retention.ms", "60000"), AlterConfigOp.OpType.SET);
            admin.incrementalAlterConfigs(Map.of(resource, List.of(retention))).all().get();
            var described = admin.describeConfigs(List.of(resource)).all().get().get(resource);
            is(described.get("retention.ms").value(), "60000");

            var first = new TopicPartition(topic, 0);
            long end = committed.get(first).offset();
            var left = admin.deleteRecords(Map.of(first, RecordsToDelete.beforeOffset(end))).lowWatermarks();
            is(left.get(first).get().lowWatermark(), end);
            admin.deleteTopics(List.of(topic)).all().get();
            refused(UnknownTopicOrPartitionException.class, admin.describeTopics(List.of(topic)).allTopicNames());
        }
        System.out.println("all well");
    }

    static void produce(Map<String, Object> where, String topic, String codec, Map<Integer, List<String>> sent)
            throws Exception {
        var config = new HashMap<>(where);
        config.put("compression.type", codec);
        config.put("linger.ms", "20");
        try (var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
            var answers = new ArrayList<java.util.concurrent.Future<RecordMetadata>>();
            for (int number = 0; number < PER_CODEC; number++) {
                int partition = number % PARTITIONS;
                String value = codec + " " + number + " " + "x".repeat(100);
                answers.add(producer.send(new ProducerRecord<>(topic, partition, codec, value)));
                sent.computeIfAbsent(partition, none -> new ArrayList<>()).add(value);
            }
            for (var answer : answers) {
                answer.get();
            }
        }
    }

    /** What a member of a group reads and commits, by partition. */
    static Map<Integer, List<String>> consume(Map<String, Object> where, String topic) {
        var config = new HashMap<>(where);
        config.put("group.id", topic);
        config.put("auto.offset.reset", "earliest");
        config.put("enable.auto.commit", "false");
        Map<Integer, List<String>> read = new TreeMap<>();
        try (var consumer = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(topic));
            int left = CODECS.size() * PER_CODEC;
            long deadline = System.nanoTime() + Duration.ofSeconds(60).toNanos();
            while (left > 0) {
                is(System.nanoTime() < deadline, true);
                for (var record : consumer.poll(Duration.ofMillis(200))) {
                    read.computeIfAbsent(record.partition(), none -> new ArrayList<>()).add(record.value());
                    left--;
                }
            }
            consumer.commitSync();
        }
        return read;
    }

    static void is(Object found, Object expected) {
        if (!found.equals(expected)) {
            throw new AssertionError("found " + found + ", expected " + expected);
        }
    }

    static void refused(Class<? extends Exception> with, KafkaFuture<?> answer) throws Exception {
        try {
            answer.get();
        } catch (java.util.concurrent.ExecutionException error) {
            is(error.getCause().getClass(), with);
            return;
        }
        throw new AssertionError("not refused with " + with);
    }
}
