//! Listeners, connections and frames: the only code that knows sockets.
