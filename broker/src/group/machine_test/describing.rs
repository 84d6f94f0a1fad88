//! Groups as they are described, and as they are loaded.

use super::*;

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
