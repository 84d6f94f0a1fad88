//! One test per rule of the classic group protocol, on the pure machine: values in, values out, simulated time.

mod describing;
mod joining;
mod offsets;
mod reloading;
mod static_members;
mod staying;
mod syncing;

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;

use super::*;

/// A machine with a log in memory and a clock that the test moves.
struct World {
    machine: Machine,
    now: Now,
    log: Vec<Record>,
    answers: BTreeMap<Token, Answer>,
    /// Writes that the log has not taken yet, oldest first.
    under_way: Vec<Write>,
    storing: Storing,
    next: u64,
}

#[derive(PartialEq)]
enum Storing {
    AtOnce,
    Held,
}

fn rules() -> Rules {
    Rules {
        session_timeout_ms_min: 6_000,
        session_timeout_ms_max: 1_800_000,
        members_max: 100,
        initial_rebalance_delay_ms: 3_000,
        metadata_bytes_max: 16,
        retention_ms: 1_000_000,
        log_wait_ms_max: 5_000,
    }
}

const SESSION_MS: u64 = 10_000;
const REBALANCE_MS: u64 = 60_000;

impl World {
    fn new() -> World {
        World::with(rules())
    }

    fn with(rules: Rules) -> World {
        let mut machine = Machine::new(rules);
        let now = Now { wall_ms: 5_000_000, ms: 1_000 };
        assert!(machine.finish_loading(now).is_empty());
        World {
            machine,
            now,
            log: Vec::new(),
            answers: BTreeMap::new(),
            under_way: Vec::new(),
            storing: Storing::AtOnce,
            next: 0,
        }
    }

    /// What a broker that reads the log of this one gets.
    fn reload(&self) -> World {
        let mut machine = Machine::new(self.machine.rules.clone());
        for record in &self.log {
            let parsed = records::parse(Some(&record.key()), record.value().as_deref()).unwrap();
            let records::Parsed::Record(parsed) = parsed else { panic!("{record:?} was not understood") };
            machine.replay(parsed);
        }
        let mut world = World { now: self.now, next: self.next, ..World::with(rules()) };
        let effects = machine.finish_loading(self.now);
        world.machine = machine;
        effects.into_iter().for_each(|effects| world.take(effects));
        world
    }

    fn token(&mut self) -> Token {
        self.next += 1;
        Token(self.next)
    }

    fn take(&mut self, effects: Effects) {
        assert!(effects.timers.is_empty(), "timers are put in place by the machine");
        for (token, answer) in effects.answers {
            assert!(self.answers.insert(token, answer).is_none(), "{token:?} is answered twice");
        }
        if let Some(write) = effects.write {
            self.under_way.push(write);
            if self.storing == Storing::AtOnce {
                self.store_one();
            }
        }
    }

    fn store_one(&mut self) {
        let write = self.under_way.remove(0);
        self.log.extend(write.records.iter().cloned());
        let effects = self.machine.on_stored(self.now, write);
        self.take(effects);
    }

    fn lose_one(&mut self, error: GroupError) {
        let write = self.under_way.remove(0);
        let effects = self.machine.on_lost(self.now, write, error);
        self.take(effects);
    }

    /// Moves time, firing timers when they are due.
    fn advance(&mut self, ms: u64) {
        let end = self.now.ms + ms;
        while let Some(deadline) = self.machine.next_deadline_ms().filter(|deadline| *deadline <= end) {
            let step = deadline.saturating_sub(self.now.ms);
            self.now.ms += step;
            self.now.wall_ms += step as i64;
            let effects = self.machine.on_timer(self.now).expect("a timer is due");
            self.take(effects);
        }
        self.now.wall_ms += (end - self.now.ms) as i64;
        self.now.ms = end;
    }

    /// Moves time, timer by timer, until a request is answered.
    fn wait_for(&mut self, token: Token) {
        for _ in 0..1_000 {
            if self.answers.contains_key(&token) {
                return;
            }
            let Some(deadline) = self.machine.next_deadline_ms() else { break };
            self.advance(deadline.saturating_sub(self.now.ms));
        }
        panic!("{token:?} is never answered");
    }

    fn join(&mut self, request: JoinGroup) -> Token {
        let token = self.token();
        let suffix = MemberIdSuffix(Uuid::from_u128(u128::from(token.0)));
        let effects = self.machine.join(self.now, token, &request, suffix);
        self.take(effects);
        token
    }

    fn joined(&self, token: Token) -> Joined {
        match self.answers.get(&token) {
            Some(Answer::Join(Ok(joined))) => joined.clone(),
            other => panic!("{token:?}: {other:?}"),
        }
    }

    fn join_refused(&self, token: Token) -> JoinRefused {
        match self.answers.get(&token) {
            Some(Answer::Join(Err(refused))) => refused.clone(),
            other => panic!("{token:?}: {other:?}"),
        }
    }

