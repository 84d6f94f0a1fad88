//! One test per rule of the classic group protocol, on the pure machine: values in, values out, simulated time.

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

// ---- joining

#[test]
fn an_empty_group_id_is_invalid() {
    let mut world = World::new();
    let token = world.join(JoinGroup { group_id: "".into(), ..member("") });
    assert_eq!(world.join_refused(token).error, GroupError::InvalidGroupId);
    let request = Heartbeat { group_id: "".into(), generation: 1, member_id: "m".into(), instance_id: None };
    assert_eq!(world.machine.heartbeat(world.now, &request).0, Err(GroupError::InvalidGroupId));
}

#[test]
fn the_session_timeout_is_bounded() {
    let mut world = World::new();
    for (session_timeout_ms, accepted) in
        [(5_999, false), (6_000, true), (1_800_000, true), (1_800_001, false)]
    {
        let token = world.join(JoinGroup { session_timeout_ms, ..member("") });
        let expected =
            if accepted { GroupError::MemberIdRequired } else { GroupError::InvalidSessionTimeout };
        assert_eq!(world.join_refused(token).error, expected, "{session_timeout_ms}");
    }
}

#[test]
fn a_dynamic_member_is_given_an_id_first() {
    let mut world = World::new();
    let token = world.join(member(""));
    let refused = world.join_refused(token);
    assert_eq!(refused.error, GroupError::MemberIdRequired);
    assert!(refused.member_id.starts_with("client-"), "{}", refused.member_id);
    let token = world.join(member(&refused.member_id));
    world.advance(3_000);
    assert_eq!(world.joined(token).member_id, refused.member_id);
}

#[test]
fn an_old_client_joins_without_asking_for_an_id() {
    let mut world = World::new();
    let token = world.join(JoinGroup { member_id_rule: MemberIdRule::Assign, ..member("") });
    world.advance(3_000);
    let joined = world.joined(token);
    assert_eq!((joined.generation, &joined.leader), (1, &joined.member_id));
    assert_eq!(joined.members.len(), 1);
}

#[test]
fn an_unknown_member_id_is_refused() {
    let mut world = World::new();
    let token = world.join(member("nobody"));
    assert_eq!(world.join_refused(token).error, GroupError::UnknownMemberId);
    world.stable(1);
    let token = world.join(member("nobody"));
    assert_eq!(world.join_refused(token).error, GroupError::UnknownMemberId);
}

#[test]
fn an_id_that_is_not_used_is_forgotten_with_its_group() {
    let mut world = World::new();
    let token = world.join(member(""));
    let member_id = world.join_refused(token).member_id;
    assert_eq!(world.machine.list().len(), 1);
    world.advance(SESSION_MS);
    assert!(world.machine.groups.is_empty());
    let token = world.join(member(&member_id));
    assert_eq!(world.join_refused(token).error, GroupError::UnknownMemberId);
}

#[test]
fn ids_given_out_are_bounded() {
    let mut world = World::new();
    for _ in 0..decide::PENDING_MEMBERS_MAX {
        world.join(member(""));
    }
    let token = world.join(member(""));
    assert_eq!(world.join_refused(token).error, GroupError::GroupMaxSizeReached);
}

#[test]
fn the_first_rebalance_waits_and_is_extended_by_newcomers() {
    let mut world = World::new();
    let first = world.join_new();
    world.advance(2_900);
    let second = world.join_new();
    world.advance(200);
    assert!(!world.answers.contains_key(&first), "a newcomer extends the wait");
    world.advance(2_900);
    let (first, second) = (world.joined(first), world.joined(second));
    assert_eq!((first.generation, second.generation), (1, 1));
    assert_eq!(first.leader, second.leader);
    assert_eq!((first.members.len(), second.members.len()), (2, 0), "only the leader is told who is there");
}

#[test]
fn the_first_rebalance_is_not_extended_beyond_the_rebalance_timeout() {
    let mut world = World::new();
    let first = world.join(JoinGroup {
        rebalance_timeout_ms: 7_000,
        member_id_rule: MemberIdRule::Assign,
        ..member("")
    });
    for _ in 0..8 {
        world.advance(1_000);
        world.join(JoinGroup {
            rebalance_timeout_ms: 7_000,
            member_id_rule: MemberIdRule::Assign,
            ..member("")
        });
    }
    assert_eq!(world.joined(first).generation, 1);
}

#[test]
fn without_an_initial_delay_a_group_forms_at_once() {
    let mut world = World::with(Rules { initial_rebalance_delay_ms: 0, ..rules() });
    let token = world.join_new();
    world.advance(0);
    assert_eq!(world.joined(token).generation, 1);
}

#[test]
fn a_group_takes_members_up_to_its_bound() {
    let mut world = World::with(Rules { members_max: 2, ..rules() });
    world.stable(2);
    let token = world.join(member(""));
    assert_eq!(world.join_refused(token).error, GroupError::GroupMaxSizeReached);
    let mut world = World::with(Rules { members_max: 2, ..rules() });
    let tokens: Vec<Token> = (0..3)
        .map(|_| world.join(JoinGroup { member_id_rule: MemberIdRule::Assign, ..member("") }))
        .collect();
    assert_eq!(world.join_refused(tokens[2]).error, GroupError::GroupMaxSizeReached);
    world.wait_for(tokens[0]);
    let joined = world.joined(tokens[0]);
    let of_leader = if joined.leader == joined.member_id { tokens[0] } else { tokens[1] };
    assert_eq!(world.joined(of_leader).members.len(), 2);
}

#[test]
fn a_loaded_group_above_its_bound_sheds_the_last() {
    let mut world = World::new();
    let (members, _) = world.stable(3);
    world.machine.rules.members_max = 2;
    let mut world = world.reload();
    assert_eq!(world.state(), GroupState::PreparingRebalance);
    let tokens: Vec<Token> = members.iter().map(|id| world.join(member(id))).collect();
    assert_eq!(world.join_refused(tokens[2]).error, GroupError::GroupMaxSizeReached);
    assert_eq!(world.joined(tokens[0]).generation, world.joined(tokens[1]).generation);
}

