//! The rules of the house (ARCHITECTURE.md), held by reading the tree: who may import whom, who may touch sockets, files,
//! clocks and random numbers, and where internal errors become Kafka's codes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

/// The Rust files below `under`, with their text up to the first test module.
fn sources(under: &str) -> Vec<(String, String)> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        let mut entries: Vec<_> = std::fs::read_dir(directory)
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
            .map(|entry| entry.expect("a directory entry").path())
            .collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = root();
    let mut paths = Vec::new();
    let start = root.join(under);
    if start.is_file() {
        paths.push(start);
    } else {
        walk(&start, &mut paths);
    }
    assert!(!paths.is_empty(), "no Rust files below {under}");
    paths
        .into_iter()
        .filter(|path| !is_test_file(path))
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
            (path.strip_prefix(&root).expect("below the root").display().to_string(), text[..end].to_owned())
        })
        .collect()
}

fn is_test_file(path: &Path) -> bool {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    name.ends_with("_test")
        || name.ends_with("tests")
        || path.components().any(|part| {
            let part = part.as_os_str().to_string_lossy();
            part.ends_with("tests") || part == "testing"
        })
}

/// Lines of code (not comments) in `files` that contain one of `words`, except in files that start with `allowed`.
fn offences(files: &[(String, String)], words: &[&str], allowed: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files {
        if allowed.iter().any(|allowed| path.starts_with(allowed)) {
            continue;
        }
        for (index, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if let Some(word) = words.iter().find(|word| code.contains(**word)) {
                found.push(format!("{path}:{}: `{word}`: {}", index + 1, line.trim()));
            }
        }
    }
    found
}

fn assert_none(rule: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{rule}\n{}", found.join("\n"));
}

#[test]
fn crates_import_only_what_they_may() {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).expect("JSON");
    let mut ours: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name").to_owned();
        let dependencies = package["dependencies"].as_array().expect("dependencies");
        let names = dependencies.iter().filter_map(|dependency| dependency["name"].as_str());
        ours.insert(name, names.filter(|name| name.starts_with("ottla")).map(str::to_owned).collect());
    }
    let may: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("ottla-batch", &[][..]),
        ("ottla-storage", &["ottla-batch"][..]),
        ("ottla-lake", &["ottla-batch", "ottla-storage"][..]),
        // The lake for its catalog trait only.
        ("ottla-aws", &["ottla-batch", "ottla-storage", "ottla-lake"][..]),
        ("ottla-rest", &["ottla-batch", "ottla-storage", "ottla-lake"][..]),
        // Under openraft in place of the crate of that name.
        ("base2histogram", &[][..]),
        ("ottla-raft", &[][..]),
        ("ottla-clients", &["ottla-batch"][..]),
        (
            "ottla",
            &[
                "ottla-batch",
                "ottla-storage",
                "ottla-lake",
                "ottla-aws",
                "ottla-rest",
                "ottla-raft",
                "ottla-clients",
            ][..],
        ),
    ]);
    for (package, dependencies) in &ours {
        let Some(allowed) = may.get(package.as_str()) else {
            // Benches and tests import anything, and nobody imports them.
            assert!(
                ["ottla-benches", "ottla-sim", "ottla-tests"].contains(&package.as_str()),
                "unknown package {package}"
            );
            continue;
        };
        for dependency in dependencies {
            assert!(allowed.contains(&dependency.as_str()), "{package} must not import {dependency}");
        }
    }
    for package in may.keys() {
        assert!(ours.contains_key(*package), "package {package} is gone");
    }
}

#[test]
fn only_the_socket_doors_and_the_metrics_port_know_sockets() {
    let words =
        ["tokio::net", "TcpStream", "TcpListener", "std::net::Tcp", "rustix::net", "socket2", "turmoil::net"];
    assert_none(
        "Sockets belong to broker/src/net/socket.rs (and the HTTP port to broker/src/metrics).",
        offences(&sources("broker/src"), &words, &["broker/src/net/socket.rs", "broker/src/metrics/http.rs"]),
    );
    // The connection names the types that the door hands it.
    let words = ["tokio::net", "std::net::Tcp", "turmoil::net"];
    assert_none(
        "Sockets belong to clients/src/socket.rs.",
        offences(&sources("clients/src"), &words, &["clients/src/socket.rs"]),
    );
    for place in ["storage", "raft/src"] {
        assert_none(&format!("{place} knows no sockets."), offences(&sources(place), &words, &[]));
    }
    assert_none(
        "Handlers, replicas and groups reach sockets through nobody but broker/src/net.",
        offences(&sources("broker/src"), &["net::socket", "super::socket"], &["broker/src/net/"]),
    );
}

