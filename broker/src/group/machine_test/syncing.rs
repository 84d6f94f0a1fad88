//! From the join to the assignment.

use super::*;

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