#[test]
fn protocols_must_be_shared() {
    let mut world = World::new();
    let none = world.join(JoinGroup { protocols: Vec::new(), ..member("") });
    assert_eq!(world.join_refused(none).error, GroupError::InconsistentGroupProtocol);
    world.stable(1);
    let other = world.join(JoinGroup { protocols: protocols(&["sticky"]), ..member("") });
    assert_eq!(world.join_refused(other).error, GroupError::InconsistentGroupProtocol);
    let connect = world.join(JoinGroup { protocol_type: "connect".into(), ..member("") });
    assert_eq!(world.join_refused(connect).error, GroupError::InconsistentGroupProtocol);
}

#[test]
fn the_protocol_with_most_votes_among_those_that_all_know_wins() {
    let mut world = World::new();
    let join = |world: &mut World, names: &[&str]| {
        let request =
            JoinGroup { protocols: protocols(names), member_id_rule: MemberIdRule::Assign, ..member("") };
        world.join(request)
    };
    let first = join(&mut world, &["only-mine", "range", "sticky"]);
    join(&mut world, &["sticky", "range"]);
    join(&mut world, &["sticky", "range"]);
    world.wait_for(first);
    assert_eq!(world.joined(first).protocol_name.as_deref(), Some("sticky"));
}

#[test]
fn a_join_of_a_member_unchanged_does_not_rebalance_a_stable_group() {
    let mut world = World::new();
    let (members, generation) = world.stable(2);
    let token = world.join(member(&members[1]));
    let joined = world.joined(token);
    assert_eq!((joined.generation, joined.members.len()), (generation, 0));
    assert_eq!(world.state(), GroupState::Stable);
}

#[test]
fn a_join_of_the_leader_rebalances() {
    let mut world = World::new();
    let (members, generation) = world.stable(2);
    let leader = world.join(member(&members[0]));
    assert_eq!(world.state(), GroupState::PreparingRebalance);
    assert_eq!(world.heartbeat(&members[1], generation), Err(GroupError::RebalanceInProgress));
    let other = world.join(member(&members[1]));
    assert_eq!(world.joined(leader).generation, generation + 1);
    assert_eq!(world.joined(other).generation, generation + 1);
}

#[test]
fn a_join_with_other_metadata_rebalances() {
    let mut world = World::new();
    let (members, generation) = world.stable(2);
    let changed = Protocol { name: "range".into(), metadata: subscription(&["t", "u"]) };
    let other = world.join(JoinGroup { protocols: vec![changed.clone()], ..member(&members[1]) });
    let leader = world.join(member(&members[0]));
    let joined = world.joined(leader);
    assert_eq!(joined.generation, generation + 1);
    assert_eq!(world.joined(other).members, vec![]);
    let told = joined.members.iter().find(|told| told.member_id == members[1]).unwrap();
    assert_eq!(told.metadata, changed.metadata);
}

#[test]
fn a_join_repeated_while_the_generation_completes_gets_the_same_answer() {
    let mut world = World::new();
    let token = world.join_new();
    world.advance(3_000);
    let first = world.joined(token);
    let again = world.join(member(&first.member_id));
    assert_eq!(world.joined(again), first);
}

#[test]
fn members_that_do_not_rejoin_in_time_are_out() {
    let mut world = World::new();
    let (members, generation) = world.stable(2);
    let leader = world.join(member(&members[0]));
    for _ in 0..(REBALANCE_MS / 5_000) {
        let _ = world.heartbeat(&members[1], generation);
        world.advance(5_000);
    }
    let joined = world.joined(leader);
    assert_eq!((joined.generation, joined.members.len()), (generation + 1, 1));
    assert_eq!(world.heartbeat(&members[1], generation), Err(GroupError::UnknownMemberId));
}

#[test]
fn a_leader_that_does_not_rejoin_is_replaced() {
    let mut world = World::new();
    let (members, generation) = world.stable(2);
    world.leave(&members[0], None).unwrap();
    let token = world.join(member(&members[1]));
    let joined = world.joined(token);
    assert_eq!((joined.generation, &joined.leader), (generation + 1, &members[1]));
}

#[test]
fn a_new_member_that_waits_too_long_is_out() {
    let mut world = World::new();
    let (members, generation) = world.stable(1);
    let hour = 3_600_000;
    // The old member keeps the rebalance open by a very long timeout and heartbeats.
    let slow = JoinGroup { rebalance_timeout_ms: hour, ..member(&members[0]) };
    let token = world.join(slow.clone());
    assert_eq!(world.joined(token).generation, generation + 1);
    let joined = world.joined(token);
    world.complete(&[joined]);
    let newcomer = world.join_new();
    for _ in 0..60 {
        assert_eq!(world.heartbeat(&members[0], generation + 1), Err(GroupError::RebalanceInProgress));
        world.advance(5_000);
    }
    assert_eq!(world.join_refused(newcomer).error, GroupError::UnknownMemberId);
}

// ---- syncing

#[test]
fn the_assignment_reaches_all_when_it_is_durable() {
    let mut world = World::new();
    let tokens = [world.join_new(), world.join_new()];
    world.wait_for(tokens[0]);
    let joined: Vec<Joined> = tokens.iter().map(|token| world.joined(*token)).collect();
    let (leader, follower) = if joined[0].leader == joined[0].member_id { (0, 1) } else { (1, 0) };
    world.storing = Storing::Held;
    let follower_sync = world.sync(&joined[follower], &[]);
    let assignments = [
        (&*joined[leader].member_id.clone(), "to-leader"),
        (&*joined[follower].member_id.clone(), "to-follower"),
    ];
    let leader_sync = world.sync(&joined[leader], &assignments);
    assert!(!world.answers.contains_key(&leader_sync) && !world.answers.contains_key(&follower_sync));
    assert_eq!(world.state(), GroupState::CompletingRebalance);
    world.store_one();
    assert_eq!(world.synced(leader_sync).unwrap(), "to-leader");
    assert_eq!(world.synced(follower_sync).unwrap(), "to-follower");
    assert_eq!(world.state(), GroupState::Stable);
    // A sync after that gets it at once.
    let again = world.sync(&joined[follower], &[]);
    assert_eq!(world.synced(again).unwrap(), "to-follower");
}