#[test]
fn only_the_clock_doors_read_the_time_of_day() {
    for (place, doors) in [
        ("broker/src", &["broker/src/clock.rs"][..]),
        ("clients/src", &["clients/src/clock.rs"][..]),
        ("raft/src", &[][..]),
        ("storage", &[][..]),
    ] {
        assert_none(
            "The time of day is read behind one door of each crate, which a simulation replaces.",
            offences(&sources(place), &["SystemTime"], doors),
        );
    }
}

#[test]
fn only_the_thread_doors_make_threads() {
    let words = ["std::thread", "thread::spawn", "spawn_blocking", "block_in_place", "Condvar"];
    for (place, doors) in [
        ("broker/src", &["broker/src/threads.rs"][..]),
        // Only on the real store: the one in memory neither blocks nor has a thread.
        (
            "raft/src/quorum",
            &["raft/src/quorum/log_store.rs", "raft/src/quorum/store.rs", "raft/src/quorum/store_sled.rs"][..],
        ),
        ("raft/src/metadata", &[][..]),
        ("storage", &[][..]),
        // The command line reads its input on a thread.
        ("clients/src", &["clients/src/cli/"][..]),
    ] {
        assert_none(
            "A simulated cluster has one thread: work that blocks goes through broker/src/threads.rs.",
            offences(&sources(place), &words, doors),
        );
    }
}

#[test]
fn groups_know_neither_handlers_nor_sockets_nor_transactions() {
    let words = ["crate::api", "crate::net", "crate::transaction", "crate::node", "kafka_protocol::messages"];
    assert_none(
        "broker/src/group knows no handlers, sockets or transactions.",
        offences(&sources("broker/src/group"), &words, &[]),
    );
}

#[test]
fn only_the_disk_door_touches_files() {
    let words = ["std::fs", "fs::File", "OpenOptions", "rustix::fs"];
    assert_none(
        "storage/src/disk is the only door to the file system.",
        offences(&sources("storage"), &words, &["storage/src/disk/"]),
    );
}

#[test]
fn deciding_code_takes_time_and_randomness_as_values() {
    let words = [
        "std::time::Instant",
        "SystemTime",
        "Instant::now",
        "thread::sleep",
        "rand::rng()",
        "rand::random",
        "from_os_rng",
        "from_entropy",
    ];
    for place in ["storage/batch/src", "storage/src/log", "raft/src/metadata", "broker/src/group"] {
        assert_none(
            &format!("{place} decides: the clock and random numbers are handed to it."),
            // The coordinator around the machine is where the clock is read.
            offences(&sources(place), &words, &["broker/src/group/mod.rs"]),
        );
    }
}

#[test]
fn the_error_map_is_exhaustive() {
    for (path, text) in sources("broker/src/error_map.rs") {
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            assert!(
                !line.starts_with("_ =>"),
                "{path}:{}: a wildcard arm would answer new errors by accident",
                index + 1
            );
        }
    }
}

#[test]
fn nothing_is_left_for_later_in_the_code() {
    let marks = ["todo!(", "unimplemented!(", "dbg!(", "FIXME", "XXX", "is not built"];
    for place in ["storage", "raft/src", "broker/src", "clients/src"] {
        assert_none("Nothing half built is on main.", offences(&sources(place), &marks, &[]));
    }
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    let root = root();
    let mut documents = vec![root.clone(), root.join("docs"), root.join("clients/examples")];
    let mut checked = 0;
    while let Some(directory) = documents.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a document");
            for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let target = link.split('#').next().unwrap_or_default();
                if target.is_empty() || target.contains("://") {
                    continue;
                }
                let target = path.parent().expect("a directory").join(target);
                assert!(target.exists(), "{} links to {link}, which is not there", path.display());
                checked += 1;
            }
        }
    }
    assert!(checked > 5, "only {checked} links found");
}
