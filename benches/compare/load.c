/* A load by librdkafka, in C because a slower client would measure itself.
 *
 *   load produce  BOOTSTRAP TOPIC RECORDS SIZE ACKS      records as fast as they go, spread over all partitions
 *   load consume  BOOTSTRAP TOPIC RECORDS                all records from the beginning, all partitions
 *   load latency  BOOTSTRAP TOPIC RECORDS SIZE RATE      paced producer and consumer in one process: end to end
 *   load first    BOOTSTRAP TOPIC                        waits until the first record is acknowledged with acks=all
 *   load rows     BOOTSTRAP TOPIC FILE MB_PER_S SECONDS ACKS_FILE
 *                                                        the lines of a file as records, paced, acks=all: time to the
 *                                                        acknowledgement. One in a thousand is written to ACKS_FILE:
 *                                                        partition, offset, Unix time of the acknowledgement
 *
 * Prints one line of JSON. Every run is bounded by its number of records and by DEADLINE_S. */

#include <librdkafka/rdkafka.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DEADLINE_S 180

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int64_t acknowledged, failed;

static void delivered(rd_kafka_t *client, const rd_kafka_message_t *message, void *opaque) {
    (void)client;
    (void)opaque;
    if (message->err) {
        if (failed++ == 0) fprintf(stderr, "delivery failed: %s\n", rd_kafka_err2str(message->err));
    } else {
        acknowledged++;
    }
}

static void set(rd_kafka_conf_t *conf, const char *key, const char *value) {
    char reason[512];
    if (rd_kafka_conf_set(conf, key, value, reason, sizeof reason) != RD_KAFKA_CONF_OK) {
        fprintf(stderr, "%s=%s: %s\n", key, value, reason);
        exit(2);
    }
}

static rd_kafka_t *create(rd_kafka_type_t type, rd_kafka_conf_t *conf) {
    char reason[512];
    rd_kafka_t *client = rd_kafka_new(type, conf, reason, sizeof reason);
    if (!client) {
        fprintf(stderr, "%s\n", reason);
        exit(2);
    }
    return client;
}

static rd_kafka_t *producer(const char *bootstrap, const char *acks, const char *linger_ms) {
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    set(conf, "bootstrap.servers", bootstrap);
    set(conf, "acks", acks);
    set(conf, "linger.ms", linger_ms);
    set(conf, "queue.buffering.max.messages", "500000");
    set(conf, "queue.buffering.max.kbytes", "262144");
    rd_kafka_conf_set_dr_msg_cb(conf, delivered);
    return create(RD_KAFKA_PRODUCER, conf);
}

static void give(rd_kafka_t *client, rd_kafka_topic_t *topic, int32_t partition, void *payload, size_t size) {
    while (rd_kafka_produce(topic, partition, RD_KAFKA_MSG_F_COPY, payload, size, NULL, 0, NULL) == -1) {
        if (rd_kafka_last_error() != RD_KAFKA_RESP_ERR__QUEUE_FULL) {
            fprintf(stderr, "produce: %s\n", rd_kafka_err2str(rd_kafka_last_error()));
            exit(1);
        }
        rd_kafka_poll(client, 5);
    }
}

static int partitions_of(rd_kafka_t *client, rd_kafka_topic_t *topic) {
    const struct rd_kafka_metadata *metadata;
    if (rd_kafka_metadata(client, 0, topic, &metadata, 10000) || metadata->topic_cnt != 1) {
        fprintf(stderr, "no metadata\n");
        exit(1);
    }
    int count = metadata->topics[0].partition_cnt;
    rd_kafka_metadata_destroy(metadata);
    return count;
}

