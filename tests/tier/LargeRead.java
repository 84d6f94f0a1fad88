// Reads a topic of large_read.py from its first offset and checks every byte: LargeRead BOOTSTRAP_SERVERS TOPIC RECORDS SIZE BLOCK_FILE.
// Ends with 0 and the number of records, or with the first thing that was not as it must be.

import java.nio.ByteBuffer;
import java.nio.file.*;
import java.time.Duration;
import java.util.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.*;

public class LargeRead {
    public static void main(String[] arguments) throws Exception {
        long records = Long.parseLong(arguments[2]);
        int size = Integer.parseInt(arguments[3]);
        byte[] block = Files.readAllBytes(Path.of(arguments[4]));
        Map<String, Object> config = Map.of("bootstrap.servers", arguments[0], "auto.offset.reset", "none",
            "isolation.level", "read_committed");
        var partition = new TopicPartition(arguments[1], 0);
        try (var consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.assign(List.of(partition));
            consumer.seek(partition, 0);
            long next = 0;
            byte[] number = new byte[8];
            while (next < records) {
                for (var record : consumer.poll(Duration.ofSeconds(10))) {
                    ByteBuffer.wrap(number).putLong(next);
                    int from = (int) (next * 7919 % (block.length - size));
                    boolean isRight = record.offset() == next && record.value().length == size
                        && Arrays.equals(number, 0, 8, record.value(), 0, 8)
                        && Arrays.equals(block, from, from + size - 8, record.value(), 8, size);
                    if (!isRight) {
                        System.err.println("offset " + record.offset() + " where " + next + " should be, or another value");
                        System.exit(1);
                    }
                    next++;
                }
            }
            System.out.println(next);
        }
    }
}