#[test]
fn a_member_that_the_leader_forgot_gets_an_empty_assignment() {
    let mut world = World::new();
    let token = world.join_new();
    world.advance(3_000);
    let joined = world.joined(token);
    let token = world.sync(&joined, &[("somebody else", "x")]);
    assert_eq!(world.synced(token).unwrap(), "");
}

#[test]
fn sync_is_fenced() {
    let mut world = World::new();
    let token = world.join_new();
    world.advance(3_000);
    let joined = world.joined(token);
    let stale = world.sync(&Joined { generation: 9, ..joined.clone() }, &[]);
    assert_eq!(world.synced(stale), Err(GroupError::IllegalGeneration));
    let unknown = world.sync(&Joined { member_id: "nobody".into(), ..joined.clone() }, &[]);
    assert_eq!(world.synced(unknown), Err(GroupError::UnknownMemberId));
    let protocol = world.sync(&Joined { protocol_name: Some("sticky".into()), ..joined.clone() }, &[]);
    assert_eq!(world.synced(protocol), Err(GroupError::InconsistentGroupProtocol));
    let token = world.token();
    let request = SyncGroup {
        group_id: "g".into(),
        generation: joined.generation,
        member_id: joined.member_id.clone(),
        instance_id: None,
        protocol_type: Some("connect".into()),
        protocol_name: None,
        assignments: vec![],
    };
    let effects = world.machine.sync(world.now, token, request);
    world.take(effects);
    assert_eq!(world.synced(token), Err(GroupError::InconsistentGroupProtocol));
}

#[test]
fn a_rebalance_takes_parked_syncs_back() {
    let mut world = World::new();
    let tokens = [world.join_new(), world.join_new()];
    world.wait_for(tokens[0]);
    let joined: Vec<Joined> = tokens.iter().map(|token| world.joined(*token)).collect();
    let follower = joined.iter().find(|joined| joined.leader != joined.member_id).unwrap().clone();
    let parked = world.sync(&follower, &[]);
    world.join_new();
    assert_eq!(world.synced(parked), Err(GroupError::RebalanceInProgress));
    let preparing = world.sync(&follower, &[]);
    assert_eq!(world.synced(preparing), Err(GroupError::RebalanceInProgress));
}

#[test]
fn a_leader_that_fails_between_join_and_sync_is_replaced() {
    let mut world = World::new();
    let tokens = [world.join_new(), world.join_new()];
    world.wait_for(tokens[0]);
    let joined: Vec<Joined> = tokens.iter().map(|token| world.joined(*token)).collect();
    let follower = joined.iter().find(|joined| joined.leader != joined.member_id).unwrap().clone();
    let parked = world.sync(&follower, &[]);
    world.advance(SESSION_MS);
    assert_eq!(world.synced(parked), Err(GroupError::RebalanceInProgress), "the leader's session ended");
    let token = world.join(member(&follower.member_id));
    let next = world.joined(token);
    assert_eq!((next.generation, &next.leader), (follower.generation + 1, &follower.member_id));
}

#[test]
fn members_that_heartbeat_but_never_sync_are_out_after_the_rebalance_timeout() {
    let mut world = World::new();
    let tokens = [world.join_new(), world.join_new()];
    world.advance(3_001);
    world.advance(3_000);
    let joined: Vec<Joined> = tokens.iter().map(|token| world.joined(*token)).collect();
    let leader = joined.iter().find(|joined| joined.leader == joined.member_id).unwrap().clone();
    let lazy = joined.iter().find(|joined| joined.leader != joined.member_id).unwrap().clone();
    world.sync(&leader, &[]);
    for _ in 0..12 {
        assert_eq!(world.heartbeat(&lazy.member_id, 1), Ok(()));
        assert_eq!(world.heartbeat(&leader.member_id, 1), Ok(()));
        world.advance(5_000);
    }
    assert_eq!(world.heartbeat(&lazy.member_id, 1), Err(GroupError::UnknownMemberId));
    assert_eq!(world.heartbeat(&leader.member_id, 1), Err(GroupError::RebalanceInProgress));
}

#[test]
fn an_assignment_that_cannot_be_written_starts_the_rebalance_again() {
    let mut world = World::new();
    let token = world.join_new();
    world.advance(3_000);
    let joined = world.joined(token);
    world.storing = Storing::Held;
    let token = world.sync(&joined, &[(&joined.member_id.clone(), "a")]);
    world.lose_one(GroupError::CoordinatorNotAvailable);
    assert_eq!(world.synced(token), Err(GroupError::CoordinatorNotAvailable));
    assert_eq!(world.state(), GroupState::PreparingRebalance);
    let token = world.join(member(&joined.member_id));
    assert_eq!(world.joined(token).generation, 2);
}

#[test]
fn an_assignment_that_the_log_takes_too_long_for_starts_the_rebalance_again() {
    let mut world = World::new();
    let token = world.join_new();
    world.advance(3_000);
    let joined = world.joined(token);
    world.storing = Storing::Held;
    let token = world.sync(&joined, &[(&joined.member_id.clone(), "a")]);
    world.advance(4_999);
    assert!(!world.answers.contains_key(&token));
    world.advance(1);
    assert_eq!(world.synced(token), Err(GroupError::CoordinatorNotAvailable));
    assert_eq!(world.state(), GroupState::PreparingRebalance);
    // It is durable after all, which is history.
    world.store_one();
    assert_eq!(world.state(), GroupState::PreparingRebalance);
    world.storing = Storing::AtOnce;
    let token = world.join(member(&joined.member_id));
    let joined = world.joined(token);
    assert_eq!(joined.generation, 2);
    let token = world.sync(&joined, &[(&joined.member_id.clone(), "b")]);
    assert_eq!(world.synced(token).unwrap(), "b");
    // In time: the clock that ran for it has stopped.
    world.heartbeat(&joined.member_id, 2).unwrap();
    world.advance(6_000);
    assert_eq!(world.state(), GroupState::Stable);
}