static int run_produce(const char *bootstrap, const char *name, int64_t records, size_t size, const char *acks) {
    rd_kafka_t *client = producer(bootstrap, acks, "5");
    rd_kafka_topic_t *topic = rd_kafka_topic_new(client, name, NULL);
    int partitions = partitions_of(client, topic);
    char *payload = malloc(size);
    for (size_t i = 0; i < size; i++) payload[i] = (char)(' ' + (i * 2654435761u >> 7) % 94);
    double begin = now_s();
    for (int64_t i = 0; i < records; i++) {
        /* A thousand in a row for one partition: batches fill as a keyed load's do. */
        give(client, topic, (int32_t)(i / 1000 % partitions), payload, size);
        if (i % 1000 == 0) rd_kafka_poll(client, 0);
    }
    while (acknowledged + failed < records && now_s() - begin < DEADLINE_S) rd_kafka_poll(client, 50);
    double took = now_s() - begin;
    printf("{\"records\": %lld, \"failed\": %lld, \"seconds\": %.3f, \"mb_per_s\": %.1f, \"records_per_s\": %.0f}\n",
           (long long)acknowledged, (long long)failed, took, acknowledged * (double)size / took / 1e6, acknowledged / took);
    return acknowledged == records ? 0 : 1;
}

static rd_kafka_t *consumer(const char *bootstrap, const char *name, int64_t from) {
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    set(conf, "bootstrap.servers", bootstrap);
    set(conf, "group.id", "load");
    set(conf, "enable.auto.commit", "false");
    set(conf, "queued.min.messages", "1000000");
    set(conf, "queued.max.messages.kbytes", "262144");
    rd_kafka_t *client = create(RD_KAFKA_CONSUMER, conf);
    rd_kafka_poll_set_consumer(client);
    rd_kafka_topic_t *topic = rd_kafka_topic_new(client, name, NULL);
    int partitions = partitions_of(client, topic);
    rd_kafka_topic_partition_list_t *all = rd_kafka_topic_partition_list_new(partitions);
    for (int p = 0; p < partitions; p++) rd_kafka_topic_partition_list_add(all, name, p)->offset = from;
    rd_kafka_assign(client, all);
    rd_kafka_topic_partition_list_destroy(all);
    return client;
}

static int run_consume(const char *bootstrap, const char *name, int64_t records) {
    double begin = now_s(), first = 0;
    rd_kafka_t *client = consumer(bootstrap, name, RD_KAFKA_OFFSET_BEGINNING);
    rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(client);
    enum { BATCH = 4096 };
    static rd_kafka_message_t *messages[BATCH];
    int64_t seen = 0, bytes = 0;
    while (seen < records && now_s() - begin < DEADLINE_S) {
        ssize_t count = rd_kafka_consume_batch_queue(queue, 100, messages, BATCH);
        for (ssize_t i = 0; i < count; i++) {
            if (!messages[i]->err) {
                if (!first) first = now_s();
                seen++;
                bytes += (int64_t)messages[i]->len;
            }
            rd_kafka_message_destroy(messages[i]);
        }
    }
    double took = now_s() - (first ? first : begin);
    printf("{\"records\": %lld, \"failed\": 0, \"seconds\": %.3f, \"mb_per_s\": %.1f, \"records_per_s\": %.0f}\n",
           (long long)seen, took, bytes / took / 1e6, seen / took);
    return seen >= records ? 0 : 1;
}

struct paced {
    rd_kafka_t *client;
    rd_kafka_topic_t *topic;
    int64_t records;
    size_t size;
    double rate;
};

