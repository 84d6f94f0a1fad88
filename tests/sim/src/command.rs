//! The command line: one seed here, or many in processes of their own, so that a panic, a hang or a leak of one is nobody
//! else's.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};

use crate::plan::{Plan, Shape};
use crate::run::{Outcome, simulate};
use crate::{entropy, planted, trace};

/// A seed that takes longer than this, in real time, hangs. It needs some seconds, and on a busy machine they take their time.
const SEED_TIME_MAX: Duration = Duration::from_secs(300);
/// The exit code of one seed that broke a promise.
const VIOLATION: u8 = 1;

/// Simulates clusters that break, and checks that no promise is.
#[derive(Debug, Parser)]
struct Cli {
    /// Run this one seed, in this process
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds to run, each in a process of its own
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1, global = true)]
    from: u64,
    /// How many at a time
    #[arg(long, default_value_t = 2, global = true)]
    jobs: usize,
    /// Only clusters of this shape: one, three, five or apart
    #[arg(long, value_parser = parse_shape, global = true)]
    shape: Option<Shape>,
    /// With --seed: tell what happens (OTTLA_LOG says how much)
    #[arg(long)]
    log: bool,
    /// With --seed: plant the bug of this name
    #[arg(long, value_name = "NAME")]
    bug: Option<String>,
    /// With --seed: print one number for everything that happened
    #[arg(long)]
    digest: bool,
    #[command(subcommand)]
    command: Option<Sub>,
}

#[derive(Debug, Clone, Subcommand)]
enum Sub {
    /// Plant each bug, or the named one, and run seeds until it is caught
    Planted { name: Option<String> },
    /// Run some seeds twice each and compare everything that happened
    Same {
        #[arg(long, default_value_t = 2)]
        seeds: u64,
    },
}

fn parse_shape(text: &str) -> Result<Shape, String> {
    let found = Shape::NAMES.iter().find(|(name, _)| *name == text);
    found.map(|(_, shape)| *shape).ok_or_else(|| "expected one, three, five or apart".to_owned())
}

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match (&cli.command, cli.seed) {
        (Some(Sub::Same { seeds }), _) => same(&cli, *seeds),
        (Some(Sub::Planted { name }), _) => plant(&cli, name.as_deref()),
        (None, Some(seed)) => one(&cli, seed),
        (None, None) => many(&cli),
    }
}

/// One seed, on a thread that has drawn no random bits yet.
fn one(cli: &Cli, seed: u64) -> ExitCode {
    let (shape, log, digest) = (cli.shape, cli.log, cli.digest);
    if let Some(bug) = &cli.bug {
        planted::plant(bug);
    }
    let began = Instant::now();
    let simulated =
        std::thread::Builder::new().name("simulation".to_owned()).stack_size(64 << 20).spawn(move || {
            let plan = Plan::draw(seed, shape);
            entropy::seed(seed);
            match (log, digest) {
                (true, _) => {
                    eprintln!("{plan:#?}");
                    (trace::logged(|| simulate(&plan)), String::new())
                }
                (false, true) => trace::digested(|| simulate(&plan)),
                (false, false) => (simulate(&plan), String::new()),
            }
        });
    let simulated = match simulated {
        Ok(thread) => thread.join(),
        Err(error) => {
            eprintln!("no thread: {error}");
            return ExitCode::FAILURE;
        }
    };
    let Ok((outcome, digest)) = simulated else {
        println!("seed {seed}: panicked");
        return ExitCode::from(VIOLATION);
    };
    tell(seed, &outcome, began.elapsed(), &digest);
    if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(VIOLATION) }
}

