//! The live state and the state loaded from the log are the same, whatever happened.

use super::*;

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