#[test]
fn an_assignment_that_comes_after_its_generation_is_not_given_out() {
    let mut world = World::new();
    let token = world.join_new();
    world.advance(3_000);
    let joined = world.joined(token);
    world.storing = Storing::Held;
    let token = world.sync(&joined, &[(&joined.member_id.clone(), "a")]);
    world.join_new();
    assert_eq!(world.synced(token), Err(GroupError::RebalanceInProgress));
    world.store_one();
    assert_eq!(world.state(), GroupState::PreparingRebalance);
}

#[test]
fn cooperative_rebalancing_over_two_generations() {
    // Incremental assignors keep what they own while they rejoin: all the broker does is carry the metadata, let a
    // member rejoin right after its sync (to take what the other gave up), and number the generations.
    let mut world = World::new();
    let owns = |owned: &'static str| Protocol {
        name: "cooperative-sticky".into(),
        metadata: [&subscription(&["t"])[..], owned.as_bytes()].concat().into(),
    };
    let join = |world: &mut World, id: &str, owned| {
        world.join(JoinGroup {
            protocols: vec![owns(owned)],
            member_id_rule: MemberIdRule::Assign,
            ..member(id)
        })
    };
    let first = join(&mut world, "", "");
    world.advance(3_000);
    let first = world.joined(first);
    let token = world.sync(&first, &[(&first.member_id.clone(), "p0,p1")]);
    assert_eq!(world.synced(token).unwrap(), "p0,p1");

    // Second generation: the newcomer gets nothing yet, the first gives p1 up.
    let newcomer = join(&mut world, "", "");
    assert_eq!(world.heartbeat(&first.member_id, 1), Err(GroupError::RebalanceInProgress));
    assert_eq!(world.commit_as(&first.member_id, 1), Ok(()), "it still owns its partitions");
    let again = join(&mut world, &first.member_id, "p0,p1");
    let (again, newcomer) = (world.joined(again), world.joined(newcomer));
    assert_eq!((again.generation, newcomer.generation), (2, 2));
    assert!(again.members.iter().any(|told| told.metadata == owns("p0,p1").metadata));
    let a = world.sync(&newcomer, &[]);
    let b = world.sync(&again, &[(&again.member_id.clone(), "p0"), (&newcomer.member_id.clone(), "")]);
    assert_eq!((world.synced(a).unwrap(), world.synced(b).unwrap()), (Bytes::new(), Bytes::from("p0")));

    // Third: the first rejoins with what it kept, which asks for the follow-up, and p1 finds its new owner.
    let again = join(&mut world, &first.member_id, "p0");
    let other = join(&mut world, &newcomer.member_id, "");
    let (again, other) = (world.joined(again), world.joined(other));
    assert_eq!((again.generation, other.generation), (3, 3));
    let a = world.sync(&other, &[]);
    world.sync(&again, &[(&again.member_id.clone(), "p0"), (&other.member_id.clone(), "p1")]);
    assert_eq!(world.synced(a).unwrap(), "p1");
}

// ---- staying and leaving

#[test]
fn heartbeats_are_fenced() {
    let mut world = World::new();
    assert_eq!(world.heartbeat("nobody", 1), Err(GroupError::UnknownMemberId));
    let (members, generation) = world.stable(1);
    assert_eq!(world.heartbeat(&members[0], generation), Ok(()));
    assert_eq!(world.heartbeat("nobody", generation), Err(GroupError::UnknownMemberId));
    assert_eq!(world.heartbeat(&members[0], generation + 1), Err(GroupError::IllegalGeneration));
}

#[test]
fn heartbeats_keep_a_session_alive_and_silence_ends_it() {
    let mut world = World::new();
    let (members, generation) = world.stable(1);
    for _ in 0..10 {
        world.advance(SESSION_MS - 1);
        assert_eq!(world.heartbeat(&members[0], generation), Ok(()));
    }
    world.advance(SESSION_MS);
    assert_eq!(world.state(), GroupState::Empty);
    assert_eq!(world.heartbeat(&members[0], generation), Err(GroupError::UnknownMemberId));
}

#[test]
fn a_commit_counts_as_a_heartbeat() {
    let mut world = World::new();
    let (members, generation) = world.stable(1);
    for _ in 0..3 {
        world.advance(SESSION_MS - 1);
        assert_eq!(world.commit_as(&members[0], generation), Ok(()));
    }
}

#[test]
fn leaving_rebalances_the_others() {
    let mut world = World::new();
    let (members, generation) = world.stable(2);
    assert_eq!(world.leave(&members[1], None), Ok(()));
    assert_eq!(world.heartbeat(&members[0], generation), Err(GroupError::RebalanceInProgress));
    assert_eq!(world.leave(&members[1], None), Err(GroupError::UnknownMemberId));
}

#[test]
fn the_last_to_leave_leaves_an_empty_group_in_the_log() {
    let mut world = World::new();
    let (members, generation) = world.stable(1);
    world.leave(&members[0], None).unwrap();
    assert_eq!(world.state(), GroupState::Empty);
    let Some(Record::Group { value: Some(value), .. }) = world.log.last() else { panic!("{:?}", world.log) };
    assert_eq!((value.generation, value.members.len(), &value.protocol), (generation + 1, 0, &None));
    assert_eq!(&*value.protocol_type, "consumer");
    assert_eq!(world.reload().state(), GroupState::Empty);
}

