//! One simulation, from the first node's start to the checkers' last word.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

use ottla_storage::disk::SimulatedDisk;
use turmoil::Sim;

use crate::cluster::{Death, Machine, host_name};
use crate::faults::Fault;
use crate::plan::{FORM_MAX, Plan};
use crate::probe::{self, Probe};
use crate::workload::{commits, finish, group, moves, producer, reader, topics};
use crate::world::{Violation, World};

/// Saturday, the first of August 2026.
const EPOCH_SECONDS: u64 = 1_785_542_400;
/// Segments that a connection holds before its sender waits.
const TCP_CAPACITY: usize = 256;
/// When a simulation that does not come to its end is given up, after everything healed.
const FINISH_MAX: Duration = Duration::from_secs(90);
/// How often the nodes are looked at.
const PROBE_EVERY: Duration = Duration::from_millis(20);
const PROBE_REPLICAS_EVERY: Duration = Duration::from_secs(4);
/// A node that stopped itself is started again after this.
const REPAIR_AFTER: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub struct Outcome {
    pub violations: Vec<Violation>,
    /// The cluster when the first of them was seen.
    pub notes: Vec<String>,
    pub simulated: Duration,
    pub events: u64,
    pub acked: u64,
    pub read: u64,
}

/// Where the clients are.
#[derive(Default)]
struct Phase {
    set_up: Cell<bool>,
    healed: Cell<bool>,
    finished: Cell<bool>,
}

async fn until(flag: impl Fn() -> bool) {
    while !flag() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn simulate(plan: &Plan) -> Outcome {
    let mut sim = turmoil::Builder::new()
        .epoch(UNIX_EPOCH + Duration::from_secs(EPOCH_SECONDS))
        .simulation_duration(Duration::from_secs(3_600))
        .tick_duration(plan.tick)
        .min_message_latency(Duration::from_micros(100))
        .max_message_latency(plan.latency_max)
        .tcp_capacity(TCP_CAPACITY)
        .enable_random_order()
        .rng_seed(plan.seed)
        .build();
    let world = World::new(plan.layout.bootstrap());
    let phase = Rc::new(Phase::default());
    let machines = start_machines(&mut sim, plan);
    start_clients(&mut sim, plan, &world, &phase);
    let mut harness = Harness {
        plan,
        world: world.clone(),
        machines,
        set_up_at: Duration::ZERO,
        next_fault: 0,
        healing: Vec::new(),
    };
    harness.drive(&mut sim, &phase);
    world.finish();
    Outcome {
        violations: world.violations(),
        notes: world.notes(),
        simulated: sim.elapsed(),
        events: world.events(),
        acked: world.acked.get(),
        read: world.read.get(),
    }
}

fn start_machines(sim: &mut Sim<'_>, plan: &Plan) -> Vec<Rc<Machine>> {
    let mut machines = Vec::new();
    let tier = SimulatedDisk::new();
    for (index, (id, roles)) in plan.layout.nodes.iter().enumerate() {
        let peers = plan.layout.nodes.iter().filter(|(other, _)| other != id);
        let peers = peers.map(|(other, _)| host_name(*other)).collect();
        let machine = Rc::new(Machine::new(*id, *roles, &plan.layout, peers, &tier));
        let (min, max) = plan.sync_time;
        machine.set_sync_time(min, max, plan.seed ^ index as u64);
        let process = machine.clone();
        sim.host(host_name(*id), move || process.clone().run());
        machines.push(machine);
    }
    machines
}

fn start_clients(sim: &mut Sim<'_>, plan: &Plan, world: &Rc<World>, phase: &Rc<Phase>) {
    {
        let (world, phase, work) = (world.clone(), phase.clone(), plan.topics.clone());
        sim.client("setup", async move {
            topics::create_work_topics(&world, &work).await;
            phase.set_up.set(true);
            Ok(())
        });
    }
    let mut clients: Vec<(String, std::pin::Pin<Box<dyn Future<Output = ()>>>)> = Vec::new();
    for spec in &plan.producers {
        clients.push((
            format!("producer-{}", spec.number),
            Box::pin(producer::run(world.clone(), spec.clone())),
        ));
    }
    for number in 0..plan.readers {
        let work = reader::run(world.clone(), number, plan.topics.clone());
        clients.push((format!("reader-{number}"), Box::pin(work)));
    }
    for spec in &plan.groups {
        let name = format!("{}-{}", spec.group, spec.number);
        clients.push((name, Box::pin(group::run(world.clone(), spec.clone()))));
    }
    if let Some(first) = plan.groups.first() {
        let work = commits::run(world.clone(), first.group.clone(), plan.topics.clone());
        clients.push(("commits".to_owned(), Box::pin(work)));
    }
    let replication_factor = plan.topics.first().map_or(1, |topic| topic.replication_factor);
    for (number, seed) in plan.churn.iter().enumerate() {
        let work = topics::run(world.clone(), number as u32, replication_factor, *seed);
        clients.push((format!("churn-{number}"), Box::pin(work)));
    }
    if let Some(spec) = &plan.moves {
        let work = moves::run(world.clone(), spec.clone());
        clients.push(("moves".to_owned(), Box::pin(work)));
    }
    world.clients.set(clients.len());
    for (name, work) in clients {
        let (world, phase) = (world.clone(), phase.clone());
        sim.client(name, async move {
            until(|| phase.set_up.get()).await;
            work.await;
            world.clients.set(world.clients.get() - 1);
            Ok(())
        });
    }
    let (world, phase, work) = (world.clone(), phase.clone(), plan.topics.clone());
    sim.client("finish", async move {
        until(|| phase.healed.get()).await;
        finish::produce_again(&world, &work).await;
        until(|| world.clients.get() == 0).await;
        finish::read_everything(&world, &work).await;
        phase.finished.set(true);
        Ok(())
    });
}

/// What is to be mended, and when.
struct Healing {
    at: Duration,
    fault: Fault,
}

struct Harness<'a> {
    plan: &'a Plan,
    world: Rc<World>,
    machines: Vec<Rc<Machine>>,
    /// The plan's times are counted from when the topics were there.
    set_up_at: Duration,
    next_fault: usize,
    healing: Vec<Healing>,
}

