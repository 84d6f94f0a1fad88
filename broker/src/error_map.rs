//! The only place where internal errors become Kafka error codes. Every match is exhaustive and has no wildcard arm, so
//! that a new internal error cannot be answered by accident.