    fn sync(&mut self, joined: &Joined, assignments: &[(&str, &'static str)]) -> Token {
        let token = self.token();
        let request = SyncGroup {
            group_id: "g".into(),
            generation: joined.generation,
            member_id: joined.member_id.clone(),
            instance_id: None,
            protocol_type: Some("consumer".into()),
            protocol_name: joined.protocol_name.clone(),
            assignments: assignments
                .iter()
                .map(|(member, a)| ((*member).into(), Bytes::from_static(a.as_bytes())))
                .collect(),
        };
        let effects = self.machine.sync(self.now, token, request);
        self.take(effects);
        token
    }

    fn synced(&self, token: Token) -> Result<Bytes, GroupError> {
        match self.answers.get(&token) {
            Some(Answer::Sync(result)) => result.clone().map(|synced| synced.assignment),
            other => panic!("{token:?}: {other:?}"),
        }
    }

    fn heartbeat(&mut self, member_id: &str, generation: i32) -> Result<(), GroupError> {
        let request =
            Heartbeat { group_id: "g".into(), generation, member_id: member_id.into(), instance_id: None };
        let (result, effects) = self.machine.heartbeat(self.now, &request);
        self.take(effects);
        result
    }

    fn leave(&mut self, member_id: &str, instance_id: Option<&str>) -> Result<(), GroupError> {
        let leaving = LeavingMember { member_id: member_id.into(), instance_id: instance_id.map(Into::into) };
        let request = LeaveGroup { group_id: "g".into(), members: vec![leaving] };
        let (result, effects) = self.machine.leave(self.now, &request);
        self.take(effects);
        result.and_then(|left| left[0].result)
    }

    fn commit(&mut self, request: CommitOffsets) -> Token {
        let token = self.token();
        let effects = self.machine.commit(self.now, token, &request);
        self.take(effects);
        token
    }

    fn committed(&self, token: Token) -> Result<(), GroupError> {
        match self.answers.get(&token) {
            Some(Answer::Partitions(Ok(results))) => results.topics[0].1[0].1,
            Some(Answer::Partitions(Err(error))) => Err(*error),
            other => panic!("{token:?}: {other:?}"),
        }
    }

    fn commit_as(&mut self, member_id: &str, generation: i32) -> Result<(), GroupError> {
        let token = self.commit(CommitOffsets { member_id: member_id.into(), ..commit(generation, 7) });
        self.committed(token)
    }

    fn fetch(&self) -> i64 {
        let topics = Some(vec![("t".into(), vec![0])]);
        let fetched = self.machine.fetch(&FetchOffsets { group_id: "g".into(), topics });
        fetched.map(|fetched| fetched.topics[0].1[0].offset).unwrap()
    }

    fn delete(&mut self) -> Token {
        let token = self.token();
        let effects = self.machine.delete(self.now, token, &"g".into());
        self.take(effects);
        token
    }

    fn done(&self, token: Token) -> Result<(), GroupError> {
        match self.answers.get(&token) {
            Some(Answer::Done(result)) => *result,
            other => panic!("{token:?}: {other:?}"),
        }
    }

    fn expire(&mut self) {
        for group_id in self.machine.expiry_candidates(self.now) {
            let effects = self.machine.expire(self.now, &group_id);
            self.take(effects);
        }
    }

    fn state(&self) -> GroupState {
        self.machine.describe("g").map(|group| group.state).unwrap_or(GroupState::Dead)
    }

    /// A new dynamic member asks for its id and joins with it.
    fn join_new(&mut self) -> Token {
        let asked = self.join(member(""));
        let refused = self.join_refused(asked);
        assert_eq!(refused.error, GroupError::MemberIdRequired);
        self.join(member(&refused.member_id))
    }

    /// A group of `count` members, stable: their member ids, the leader first, and the generation.
    fn stable(&mut self, count: usize) -> (Vec<MemberId>, i32) {
        let tokens: Vec<Token> = (0..count).map(|_| self.join_new()).collect();
        self.wait_for(tokens[0]);
        let joined: Vec<Joined> = tokens.iter().map(|token| self.joined(*token)).collect();
        self.complete(&joined);
        let mut members: Vec<MemberId> = joined.iter().map(|joined| joined.member_id.clone()).collect();
        members.sort_by_key(|member| *member != joined[0].leader);
        (members, joined[0].generation)
    }

    /// All sync; the leader assigns nothing in particular.
    fn complete(&mut self, joined: &[Joined]) {
        for joined in joined {
            let token = self.sync(joined, &[]);
            let _ = token;
        }
        assert_eq!(self.state(), GroupState::Stable);
    }
}

fn subscription(topics: &[&str]) -> Bytes {
    let mut bytes = vec![0, 0];
    bytes.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        bytes.extend((topic.len() as i16).to_be_bytes());
        bytes.extend(topic.as_bytes());
    }
    bytes.extend((-1_i32).to_be_bytes());
    bytes.into()
}

fn protocols(names: &[&str]) -> Vec<Protocol> {
    names.iter().map(|name| Protocol { name: (*name).into(), metadata: subscription(&["t"]) }).collect()
}

fn member(member_id: &str) -> JoinGroup {
    JoinGroup {
        group_id: "g".into(),
        member_id: member_id.into(),
        instance_id: None,
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        protocol_type: "consumer".into(),
        protocols: protocols(&["range"]),
        session_timeout_ms: SESSION_MS as i32,
        rebalance_timeout_ms: REBALANCE_MS as i32,
        member_id_rule: MemberIdRule::Require,
        static_rejoin: StaticRejoin::SkipAssignment,
    }
}

fn static_member(member_id: &str, instance_id: &str) -> JoinGroup {
    JoinGroup { instance_id: Some(instance_id.into()), ..member(member_id) }
}

fn commit(generation: i32, offset: i64) -> CommitOffsets {
    let partition = CommitPartition { partition: 0, offset, leader_epoch: 2, metadata: "m".into() };
    CommitOffsets {
        group_id: "g".into(),
        generation,
        member_id: "".into(),
        instance_id: None,
        retention_ms: None,
        topics: vec![CommitTopic { name: "t".into(), partitions: vec![partition] }],
    }
}