#[test]
fn an_unused_id_may_leave_and_no_longer_holds_up_the_rebalance() {
    let mut world = World::new();
    let (members, generation) = world.stable(1);
    let asked = world.join(member(""));
    let pending = world.join_refused(asked).member_id;
    let token = world.join(member(&members[0]));
    assert!(!world.answers.contains_key(&token), "the id given out may still join");
    assert_eq!(world.leave(&pending, None), Ok(()));
    assert_eq!(world.joined(token).generation, generation + 1);
}

#[test]
fn leaving_an_unknown_group_names_each_member_unknown() {
    let mut world = World::new();
    assert_eq!(world.leave("m", None), Err(GroupError::UnknownMemberId));
    let request = LeaveGroup { group_id: "".into(), members: vec![] };
    assert_eq!(world.machine.leave(world.now, &request).0, Err(GroupError::InvalidGroupId));
}

// ---- static members

impl World {
    fn stable_static(&mut self) -> Joined {
        let token = self.join(static_member("", "i1"));
        self.advance(3_000);
        let joined = self.joined(token);
        let token = self.sync(&joined, &[(&joined.member_id.clone(), "mine")]);
        assert_eq!(self.synced(token).unwrap(), "mine");
        joined
    }
}

#[test]
fn a_static_member_that_restarts_takes_its_place_without_a_rebalance() {
    let mut world = World::new();
    let before = world.stable_static();
    let token = world.join(static_member("", "i1"));
    let after = world.joined(token);
    assert_ne!(after.member_id, before.member_id);
    assert_eq!(after.generation, before.generation);
    assert!(after.skip_assignment && after.leader == after.member_id && after.members.len() == 1);
    assert_eq!(world.state(), GroupState::Stable);
    let token = world.sync(&after, &[]);
    assert_eq!(world.synced(token).unwrap(), "mine", "its assignment is kept");
    // The log names the new member id.
    assert_eq!(world.reload().machine.describe("g"), world.machine.describe("g"));
}

#[test]
fn a_static_leader_of_an_old_client_is_told_it_follows() {
    let mut world = World::new();
    let before = world.stable_static();
    let request = JoinGroup { static_rejoin: StaticRejoin::AsFollower, ..static_member("", "i1") };
    let token = world.join(request);
    let after = world.joined(token);
    assert_eq!((&after.leader, after.skip_assignment, after.members.len()), (&before.member_id, false, 0));
}

#[test]
fn a_static_rejoin_is_answered_when_it_is_durable() {
    let mut world = World::new();
    world.stable_static();
    world.storing = Storing::Held;
    let token = world.join(static_member("", "i1"));
    assert!(!world.answers.contains_key(&token));
    world.lose_one(GroupError::CoordinatorNotAvailable);
    assert_eq!(world.join_refused(token).error, GroupError::CoordinatorNotAvailable);
    world.storing = Storing::AtOnce;
    let token = world.join(static_member("", "i1"));
    assert_eq!(world.joined(token).generation, 1);
}

#[test]
fn the_predecessor_of_a_static_member_is_fenced() {
    let mut world = World::new();
    let before = world.stable_static();
    let token = world.join(static_member("", "i1"));
    world.joined(token);
    let request = Heartbeat {
        group_id: "g".into(),
        generation: 1,
        member_id: before.member_id.clone(),
        instance_id: Some("i1".into()),
    };
    assert_eq!(world.machine.heartbeat(world.now, &request).0, Err(GroupError::FencedInstanceId));
    let rejoin = world.join(static_member(&before.member_id, "i1"));
    assert_eq!(world.join_refused(rejoin).error, GroupError::FencedInstanceId);
    let request =
        CommitOffsets { member_id: before.member_id.clone(), instance_id: Some("i1".into()), ..commit(1, 3) };
    let token = world.commit(request);
    assert_eq!(world.committed(token), Err(GroupError::FencedInstanceId));
    assert_eq!(world.leave(&before.member_id, Some("i1")), Err(GroupError::FencedInstanceId));
}

#[test]
fn a_parked_join_of_the_predecessor_is_fenced() {
    let mut world = World::new();
    let parked = world.join(static_member("", "i1"));
    let second = world.join(static_member("", "i1"));
    assert_eq!(world.join_refused(parked).error, GroupError::FencedInstanceId);
    world.advance(6_000);
    assert_eq!(world.joined(second).members.len(), 1);
}

#[test]
fn a_static_member_with_another_protocol_rebalances() {
    let mut world = World::new();
    let request = JoinGroup { protocols: protocols(&["range", "sticky"]), ..static_member("", "i1") };
    let token = world.join(request);
    world.advance(3_000);
    let joined = world.joined(token);
    world.complete(&[joined]);
    let request = JoinGroup { protocols: protocols(&["sticky", "range"]), ..static_member("", "i1") };
    let token = world.join(request);
    let joined = world.joined(token);
    assert_eq!((joined.generation, joined.protocol_name.as_deref()), (2, Some("sticky")));
}

#[test]
fn a_static_member_that_comes_back_while_the_generation_completes_rebalances() {
    let mut world = World::new();
    let token = world.join(static_member("", "i1"));
    world.advance(3_000);
    assert_eq!(world.joined(token).generation, 1);
    let token = world.join(static_member("", "i1"));
    assert_eq!(world.joined(token).generation, 2);
}

#[test]
fn a_static_member_keeps_its_place_through_a_rebalance_until_its_session_ends() {
    let mut world = World::new();
    let patient = JoinGroup { session_timeout_ms: 600_000, ..static_member("", "i1") };
    let token = world.join(patient.clone());
    let other = world.join(JoinGroup { instance_id: Some("i2".into()), ..patient });
    world.advance(6_000);
    let joined = [world.joined(token), world.joined(other)];
    world.complete(&joined);
    let leader = joined.iter().find(|joined| joined.leader == joined.member_id).unwrap();
    let instance = if leader.member_id.starts_with("i1") { "i1" } else { "i2" };
    let token =
        world.join(JoinGroup { session_timeout_ms: 600_000, ..static_member(&leader.member_id, instance) });
    world.advance(REBALANCE_MS);
    assert_eq!(world.joined(token).members.len(), 2, "the absent static member is still counted");
}

