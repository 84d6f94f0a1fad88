//! Clients that ask who leads right after a leader died: they are answered when another one leads, a moment later. Told of the
//! dead one they would try it, and ask again after a pause of their own that is longer than the election and grows.

use std::time::Duration;

use ottla_raft::{BrokerId, Image};
use tokio::time::Instant;

use super::RequestContext;

/// A doubt that is not cleared up by then ends by itself.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// A leader that was doubted without reason answers, which changes no metadata.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Waits while `asks_for` says of a leader that may have died that the answer would name it; and until the answer can leave, for
/// one that waits behind a produce which waits for replicas is of yesterday when it leaves.
pub async fn await_them(cx: &RequestContext, asks_for: impl Fn(&Image, BrokerId) -> bool) {
    cx.turn.come().await;
    let metadata = &cx.broker.metadata;
    let deadline = Instant::now() + WAIT_MAX;
    let mut changes = metadata.changes();
    loop {
        let image = metadata.image();
        let mut doubted = image.brokers.keys().copied().filter(|id| metadata.is_doubted(*id));
        if !doubted.any(|id| asks_for(&image, id)) || Instant::now() >= deadline {
            return;
        }
        let _ = tokio::time::timeout(LOOK_AGAIN, changes.changed()).await;
    }
}
