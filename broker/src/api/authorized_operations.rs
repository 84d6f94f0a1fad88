//! What a client may do with a resource, as the bits that describe requests answer: bit n stands for Kafka's AclOperation n.
//! Without an authorizer everybody may do everything that exists for the kind of resource.

/// What Kafka answers when it was not asked.
pub const NOT_ASKED: i32 = i32::MIN;

const READ: i32 = 1 << 3;
const WRITE: i32 = 1 << 4;
const CREATE: i32 = 1 << 5;
const DELETE: i32 = 1 << 6;
const ALTER: i32 = 1 << 7;
const DESCRIBE: i32 = 1 << 8;
const CLUSTER_ACTION: i32 = 1 << 9;
const DESCRIBE_CONFIGS: i32 = 1 << 10;
const ALTER_CONFIGS: i32 = 1 << 11;
const IDEMPOTENT_WRITE: i32 = 1 << 12;

const TOPIC: i32 = READ | WRITE | CREATE | DELETE | ALTER | DESCRIBE | DESCRIBE_CONFIGS | ALTER_CONFIGS;
const CLUSTER: i32 =
    CREATE | ALTER | DESCRIBE | CLUSTER_ACTION | DESCRIBE_CONFIGS | ALTER_CONFIGS | IDEMPOTENT_WRITE;

pub fn of_topic(asked: bool) -> i32 {
    if asked { TOPIC } else { NOT_ASKED }
}

pub fn of_cluster(asked: bool) -> i32 {
    if asked { CLUSTER } else { NOT_ASKED }
}
