//! kill -9 in the middle of writing, over and over on the same stores: nothing that was acknowledged may be missing.
//! A killed process loses nothing that the kernel has, so this is about the order of writes and about recovery; the
//! power cuts of `tests/crash/power_cut.sh` are about syncs. Both drive `examples/crash_writer.rs`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const LOG_KILLS: u64 = 100;
/// A node takes longer to start, and each start bumps the epochs of all that it leads.
const NODE_KILLS: u64 = 30;

fn writer() -> PathBuf {
    // Cargo builds examples together with tests, but tells tests only where binaries are.
    let test = std::env::current_exe().unwrap();
    let writer = test.parent().and_then(Path::parent).unwrap().join("examples/crash_writer");
    assert!(writer.exists(), "{} is not built", writer.display());
    writer
}

/// Returns early if the writer ended, which its caller notices.
fn wait_for_promise(file: &Path, writer: &mut Child) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while std::fs::metadata(file).unwrap().len() == 0 && writer.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the writer has acknowledged nothing in 30 seconds");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn run(kind: &str, kills: u64) {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store");
    let mut random = StdRng::seed_from_u64(7);
    let mut printed = Vec::new();
    for kill in 0..kills {
        let promises = directory.path().join(format!("promises-{kill:05}"));
        let mut process = Command::new(writer())
            .arg(kind)
            .arg(&store)
            .arg(kill.to_string())
            .stdout(File::create(&promises).unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Some kills hit the opening of the store, most the writing.
        if kill % 5 != 0 {
            wait_for_promise(&promises, &mut process);
        }
        // Not a wait for a condition: the moment of the kill is what is random here.
        std::thread::sleep(Duration::from_millis(random.random_range(0..60)));
        if process.try_wait().unwrap().is_some() {
            let output = process.wait_with_output().unwrap();
            panic!("kill {kill}: the writer ended by itself: {}", String::from_utf8_lossy(&output.stderr));
        }
        process.kill().unwrap();
        process.wait().unwrap();
        printed.push(promises);
        if kill % 10 == 9 || kill + 1 == kills {
            let check = Command::new(writer())
                .arg(format!("check-{kind}"))
                .arg(&store)
                .args(&printed)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&check.stdout);
            assert!(check.status.success(), "kill {kill}: {said}{}", String::from_utf8_lossy(&check.stderr));
        }
    }
    let promises: usize =
        printed.iter().map(|file| std::fs::read_to_string(file).unwrap().lines().count()).sum();
    assert!(promises > kills as usize, "the writers were killed before they wrote: {promises} promises");
}

#[test]
fn the_log_survives_kills() {
    run("log", LOG_KILLS);
}

#[test]
fn a_node_survives_kills() {
    run("node", NODE_KILLS);
}