static void *run_paced(void *argument) {
    struct paced *job = argument;
    char *payload = calloc(1, job->size);
    double begin = now_s();
    for (int64_t i = 0; i < job->records;) {
        double now = now_s();
        int64_t due = (int64_t)((now - begin) * job->rate);
        if (due > job->records) due = job->records;
        for (; i < due; i++) {
            double at = now_s();
            memcpy(payload, &at, sizeof at);
            give(job->client, job->topic, RD_KAFKA_PARTITION_UA, payload, job->size);
        }
        rd_kafka_poll(job->client, 0);
        struct timespec nap = {0, 200000};
        nanosleep(&nap, NULL);
    }
    rd_kafka_flush(job->client, 10000);
    return NULL;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int run_latency(const char *bootstrap, const char *name, int64_t records, size_t size, double rate) {
    if (size < sizeof(double)) size = sizeof(double);
    rd_kafka_t *sink = consumer(bootstrap, name, RD_KAFKA_OFFSET_END);
    /* The consumer stands at the end before the first record leaves. */
    double wait = now_s();
    while (now_s() - wait < 2) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(sink, 100);
        if (message) rd_kafka_message_destroy(message);
    }
    rd_kafka_t *source = producer(bootstrap, "all", "0");
    struct paced job = {source, rd_kafka_topic_new(source, name, NULL), records, size, rate};
    pthread_t thread;
    double *took = malloc(sizeof(double) * (size_t)records);
    int64_t seen = 0;
    double begin = now_s();
    pthread_create(&thread, NULL, run_paced, &job);
    while (seen < records && now_s() - begin < DEADLINE_S) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(sink, 100);
        if (!message) continue;
        if (!message->err && message->len >= sizeof(double)) {
            double at;
            memcpy(&at, message->payload, sizeof at);
            took[seen++] = now_s() - at;
        }
        rd_kafka_message_destroy(message);
    }
    pthread_join(thread, NULL);
    /* The first second warms both sides up. */
    int64_t warm = (int64_t)rate < seen / 4 ? (int64_t)rate : seen / 4;
    int64_t counted = seen - warm;
    qsort(took + warm, (size_t)counted, sizeof(double), ascending);
#define AT(q) (counted ? took[warm + (int64_t)((counted - 1) * (q))] * 1e3 : 0)
    printf("{\"records\": %lld, \"failed\": %lld, \"p50_ms\": %.3f, \"p95_ms\": %.3f, \"p99_ms\": %.3f, \"p999_ms\": %.3f}\n",
           (long long)seen, (long long)failed, AT(0.5), AT(0.95), AT(0.99), AT(0.999));
    return seen == records ? 0 : 1;
}

static int run_first(const char *bootstrap, const char *name) {
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    set(conf, "bootstrap.servers", bootstrap);
    set(conf, "acks", "all");
    set(conf, "linger.ms", "0");
    set(conf, "reconnect.backoff.ms", "1");
    set(conf, "reconnect.backoff.max.ms", "5");
    set(conf, "topic.metadata.refresh.fast.interval.ms", "10");
    set(conf, "retry.backoff.ms", "1");
    set(conf, "log_level", "0");
    rd_kafka_conf_set_dr_msg_cb(conf, delivered);
    rd_kafka_t *client = create(RD_KAFKA_PRODUCER, conf);
    rd_kafka_topic_t *topic = rd_kafka_topic_new(client, name, NULL);
    double begin = now_s();
    give(client, topic, RD_KAFKA_PARTITION_UA, "first", 5);
    while (!acknowledged && !failed && now_s() - begin < DEADLINE_S) rd_kafka_poll(client, 1);
    printf("{\"records\": %lld, \"failed\": %lld, \"seconds\": %.4f}\n", (long long)acknowledged, (long long)failed,
           now_s() - begin);
    return acknowledged == 1 ? 0 : 1;
}

static struct {
    double *took;
    int64_t room;
    FILE *file;
} acks;

static void row_delivered(rd_kafka_t *client, const rd_kafka_message_t *message, void *opaque) {
    delivered(client, message, opaque);
    if (message->err) return;
    int64_t at = acknowledged - 1;
    if (at < acks.room) acks.took[at] = (double)rd_kafka_message_latency(message) / 1e6;
    if (at % 1000 == 0) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        fprintf(acks.file, "%d %lld %lld.%06ld\n", message->partition, (long long)message->offset, (long long)t.tv_sec,
                t.tv_nsec / 1000);
    }
}

struct lines {
    char **lines;
    size_t *sizes;
    size_t count;
};

