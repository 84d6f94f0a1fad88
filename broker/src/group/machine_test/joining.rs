//! Joining a group: ids, bounds, the first generation, rebalances.

use super::*;

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