#[test]
fn an_operator_removes_a_static_member_by_its_instance_id() {
    let mut world = World::new();
    world.stable_static();
    assert_eq!(world.leave("", Some("other")), Err(GroupError::UnknownMemberId));
    assert_eq!(world.leave("", Some("i1")), Ok(()));
    assert_eq!(world.state(), GroupState::Empty);
}

// ---- offsets

#[test]
fn a_commit_is_seen_when_it_is_durable() {
    let mut world = World::new();
    world.storing = Storing::Held;
    let token = world.commit(commit(-1, 42));
    assert!(!world.answers.contains_key(&token));
    assert_eq!(world.fetch(), -1);
    world.store_one();
    assert_eq!(world.committed(token), Ok(()));
    assert_eq!(world.fetch(), 42);
    let listed = world.machine.list();
    assert_eq!((&*listed[0].protocol_type, listed[0].state), ("", GroupState::Empty));
}

#[test]
fn a_commit_that_is_lost_is_refused_and_not_seen() {
    let mut world = World::new();
    world.storing = Storing::Held;
    let token = world.commit(commit(-1, 42));
    world.lose_one(GroupError::NotCoordinator);
    assert_eq!(world.committed(token), Err(GroupError::NotCoordinator));
    assert_eq!(world.fetch(), -1);
    assert!(world.machine.list().is_empty());
}

#[test]
fn commits_are_fenced() {
    let mut world = World::new();
    assert_eq!(
        world.commit_as("m", 3),
        Err(GroupError::IllegalGeneration),
        "an unknown group has no generation"
    );
    let (members, generation) = world.stable(1);
    assert_eq!(world.commit_as(&members[0], generation - 1), Err(GroupError::IllegalGeneration));
    assert_eq!(world.commit_as("nobody", generation), Err(GroupError::UnknownMemberId));
    assert_eq!(world.commit_as("", -1), Err(GroupError::UnknownMemberId), "members own the group");
    assert_eq!(world.commit_as(&members[0], generation), Ok(()));
    world.leave(&members[0], None).unwrap();
    assert_eq!(world.commit_as("", -1), Ok(()), "an empty group takes offsets from anyone");
}

#[test]
fn a_commit_between_join_and_sync_is_refused() {
    let mut world = World::new();
    let token = world.join_new();
    world.advance(3_000);
    let joined = world.joined(token);
    assert_eq!(world.commit_as(&joined.member_id, joined.generation), Err(GroupError::RebalanceInProgress));
}

#[test]
fn a_commit_while_members_rejoin_is_accepted() {
    let mut world = World::new();
    let (members, generation) = world.stable(2);
    world.leave(&members[1], None).unwrap();
    assert_eq!(world.state(), GroupState::PreparingRebalance);
    assert_eq!(world.commit_as(&members[0], generation), Ok(()));
}

#[test]
fn metadata_is_bounded_per_partition() {
    let mut world = World::new();
    let mut request = commit(-1, 5);
    let mut large = request.topics[0].partitions[0].clone();
    large.partition = 1;
    large.metadata = "x".repeat(17).into();
    request.topics[0].partitions.push(large);
    let token = world.commit(request);
    let Some(Answer::Partitions(Ok(results))) = world.answers.get(&token) else { panic!() };
    assert_eq!(results.topics[0].1, vec![(0, Ok(())), (1, Err(GroupError::OffsetMetadataTooLarge))]);
}

#[test]
fn fetching_all_gives_all_and_nothing_for_an_unknown_group() {
    let mut world = World::new();
    let all = FetchOffsets { group_id: "g".into(), topics: None };
    assert_eq!(world.machine.fetch(&all), Ok(FetchedOffsets { topics: vec![] }));
    world.commit(commit(-1, 42));
    let expected = FetchedOffset { partition: 0, offset: 42, leader_epoch: 2, metadata: "m".into() };
    let topics = vec![("t".into(), vec![expected])];
    assert_eq!(world.machine.fetch(&all), Ok(FetchedOffsets { topics }));
}

#[test]
fn offsets_of_an_empty_group_expire_after_it_has_been_empty_long_enough() {
    let mut world = World::new();
    let (members, generation) = world.stable(1);
    assert_eq!(world.commit_as(&members[0], generation), Ok(()));
    for _ in 0..300 {
        world.advance(SESSION_MS / 2);
        assert_eq!(world.heartbeat(&members[0], generation), Ok(()));
    }
    world.expire();
    assert_eq!(world.fetch(), 7, "members consume the topic");
    world.leave(&members[0], None).unwrap();
    world.advance(999_999);
    world.expire();
    assert_eq!(world.fetch(), 7, "retention runs from when the group became empty");
    world.advance(1);
    world.expire();
    assert_eq!(world.fetch(), -1);
    assert!(world.machine.list().is_empty(), "the group goes with its last offset");
    assert!(world.reload().machine.groups.is_empty());
}

#[test]
fn offsets_of_a_topic_that_a_stable_group_no_longer_consumes_expire() {
    let mut world = World::new();
    let mut request = commit(-1, 5);
    request.topics[0].name = "old".into();
    world.commit(request);
    world.commit(commit(-1, 6));
    let (members, generation) = world.stable(1);
    for _ in 0..250 {
        world.advance(SESSION_MS / 2);
        assert_eq!(world.heartbeat(&members[0], generation), Ok(()));
    }
    world.expire();
    let all = world.machine.fetch(&FetchOffsets { group_id: "g".into(), topics: None }).unwrap();
    assert_eq!(all.topics.iter().map(|(topic, _)| &**topic).collect::<Vec<_>>(), ["t"]);
}

