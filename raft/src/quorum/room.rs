//! Room on the disk of the metadata log: asked for before openraft is given anything to write, since a write that fails
//! halfway stops the node, and a start would be impossible before somebody made room.
//!
//! Each kind of write leaves to the next one what that needs: changes that grow the metadata leave room to those that keep
//! brokers alive or free space, these to what a leader sends, and that to votes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::store::{self, Store};

/// sled fills a segment of half a mebibyte before it begins the next.
const ROOM_FOR_VOTES: u64 = 512 << 10;
const ROOM_FOR_ENTRIES: u64 = 1 << 20;
const ROOM_FOR_UPKEEP: u64 = 3 << 19;
const ROOM_FOR_GROWTH: u64 = 8 << 20;
/// What sled writes for a byte of an entry, at most.
const BYTES_PER_BYTE: u64 = 2;

pub struct Room {
    store: Arc<dyn Store>,
    /// What the disk had no room for the last time; each is said once.
    growth: Shortage,
    entries: Shortage,
    votes: Shortage,
    snapshots: Shortage,
}

impl Room {
    pub fn new(store: Arc<dyn Store>) -> Arc<Room> {
        Arc::new(Room {
            store,
            growth: Shortage::new("changes of the metadata are refused"),
            entries: Shortage::new("this node does not follow the metadata log"),
            votes: Shortage::new("this node neither votes nor stands for election"),
            snapshots: Shortage::new("this node takes no snapshot of the metadata"),
        })
    }

    /// For any change that is decided here.
    pub async fn for_growth(&self) -> io::Result<()> {
        self.growth.note(self.reserve(ROOM_FOR_GROWTH).await)
    }

    /// For a change that keeps brokers alive or frees space.
    pub async fn for_upkeep(&self) -> io::Result<()> {
        self.reserve(ROOM_FOR_UPKEEP).await
    }

    /// For entries of so many bytes that the leader decided on.
    pub async fn for_entries(&self, bytes: u64) -> io::Result<()> {
        let bytes = bytes.saturating_mul(BYTES_PER_BYTE);
        // While there is plenty, so much is set aside that a disk that others fill stops this node late.
        let reserved = match self.reserve(bytes.saturating_add(ROOM_FOR_GROWTH)).await {
            Ok(()) => Ok(()),
            Err(_) => self.reserve(bytes.saturating_add(ROOM_FOR_ENTRIES)).await,
        };
        self.entries.note(reserved)
    }

    /// For a vote, this node's own or for another.
    pub async fn for_vote(&self) -> io::Result<()> {
        self.votes.note(self.reserve(ROOM_FOR_VOTES).await)
    }

    /// For the leader's snapshot in its file, and what the log has to write about it.
    pub async fn for_snapshot(&self, bytes: u64) -> io::Result<()> {
        let reserved = store::beside(&self.store, move |store| {
            store.reserve(ROOM_FOR_VOTES)?;
            store.reserve_snapshot(bytes)
        });
        self.snapshots.note(reserved.await)
    }

    async fn reserve(&self, bytes: u64) -> io::Result<()> {
        store::beside(&self.store, move |store| store.reserve(bytes)).await
    }
}

/// Whether something was refused for want of room.
struct Shortage {
    consequence: &'static str,
    lasts: AtomicBool,
}

impl Shortage {
    fn new(consequence: &'static str) -> Shortage {
        Shortage { consequence, lasts: AtomicBool::new(false) }
    }

    fn note(&self, reserved: io::Result<()>) -> io::Result<()> {
        match &reserved {
            Ok(()) if self.lasts.swap(false, Ordering::Relaxed) => {
                tracing::info!("the disk of the metadata log has room again");
            }
            Err(error) if !self.lasts.swap(true, Ordering::Relaxed) => {
                let consequence = self.consequence;
                tracing::error!(%error, "the disk of the metadata log is full: {consequence} until there is room");
            }
            Ok(()) | Err(_) => {}
        }
        reserved
    }
}