fn tell(seed: u64, outcome: &Outcome, took: Duration, digest: &str) {
    for violation in &outcome.violations {
        println!("seed {seed}: VIOLATION at {:?}: {}: {}", violation.at, violation.checker, violation.what);
    }
    for note in &outcome.notes {
        println!("    {note}");
    }
    let Outcome { simulated, events, acked, read, violations, .. } = outcome;
    println!(
        "seed {seed}: {} violations, {:.1} s simulated in {:.2} s, {acked} records acknowledged, {read} read, {events} events {digest}",
        violations.len(),
        simulated.as_secs_f64(),
        took.as_secs_f64(),
    );
}

struct Running {
    seed: u64,
    child: Child,
    began: Instant,
}

/// What a seed's process said, and whether it kept all promises.
fn finished(running: &mut Running) -> Option<(bool, String)> {
    let status = match running.child.try_wait() {
        Ok(Some(status)) => Some(status),
        Ok(None) if running.began.elapsed() > SEED_TIME_MAX => {
            // It is killed below, and told as what it is.
            let _ = running.child.kill();
            let _ = running.child.wait();
            None
        }
        Ok(None) => return None,
        Err(error) => return Some((false, format!("seed {}: {error}", running.seed))),
    };
    let mut text = String::new();
    if let Some(mut output) = running.child.stdout.take() {
        let _ = output.read_to_string(&mut text);
    }
    let text = text.trim_end().to_owned();
    match status {
        None => Some((false, format!("{text}\nseed {}: hangs ({SEED_TIME_MAX:?})", running.seed))),
        Some(status) if status.success() => Some((true, text)),
        Some(status) => Some((false, format!("{text}\nseed {}: {status}", running.seed))),
    }
}

fn spawn(seed: u64, shape: Option<Shape>, more: &[&str]) -> std::io::Result<Running> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--seed").arg(seed.to_string()).args(more).stdout(Stdio::piped()).stderr(Stdio::null());
    if let Some((name, _)) = shape.and_then(|shape| Shape::NAMES.iter().find(|(_, other)| *other == shape)) {
        command.arg("--shape").arg(name);
    }
    Ok(Running { seed, child: command.spawn()?, began: Instant::now() })
}