#[test]
fn offsets_of_a_simple_consumer_expire_by_their_commit() {
    let mut world = World::new();
    world.commit(commit(-1, 5));
    world.advance(900_000);
    world.commit(commit(-1, 6));
    world.advance(999_999);
    world.expire();
    assert_eq!(world.fetch(), 6);
    world.advance(1);
    world.expire();
    assert_eq!(world.fetch(), -1);
}

#[test]
fn a_retention_in_the_commit_rules() {
    let mut world = World::new();
    world.commit(CommitOffsets { retention_ms: Some(10), ..commit(-1, 5) });
    world.advance(9);
    world.expire();
    assert_eq!(world.reload().fetch(), 5);
    world.advance(1);
    world.expire();
    assert_eq!(world.fetch(), -1);
}

#[test]
fn a_group_with_members_is_not_deleted() {
    let mut world = World::new();
    let token = world.delete();
    assert_eq!(world.done(token), Err(GroupError::GroupIdNotFound));
    let (members, _) = world.stable(1);
    let token = world.delete();
    assert_eq!(world.done(token), Err(GroupError::NonEmptyGroup));
    world.commit_as(&members[0], 1).unwrap();
    world.leave(&members[0], None).unwrap();
    let token = world.delete();
    assert_eq!(world.done(token), Ok(()));
    assert_eq!(world.machine.describe("g"), Err(GroupError::GroupIdNotFound));
    assert_eq!(world.fetch(), -1);
    assert!(world.reload().machine.groups.is_empty());
}

#[test]
fn a_group_that_is_being_deleted_takes_nobody_in() {
    let mut world = World::new();
    world.commit(commit(-1, 5));
    world.storing = Storing::Held;
    let deletion = world.delete();
    let token = world.join(member(""));
    assert_eq!(world.join_refused(token).error, GroupError::CoordinatorNotAvailable);
    let token = world.commit(commit(-1, 6));
    assert_eq!(world.committed(token), Err(GroupError::CoordinatorNotAvailable));
    world.lose_one(GroupError::CoordinatorNotAvailable);
    assert_eq!(world.done(deletion), Err(GroupError::CoordinatorNotAvailable));
    assert_eq!((world.fetch(), world.state()), (5, GroupState::Empty), "it lives on");
}

#[test]
fn offsets_of_a_consumed_topic_are_not_deleted() {
    let mut world = World::new();
    let delete = |world: &mut World, topic: &str| {
        let token = world.token();
        let request = DeleteOffsets { group_id: "g".into(), topics: vec![(topic.into(), vec![0, 1])] };
        let effects = world.machine.delete_offsets(token, &request);
        world.take(effects);
        world.committed(token)
    };
    assert_eq!(delete(&mut world, "t"), Err(GroupError::GroupIdNotFound));
    world.commit(commit(-1, 5));
    let mut other = commit(-1, 6);
    other.topics[0].name = "u".into();
    world.commit(other);
    let (members, _) = world.stable(1);
    assert_eq!(delete(&mut world, "t"), Err(GroupError::GroupSubscribedToTopic));
    assert_eq!(delete(&mut world, "u"), Ok(()));
    world.leave(&members[0], None).unwrap();
    assert_eq!(delete(&mut world, "t"), Ok(()));
    assert_eq!(world.fetch(), -1);
}

#[test]
fn offsets_of_a_group_of_others_than_consumers_are_not_deleted_while_it_has_members() {
    let mut world = World::new();
    world.join(JoinGroup {
        protocol_type: "connect".into(),
        member_id_rule: MemberIdRule::Assign,
        ..member("")
    });
    let token = world.token();
    let request = DeleteOffsets { group_id: "g".into(), topics: vec![("t".into(), vec![0])] };
    let effects = world.machine.delete_offsets(token, &request);
    world.take(effects);
    assert_eq!(world.committed(token), Err(GroupError::NonEmptyGroup));
}

#[test]
fn the_offsets_of_a_deleted_topic_are_forgotten() {
    let mut world = World::new();
    world.commit(commit(-1, 5));
    assert_eq!(world.machine.groups_with_offsets_of("t"), vec![GroupId::from("g")]);
    let effects = world.machine.forget_topic(&"g".into(), &"t".into());
    world.take(effects);
    assert_eq!((world.fetch(), world.reload().fetch()), (-1, -1));
}

// ---- describing and loading

#[test]
fn members_are_described_with_what_only_a_stable_group_has() {
    let mut world = World::new();
    world.join_new();
    let described = world.machine.describe("g").unwrap();
    assert_eq!((described.state, &*described.protocol_name), (GroupState::PreparingRebalance, ""));
    assert!(described.members[0].metadata.is_empty());
    let mut world = World::new();
    world.stable_static();
    let described = world.machine.describe("g").unwrap();
    assert_eq!((&*described.protocol_type, &*described.protocol_name), ("consumer", "range"));
    let member = &described.members[0];
    assert_eq!((member.instance_id.as_deref(), &member.assignment[..]), (Some("i1"), &b"mine"[..]));
    assert_eq!(member.metadata, subscription(&["t"]));
    assert_eq!((&*member.client_id, &*member.client_host), ("client", "/127.0.0.1"));
}

#[test]
fn a_loaded_group_goes_on_and_its_silent_members_are_out_after_a_session() {
    let mut world = World::new();
    let (members, generation) = world.stable(2);
    let mut world = world.reload();
    assert_eq!(world.state(), GroupState::Stable);
    world.advance(SESSION_MS - 1);
    assert_eq!(world.heartbeat(&members[0], generation), Ok(()));
    world.advance(1);
    assert_eq!(world.heartbeat(&members[0], generation), Err(GroupError::RebalanceInProgress));
    assert_eq!(world.heartbeat(&members[1], generation), Err(GroupError::UnknownMemberId));
}

#[test]
fn no_timer_outlives_its_member_or_group() {
    let mut world = World::new();
    let (members, _) = world.stable(2);
    for member_id in &members {
        world.leave(member_id, None).unwrap();
    }
    assert_eq!(world.state(), GroupState::Empty);
    assert_eq!(world.machine.next_deadline_ms(), None);
}

