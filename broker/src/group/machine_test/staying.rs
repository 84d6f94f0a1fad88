//! Heartbeats, sessions and leaving.

use super::*;

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