impl Harness<'_> {
    fn drive(&mut self, sim: &mut Sim<'_>, phase: &Phase) {
        let mut probe = Probe::default();
        let mut next_probe = Duration::ZERO;
        let mut next_replicas = PROBE_REPLICAS_EVERY;
        loop {
            if let Err(error) = sim.step() {
                self.object("no host fails", error.to_string());
                return;
            }
            let now = sim.elapsed();
            self.world.now.set(now);
            if now >= next_probe {
                next_probe = now + PROBE_EVERY;
                probe.look(&self.world, &self.machines);
                self.repair_what_stopped(sim, now);
            }
            if now >= next_replicas {
                next_replicas = now + PROBE_REPLICAS_EVERY;
                probe.compare_replicas(&self.world, &self.machines);
            }
            if !phase.set_up.get() {
                if now > FORM_MAX {
                    self.object("a cluster forms", format!("no topics after {FORM_MAX:?}"));
                    return;
                }
                self.set_up_at = now;
            } else if !phase.healed.get() {
                self.break_and_mend(sim, now);
                if now >= self.healed_at() {
                    self.mend_everything(sim);
                    self.world.working.set(false);
                    phase.healed.set(true);
                    tracing::info!("everything is healed");
                }
            }
            let moving = || probe::moving(&self.machines);
            if phase.finished.get() && moving().is_empty() {
                probe.compare_replicas(&self.world, &self.machines);
                return;
            }
            if now > self.healed_at() + FINISH_MAX {
                match phase.finished.get() {
                    true => self.object("moves come to an end", format!("still moving: {:?}", moving())),
                    false => self.object(
                        "clients come to an end",
                        format!("{} clients still run", self.world.clients.get()),
                    ),
                }
                self.describe_once();
                return;
            }
            self.describe_once();
            // Beyond the first few there is nothing to learn.
            if self.world.violations_count() > 20 {
                return;
            }
        }
    }

    /// At the first violation: the cluster as it is then.
    fn describe_once(&self) {
        if self.world.violations_count() > 0 && self.world.notes().is_empty() {
            probe::describe(&self.machines).into_iter().for_each(|line| self.world.note(line));
        }
    }

    fn healed_at(&self) -> Duration {
        self.set_up_at + self.plan.healed_at
    }

    fn object(&self, checker: &str, what: String) {
        self.world.object(checker, what);
    }

    fn machine(&self, id: i32) -> Rc<Machine> {
        let found = self.machines.iter().find(|machine| machine.id == id);
        found.unwrap_or_else(|| unreachable!("faults name nodes of the plan")).clone()
    }

    fn kill(&self, sim: &mut Sim<'_>, machine: &Machine, death: Death, seed: u64) {
        // ORDER: the disk first: the destructors of the dying process find it gone.
        machine.die(death, seed);
        sim.crash(machine.host());
    }

    fn start(&self, sim: &mut Sim<'_>, machine: &Machine) {
        if !machine.is_up() {
            sim.bounce(machine.host());
        }
    }

    fn repair_what_stopped(&mut self, sim: &mut Sim<'_>, now: Duration) {
        for machine in self.machines.clone() {
            if machine.is_up() && machine.stopped_itself() {
                tracing::info!(node = machine.id, "stopped itself");
                self.kill(sim, &machine, Death::Kill, 0);
                let fault = Fault::Death { node: machine.id, death: Death::Kill, seed: 0 };
                self.healing.push(Healing { at: now + REPAIR_AFTER, fault });
                if now >= self.healed_at() {
                    self.object("a healthy node goes on", format!("node {} stopped itself", machine.id));
                }
            }
        }
        let (due, later) = self.healing.drain(..).partition(|healing: &Healing| healing.at <= now);
        self.healing = later;
        for healing in due {
            self.mend(sim, &healing.fault);
        }
    }

    fn break_and_mend(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let time = now - self.set_up_at;
        while let Some(planned) =
            self.plan.faults.get(self.next_fault).filter(|planned| planned.begin <= time)
        {
            self.next_fault += 1;
            let at = self.set_up_at + planned.end;
            tracing::info!(fault = ?planned.fault, until = ?at, "fault");
            self.break_it(sim, &planned.fault);
            self.healing.push(Healing { at, fault: planned.fault.clone() });
        }
    }

    fn break_it(&self, sim: &mut Sim<'_>, fault: &Fault) {
        match fault {
            Fault::Death { node, death, seed } => self.kill(sim, &self.machine(*node), *death, *seed),
            Fault::Blackout { seed } => {
                for machine in &self.machines {
                    self.kill(sim, machine, Death::PowerCut, *seed);
                }
            }
            Fault::Restart { node } => self.machine(*node).tell_to_stop(),
            Fault::Held { links } => links.iter().for_each(|(a, b)| sim.hold(a.as_str(), b.as_str())),
            Fault::Cut { links } => links.iter().for_each(|(a, b)| sim.partition(a.as_str(), b.as_str())),
            Fault::CutOneWay { links } => {
                links.iter().for_each(|(a, b)| sim.partition_oneway(a.as_str(), b.as_str()));
            }
            Fault::Delayed { links, delay } => {
                links.iter().for_each(|(a, b)| sim.set_link_latency(a.as_str(), b.as_str(), *delay));
            }
            Fault::ClockStep { node, error_ms } => {
                self.machine(*node).clock_error_ms.store(*error_ms, std::sync::atomic::Ordering::Relaxed);
            }
            Fault::SlowDisk { node, sync_max, seed } => {
                self.machine(*node).set_sync_time(self.plan.sync_time.0, *sync_max, *seed);
            }
            Fault::FullDisk { node, room } => {
                let machine = self.machine(*node);
                machine.disk.set_capacity(Some(machine.disk.used_bytes() + room));
                machine.store().limit_room(Some(*room));
            }
            Fault::BrokenDisk { node, in_operations } => {
                let disk = &self.machine(*node).disk;
                let broken = ottla_storage::disk::Fault::Once(std::io::ErrorKind::Other);
                disk.set_fault(disk.operations() + in_operations, broken);
            }
        }
    }

    fn mend(&self, sim: &mut Sim<'_>, fault: &Fault) {
        match fault {
            Fault::Death { node, .. } | Fault::Restart { node } => {
                let machine = self.machine(*node);
                if matches!(fault, Fault::Restart { .. }) && machine.is_up() {
                    // It takes its time to stop; a service manager would lose its patience.
                    self.kill(sim, &machine, Death::Kill, 0);
                }
                self.reconnect(sim, &machine);
                self.start(sim, &machine);
            }
            Fault::Blackout { .. } => self.machines.iter().for_each(|machine| self.start(sim, machine)),
            Fault::Held { links } => links.iter().for_each(|(a, b)| sim.release(a.as_str(), b.as_str())),
            Fault::Cut { links } => links.iter().for_each(|(a, b)| sim.repair(a.as_str(), b.as_str())),
            Fault::CutOneWay { links } => {
                links.iter().for_each(|(a, b)| sim.repair_oneway(a.as_str(), b.as_str()));
            }
            Fault::Delayed { links, .. } => {
                for (a, b) in links {
                    sim.set_link_latency(a.as_str(), b.as_str(), Duration::from_micros(100));
                    sim.set_link_max_message_latency(a.as_str(), b.as_str(), self.plan.latency_max);
                }
            }
            Fault::ClockStep { node, .. } => {
                self.machine(*node).clock_error_ms.store(0, std::sync::atomic::Ordering::Relaxed);
            }
            Fault::SlowDisk { node, seed, .. } => {
                self.machine(*node).set_sync_time(self.plan.sync_time.0, self.plan.sync_time.1, *seed);
            }
            Fault::FullDisk { node, .. } => {
                let machine = self.machine(*node);
                machine.disk.set_capacity(None);
                machine.store().limit_room(None);
            }
            Fault::BrokenDisk { node, .. } => {
                let machine = self.machine(*node);
                machine.disk.clear_fault();
                // Whoever changes a disk restarts what ran on it.
                if machine.is_up() {
                    self.kill(sim, &machine, Death::Kill, 0);
                }
                self.reconnect(sim, &machine);
                self.start(sim, &machine);
            }
        }
    }

    /// Undoes what a process that stopped itself cut; a fault of the network on these links ends early.
    fn reconnect(&self, sim: &mut Sim<'_>, machine: &Machine) {
        if machine.stopped_itself() {
            for other in self.machines.iter().filter(|other| other.id != machine.id) {
                sim.repair(machine.host(), other.host());
            }
        }
    }

    fn mend_everything(&mut self, sim: &mut Sim<'_>) {
        for healing in std::mem::take(&mut self.healing) {
            self.mend(sim, &healing.fault);
        }
        for (index, machine) in self.machines.iter().enumerate() {
            for other in &self.machines[..index] {
                sim.release(machine.host(), other.host());
                sim.repair(machine.host(), other.host());
            }
        }
        for machine in &self.machines {
            self.start(sim, machine);
        }
    }
}

/// The same on every run and machine.
pub fn digest(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
