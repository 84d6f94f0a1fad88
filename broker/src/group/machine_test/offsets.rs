//! Commits, expiration and deletion of offsets and groups.

use super::*;

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