/// Runs seeds; hands each one's outcome to `each` as it ends, until that says stop.
fn run_seeds(
    cli: &Cli,
    seeds: impl Iterator<Item = u64>,
    more: &[&str],
    mut each: impl FnMut(u64, bool, String) -> bool,
) -> std::io::Result<()> {
    let mut seeds = seeds.fuse();
    let mut running: Vec<Running> = Vec::new();
    let mut go_on = true;
    loop {
        while go_on && running.len() < cli.jobs.max(1) {
            match seeds.next() {
                Some(seed) => running.push(spawn(seed, cli.shape, more)?),
                None => go_on = false,
            }
        }
        if running.is_empty() {
            return Ok(());
        }
        let mut left = Vec::new();
        for mut seed in running {
            match finished(&mut seed) {
                None => left.push(seed),
                Some((kept, text)) => go_on &= each(seed.seed, kept, text),
            }
        }
        running = left;
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn many(cli: &Cli) -> ExitCode {
    let began = Instant::now();
    let mut broken = Vec::new();
    let outcome = run_seeds(cli, cli.from..cli.from + cli.seeds, &[], |seed, kept, text| {
        println!("{text}");
        if !kept {
            broken.push(seed);
            println!("    again: {}", again("--seed", seed, cli.shape, " --log"));
        }
        true
    });
    if let Err(error) = outcome {
        eprintln!("cannot run seeds: {error}");
        return ExitCode::FAILURE;
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "{} seeds in {took:.1} s ({:.2} s each, {} at a time), {} broken: {broken:?}",
        cli.seeds,
        took / cli.seeds.max(1) as f64,
        cli.jobs,
        broken.len()
    );
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(VIOLATION) }
}

/// One command that does it again, from wherever in the repository.
fn again(what: &str, seed: u64, shape: Option<Shape>, more: &str) -> String {
    let shape = shape.and_then(|shape| Shape::NAMES.iter().find(|(_, other)| *other == shape));
    let shape = shape.map_or(String::new(), |(name, _)| format!(" --shape {name}"));
    format!(
        "(cd \"$(git rev-parse --show-toplevel)/tests/sim\" && cargo run --profile sim -- {what} {seed}{shape}{more})"
    )
}

/// The last words of a line: the number of everything that happened.
fn digest_of(text: &str) -> Option<&str> {
    text.lines().last().and_then(|line| line.split_once(" events ")).map(|(_, digest)| digest)
}

fn same(cli: &Cli, seeds: u64) -> ExitCode {
    let mut failed = false;
    let twice = (cli.from..cli.from + seeds).flat_map(|seed| [seed, seed]);
    let mut first: BTreeMap<u64, String> = BTreeMap::new();
    let ran = run_seeds(cli, twice, &["--digest"], |seed, _, text| {
        let digest = digest_of(&text).unwrap_or(&text).to_owned();
        match first.remove(&seed) {
            None => drop(first.insert(seed, digest)),
            Some(other) if other == digest && digest.contains(" of ") => {
                println!("seed {seed}: the same twice, {digest}");
            }
            Some(other) => {
                println!("seed {seed}: NOT THE SAME: {other:?} and {digest:?}");
                println!("    again: {}", again("same --seeds 1 --from", seed, cli.shape, ""));
                failed = true;
            }
        }
        true
    });
    if let Err(error) = ran {
        eprintln!("cannot run seeds: {error}");
        return ExitCode::FAILURE;
    }
    if failed { ExitCode::from(VIOLATION) } else { ExitCode::SUCCESS }
}

/// Whether a seed keeps all promises without any bug planted.
fn is_clean(cli: &Cli, seed: u64) -> bool {
    let mut is_clean = false;
    let ran = run_seeds(cli, std::iter::once(seed), &[], |_, kept, _| {
        is_clean = kept;
        true
    });
    ran.is_ok() && is_clean
}

/// Runs seeds with a bug planted until one of them catches it.
fn plant(cli: &Cli, name: Option<&str>) -> ExitCode {
    let bugs: Vec<_> = planted::BUGS.iter().filter(|bug| name.is_none_or(|name| name == bug.name)).collect();
    if bugs.is_empty() {
        eprintln!("no such bug; there are: {}", planted::BUGS.map(|bug| bug.name).join(", "));
        return ExitCode::FAILURE;
    }
    let mut missed = Vec::new();
    for bug in bugs {
        let cli = Cli { shape: cli.shape.or(bug.shape), jobs: cli.jobs, ..Cli::parse_from([""]) };
        println!("{}: at most {} seeds", bug.name, bug.seeds_max);
        let began = Instant::now();
        let mut ran = 0;
        let mut caught: Option<(u64, String)> = None;
        let seeds = run_seeds(&cli, 1..=bug.seeds_max, &["--bug", bug.name], |seed, kept, text| {
            ran += 1;
            // Of those that run at a time the lowest counts, so that the answer is the same each time. What breaks without the
            // bug too has not caught it.
            if !kept && caught.as_ref().is_none_or(|(other, _)| seed < *other) && is_clean(&cli, seed) {
                caught = Some((seed, text));
            }
            caught.is_none()
        });
        if let Err(error) = seeds {
            eprintln!("cannot run seeds: {error}");
            return ExitCode::FAILURE;
        }
        let took = began.elapsed().as_secs_f64();
        match caught {
            Some((seed, text)) => {
                let first = text.lines().next().unwrap_or_default();
                let first: String = first.chars().take(200).collect();
                println!("{}: caught in {took:.0} s: {first}", bug.name);
                let name = format!(" --bug {}", bug.name);
                println!("    again: {}", again("--seed", seed, cli.shape, &name));
            }
            None => {
                println!("{}: NOT CAUGHT in {ran} seeds, {took:.0} s", bug.name);
                missed.push(bug.name);
            }
        }
    }
    println!("{} missed: {missed:?}", missed.len());
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(VIOLATION) }
}
