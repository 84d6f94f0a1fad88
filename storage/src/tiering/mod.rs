//! Committed segments in an object store.
//!
//! - [`store`]: what is asked of an object store, whichever it is.
//! - [`directory`]: the embedded one, a local directory with the layout of a bucket.
//! - [`object`]: the object that holds one segment, and how a reader finds its way in it.
//! - [`key`]: the names of these objects.
//!
//! Nothing here decides what is uploaded or deleted, and nothing makes threads: what blocks is handed to the caller's
//! [`directory::Beside`].

pub mod directory;
pub mod key;
pub mod object;
pub mod store;

#[cfg(test)]
mod tests;
