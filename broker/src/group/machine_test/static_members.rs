//! Members with an instance id (KIP-345).

use super::*;

impl World {
    pub(super) fn stable_static(&mut self) -> Joined {
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