static struct lines lines_of(const char *path) {
    struct lines read = {NULL, NULL, 0};
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t room = 0;
    ssize_t size;
    while (file && (size = getline(&line, &room, file)) > 1) {
        read.lines = realloc(read.lines, (read.count + 1) * sizeof *read.lines);
        read.sizes = realloc(read.sizes, (read.count + 1) * sizeof *read.sizes);
        read.lines[read.count] = line;
        read.sizes[read.count++] = (size_t)size - 1;
        line = NULL;
        room = 0;
    }
    if (!read.count) {
        fprintf(stderr, "%s: no lines\n", path);
        exit(2);
    }
    fclose(file);
    return read;
}

static int run_rows(const char *bootstrap, const char *name, const char *path, double rate, double seconds,
                    const char *acks_path) {
    struct lines rows = lines_of(path);
    size_t bytes_of_all = 0;
    for (size_t i = 0; i < rows.count; i++) bytes_of_all += rows.sizes[i];
    acks.room = (int64_t)(rate * seconds / ((double)bytes_of_all / (double)rows.count) * 1.1) + 1000;
    acks.took = malloc(sizeof(double) * (size_t)acks.room);
    acks.file = fopen(acks_path, "w");
    if (!acks.file) {
        fprintf(stderr, "%s cannot be written\n", acks_path);
        return 2;
    }
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    set(conf, "bootstrap.servers", bootstrap);
    set(conf, "acks", "all");
    set(conf, "linger.ms", "5");
    rd_kafka_conf_set_dr_msg_cb(conf, row_delivered);
    rd_kafka_t *client = create(RD_KAFKA_PRODUCER, conf);
    rd_kafka_topic_t *topic = rd_kafka_topic_new(client, name, NULL);
    partitions_of(client, topic);
    double begin = now_s(), now, sent = 0;
    int64_t i = 0;
    while ((now = now_s()) - begin < seconds) {
        for (double due = (now - begin) * rate; sent < due; i++) {
            size_t at = (size_t)i % rows.count;
            give(client, topic, RD_KAFKA_PARTITION_UA, rows.lines[at], rows.sizes[at]);
            sent += (double)rows.sizes[at];
        }
        rd_kafka_poll(client, 1);
    }
    rd_kafka_flush(client, 60000);
    double took = now_s() - begin;
    fclose(acks.file);
    /* The first second warms both sides up. */
    int64_t counted = acknowledged < acks.room ? acknowledged : acks.room, warm = (int64_t)((double)counted / took);
    counted -= warm;
    qsort(acks.took + warm, (size_t)counted, sizeof(double), ascending);
#define ACKED(q) (counted ? acks.took[warm + (int64_t)((double)(counted - 1) * (q))] * 1e3 : 0)
    printf("{\"records\": %lld, \"failed\": %lld, \"bytes\": %.0f, \"mb_per_s\": %.2f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, "
           "\"p999_ms\": %.3f}\n", (long long)acknowledged, (long long)failed, sent, sent / took / 1e6, ACKED(0.5), ACKED(0.99),
           ACKED(0.999));
    return acknowledged == i ? 0 : 1;
}

int main(int count, char **arguments) {
    if (count == 7 && !strcmp(arguments[1], "produce"))
        return run_produce(arguments[2], arguments[3], atoll(arguments[4]), (size_t)atoll(arguments[5]), arguments[6]);
    if (count == 5 && !strcmp(arguments[1], "consume")) return run_consume(arguments[2], arguments[3], atoll(arguments[4]));
    if (count == 7 && !strcmp(arguments[1], "latency"))
        return run_latency(arguments[2], arguments[3], atoll(arguments[4]), (size_t)atoll(arguments[5]), atof(arguments[6]));
    if (count == 4 && !strcmp(arguments[1], "first")) return run_first(arguments[2], arguments[3]);
    if (count == 8 && !strcmp(arguments[1], "rows"))
        return run_rows(arguments[2], arguments[3], arguments[4], atof(arguments[5]) * 1e6, atof(arguments[6]), arguments[7]);
    fprintf(stderr, "usage: load produce|consume|latency|first|rows BOOTSTRAP TOPIC ...\n");
    return 2;
}