// ---- the live state and the state loaded from the log are the same

/// The group, its description, its generation and leader, its offsets.
type Durable = (GroupId, Option<DescribedGroup>, Option<(i32, Option<MemberId>)>, String);

/// What a broker that takes over must know: offsets, and groups that are at rest.
fn durable(machine: &Machine) -> Vec<Durable> {
    machine
        .list()
        .into_iter()
        .filter_map(|listed| {
            let entry = &machine.groups[&listed.group_id];
            let offsets = format!("{:?}", entry.offsets);
            // A generation in the making is soft state; so is a group that never had one.
            let at_rest = match listed.state {
                GroupState::Stable => true,
                GroupState::Empty => entry.group.generation > 0,
                GroupState::PreparingRebalance | GroupState::CompletingRebalance | GroupState::Dead => false,
            };
            let group = at_rest.then(|| machine.describe(&listed.group_id).unwrap());
            let generation = at_rest.then(|| (entry.group.generation, entry.group.leader.clone()));
            (at_rest || !entry.offsets.is_empty()).then_some((listed.group_id, group, generation, offsets))
        })
        .collect()
}

/// One step of a random history; numbers choose members, offsets and how long to wait.
#[derive(Clone, Debug)]
enum Act {
    Join(usize),
    JoinStatic(u8),
    Sync(usize),
    Leave(usize),
    Commit(usize, u8),
    CommitAlone(u8),
    Wait(u32),
    Delete,
    Expire,
    Lose,
}

fn acts() -> impl proptest::strategy::Strategy<Value = Vec<Act>> {
    use proptest::prelude::*;
    let act = prop_oneof![
        4 => (0_usize..6).prop_map(Act::Join),
        2 => (0_u8..2).prop_map(Act::JoinStatic),
        6 => (0_usize..6).prop_map(Act::Sync),
        1 => (0_usize..6).prop_map(Act::Leave),
        3 => ((0_usize..6), any::<u8>()).prop_map(|(member, offset)| Act::Commit(member, offset)),
        1 => any::<u8>().prop_map(Act::CommitAlone),
        3 => (0_u32..20_000).prop_map(Act::Wait),
        1 => Just(Act::Delete),
        1 => Just(Act::Expire),
        1 => Just(Act::Lose),
    ];
    proptest::collection::vec(act, 1..80)
}

impl World {
    /// The member that a number chooses: of the answers so far, the newest first.
    fn chosen(&self, number: usize) -> Option<Joined> {
        let joined = self.answers.values().rev().filter_map(|answer| match answer {
            Answer::Join(Ok(joined)) => Some(joined.clone()),
            _ => None,
        });
        let mut rest = joined.skip(number);
        rest.next()
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Join(number) => {
                let request = match self.chosen(number) {
                    Some(joined) if number > 2 => member(&joined.member_id),
                    _ => JoinGroup { member_id_rule: MemberIdRule::Assign, ..member("") },
                };
                self.join(request);
            }
            Act::JoinStatic(instance) => {
                self.join(static_member("", &format!("i{instance}")));
            }
            Act::Sync(number) => {
                let Some(joined) = self.chosen(number) else { return };
                let members: Vec<MemberId> =
                    joined.members.iter().map(|told| told.member_id.clone()).collect();
                let assignments: Vec<(&str, &'static str)> =
                    members.iter().zip(["a", "b", "c", "d"]).map(|(id, a)| (&**id, a)).collect();
                self.sync(&joined, &assignments);
            }
            Act::Leave(number) => {
                let Some(joined) = self.chosen(number) else { return };
                let _ = self.leave(&joined.member_id, None);
            }
            Act::Commit(number, offset) => {
                let Some(joined) = self.chosen(number) else { return };
                let request = commit(joined.generation, i64::from(offset));
                self.commit(CommitOffsets { member_id: joined.member_id, ..request });
            }
            Act::CommitAlone(offset) => {
                self.commit(commit(-1, i64::from(offset)));
            }
            Act::Wait(ms) => self.advance(u64::from(ms)),
            Act::Delete => {
                self.delete();
            }
            Act::Expire => {
                self.advance(1_100_000);
                self.expire();
            }
            Act::Lose => {
                self.storing = Storing::Held;
                self.act(Act::Sync(0));
                self.act(Act::CommitAlone(9));
                while !self.under_way.is_empty() {
                    self.lose_one(GroupError::CoordinatorNotAvailable);
                }
                self.storing = Storing::AtOnce;
            }
        }
    }
}

fn check_invariants(group: &Group) {
    let parked = group.members.values().filter(|member| member.awaiting_join.is_some()).count();
    assert_eq!(group.awaiting_join, parked);
    assert_eq!(group.leader.is_some(), !group.members.is_empty());
    assert!(group.leader.iter().all(|leader| group.members.contains_key(leader)));
    let named = group.members.values().filter(|member| member.instance_id.is_some()).count();
    assert_eq!(group.static_members.len(), named);
    assert!(group.state != GroupState::Stable || !group.members.is_empty());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    #[test]
    fn a_broker_that_loads_the_log_has_the_state_of_the_one_that_wrote_it(acts in acts()) {
        let mut world = World::new();
        for act in acts {
            world.act(act);
            world.machine.groups.values().for_each(|entry| check_invariants(&entry.group));
            let loaded = durable(&world.reload().machine);
            for (group_id, group, generation, offsets) in durable(&world.machine) {
                let same = loaded.iter().find(|(loaded, ..)| *loaded == group_id);
                proptest::prop_assert!(same.is_some(), "{} is not in the log", group_id);
                let (_, loaded_group, loaded_generation, loaded_offsets) = same.unwrap();
                proptest::prop_assert_eq!(&offsets, loaded_offsets);
                if group.is_some() {
                    proptest::prop_assert_eq!(&group, loaded_group);
                    proptest::prop_assert_eq!(&generation, loaded_generation);
                }
            }
        }
    }
}
