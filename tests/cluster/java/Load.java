// A paced producer of kafka-clients: Load BOOTSTRAP TOPIC PARTITIONS IDEMPOTENT RATE [key=value]...
// Prints "ack NUMBER PARTITION OFFSET" or "error NUMBER WHAT" for each record; ends when its standard input does.

import java.io.*;
import java.nio.ByteBuffer;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class Load {
    public static void main(String[] arguments) throws Exception {
        String topic = arguments[1];
        int partitions = Integer.parseInt(arguments[2]);
        double rate = Double.parseDouble(arguments[4]);
        Properties properties = new Properties();
        properties.put("bootstrap.servers", arguments[0]);
        properties.put("acks", "all");
        properties.put("enable.idempotence", arguments[3]);
        for (int i = 5; i < arguments.length; i++) {
            String[] pair = arguments[i].split("=", 2);
            properties.put(pair[0], pair[1]);
        }
        AtomicBoolean ended = new AtomicBoolean();
        Thread input = new Thread(() -> {
            try {
                while (System.in.read() >= 0) { }
            } catch (IOException closed) {
                // As good as its end.
            }
            ended.set(true);
        });
        input.setDaemon(true);
        input.start();
        PrintStream out = new PrintStream(new FileOutputStream(FileDescriptor.out), true);
        try (var producer = new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer())) {
            long begin = System.nanoTime();
            for (long number = 0; !ended.get(); number++) {
                while ((System.nanoTime() - begin) / 1e9 * rate < number && !ended.get()) {
                    Thread.sleep(1);
                }
                long sent = number;
                producer.send(new ProducerRecord<>(topic, (int) (number % partitions), null, value(number)), (metadata, error) ->
                    out.println(error == null
                        ? "ack " + sent + " " + metadata.partition() + " " + metadata.offset()
                        : "error " + sent + " " + error));
            }
        }
    }

    static byte[] value(long number) {
        int times = (int) (1 + number * 7919 % 100);
        ByteBuffer value = ByteBuffer.allocate(8 * times);
        for (int i = 0; i < times; i++) {
            value.putLong(number);
        }
        return value.array();
    }
}
