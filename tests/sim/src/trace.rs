//! What happened, as lines: to standard error for a person, or into one number to compare two runs by.

use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Everything that the network carries and our own code logs. openraft tells real times; what it decides, the network shows.
const EVERYTHING: &str = "debug,turmoil=trace,openraft=off";

/// Simulated time.
struct SimulatedTime;

impl FormatTime for SimulatedTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        match turmoil::sim_elapsed() {
            Some(elapsed) => write!(writer, "{:>10.6}", elapsed.as_secs_f64()),
            None => write!(writer, "         -"),
        }
    }
}

/// The lines' digest and number.
#[derive(Clone, Default)]
pub struct Digest {
    state: Arc<Mutex<(DefaultHasher, u64)>>,
}

impl Digest {
    pub fn result(&self) -> String {
        let state = self.state.lock();
        format!("{:016x} of {} writes", state.0.finish(), state.1)
    }
}

impl Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.state.lock();
        state.0.write(bytes);
        state.1 += 1;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Digest {
    type Writer = Digest;

    fn make_writer(&'a self) -> Digest {
        self.clone()
    }
}

fn with<W>(filter: &str, writer: W) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_timer(SimulatedTime)
        .with_ansi(false)
        .with_thread_ids(false)
        .with_writer(writer)
        .finish()
}

/// Runs `work` and tells on standard error what happens; `OTTLA_LOG` says how much.
pub fn logged<T>(work: impl FnOnce() -> T) -> T {
    let filter = std::env::var("OTTLA_LOG").unwrap_or_else(|_| "info,openraft=error,turmoil=warn".to_owned());
    tracing::subscriber::with_default(with(&filter, io::stderr), work)
}

/// Runs `work`, and makes one number of everything that happens.
pub fn digested<T>(work: impl FnOnce() -> T) -> (T, String) {
    let digest = Digest::default();
    let result = tracing::subscriber::with_default(with(EVERYTHING, digest.clone()), work);
    (result, digest.result())
}
