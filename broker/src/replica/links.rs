//! How a follower reaches its leaders: Fetch, and ListOffsets where a log begins anew, over a connection of the client crate, to the leader's inter-broker listener.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kafka_protocol::messages::{FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse};
use ottla_clients::connection::Connection;
use ottla_clients::error::ClientError;

/// The Fetch version that followers speak: topic ids, broker epochs, directories, no longer the topics' names.
pub const FETCH_VERSION: i16 = 18;
/// With the earliest local offset.
pub const LIST_OFFSETS_VERSION: i16 = 9;
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// An answer under way.
pub type Answer = BoxFuture<'static, Result<FetchResponse, ClientError>>;

/// The way to one leader.
pub trait LeaderLink: Send + Sync {
    /// When this resolves, the request has its place in the order of requests; what it resolves to brings the answer.
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<Answer, ClientError>>;

    /// Answered after the fetches that were made before.
    fn list_offsets(
        &self,
        request: ListOffsetsRequest,
    ) -> BoxFuture<'_, Result<ListOffsetsResponse, ClientError>>;
}

/// The ways to all leaders; another one than sockets in tests.
pub trait LeaderLinks: Send + Sync {
    fn connect(&self, address: String) -> BoxFuture<'_, Result<Arc<dyn LeaderLink>, ClientError>>;
}

/// Over sockets.
pub struct Sockets {
    pub client_id: String,
    /// `replica.socket.timeout.ms`, with the time that the leader may wait for records.
    pub timeout: Duration,
}

impl LeaderLinks for Sockets {
    fn connect(&self, address: String) -> BoxFuture<'_, Result<Arc<dyn LeaderLink>, ClientError>> {
        async move {
            let connection = Connection::open(&address, &self.client_id, CONNECT_MAX, self.timeout).await?;
            Ok(Arc::new(connection) as Arc<dyn LeaderLink>)
        }
        .boxed()
    }
}

impl LeaderLink for Connection {
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<Answer, ClientError>> {
        async move {
            let pending = self.submit_in_version(&request, FETCH_VERSION).await?;
            Ok(pending.wait().boxed())
        }
        .boxed()
    }

    fn list_offsets(
        &self,
        request: ListOffsetsRequest,
    ) -> BoxFuture<'_, Result<ListOffsetsResponse, ClientError>> {
        async move { self.submit_in_version(&request, LIST_OFFSETS_VERSION).await?.wait().await }.boxed()
    }
}
