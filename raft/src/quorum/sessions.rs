//! Which brokers are alive, as one active controller in one epoch knows it: from their heartbeats and from whether it
//! reaches them. Only monotonic time counts, and only this controller's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::links::{Contact, Links};
use crate::metadata::ids::BrokerId;
use crate::metadata::image::Image;
use crate::requests::{Request, Response};

pub struct Sessions {
    /// `None`: nobody is ever taken for dead.
    timeout: Option<Duration>,
    /// When each broker was last heard of.
    heard: BTreeMap<BrokerId, Instant>,
    /// What each broker said last that it has applied.
    applied_offsets: BTreeMap<BrokerId, u64>,
    /// When this controller took office.
    since: Instant,
}

impl Sessions {
    pub fn new(timeout: Option<Duration>) -> Sessions {
        Sessions { timeout, heard: BTreeMap::new(), applied_offsets: BTreeMap::new(), since: Instant::now() }
    }

    /// A new controller does not know when brokers were heard of last: all begin with a full session, but for the one on the
    /// node that led before, whose silence was the reason for the election.
    pub fn renew(&mut self, image: &Image, last_leader: Option<(u64, Instant)>) {
        self.since = Instant::now();
        self.heard.clear();
        self.applied_offsets.clear();
        if self.timeout.is_some() {
            let unfenced = image.brokers.values().filter(|broker| !broker.fenced);
            self.heard = unfenced.map(|broker| (broker.id, self.since)).collect();
            if let Some((id, heard)) = last_leader
                && let Some(session) = i32::try_from(id).ok().and_then(|id| self.heard.get_mut(&BrokerId(id)))
            {
                *session = heard;
            }
        }
    }

    /// This process did not run for so long: what was sent to it meanwhile still waits to be read.
    pub fn forgive(&mut self, pause: Duration) {
        self.heard.values_mut().for_each(|heard| *heard += pause);
    }

    pub fn live(&self) -> BTreeSet<BrokerId> {
        let Some(timeout) = self.timeout else { return BTreeSet::new() };
        self.heard.iter().filter(|(_, heard)| heard.elapsed() < timeout).map(|(id, _)| *id).collect()
    }

    pub fn note(&mut self, request: &Request, response: &Response) {
        match (request, response) {
            (Request::RegisterBroker(request), Response::RegisterBroker(Ok(_))) => {
                self.heard.insert(request.id, Instant::now());
            }
            (Request::BrokerHeartbeat(request), Response::BrokerHeartbeat(Ok(state))) => {
                self.applied_offsets.insert(request.id, request.metadata_offset);
                if state.should_shut_down || request.want_fence {
                    self.heard.remove(&request.id);
                } else {
                    self.heard.insert(request.id, Instant::now());
                }
            }
            (Request::UnregisterBroker(request), Response::UnregisterBroker(Ok(()))) => {
                self.heard.remove(&request.id);
                self.applied_offsets.remove(&request.id);
            }
            _ => {}
        }
    }

    pub fn applied_offsets(&self) -> &BTreeMap<BrokerId, u64> {
        &self.applied_offsets
    }

    /// The brokers that count as alive in `image` and are not, with the reason.
    pub fn dead(&self, image: &Image, links: &Links) -> Vec<(BrokerId, &'static str)> {
        let Some(timeout) = self.timeout else { return Vec::new() };
        let unfenced = image.brokers.values().filter(|broker| !broker.fenced);
        unfenced
            .filter_map(|broker| {
                let heard = self.heard.get(&broker.id)?;
                let reason = if heard.elapsed() >= timeout {
                    "it was not heard of for too long"
                } else if self.is_gone(broker.id, *heard, links) {
                    "nobody listens at its address any more"
                } else if self.since.elapsed() >= timeout && self.is_unreachable(broker.id, links) {
                    "it sends heartbeats, but cannot be reached at its address"
                } else {
                    return None;
                };
                Some((broker.id, reason))
            })
            .collect()
    }

    /// The process at its address has ended, and nothing was heard of the broker since.
    fn is_gone(&self, id: BrokerId, heard: Instant, links: &Links) -> bool {
        contact_of(id, links).is_some_and(|contact| {
            // A session that began with this controller's office is an assumption, not a sign of life: one refusal more is
            // enough. One from before does not count, for the broker may have come back meanwhile.
            let refused = if heard <= self.since { contact.refused_last } else { contact.refused_since };
            contact.gone && refused.is_some_and(|refused| heard < refused)
        })
    }

    /// A broker that this controller cannot reach gets no metadata, whatever it says of itself.
    pub fn is_unreachable(&self, id: BrokerId, links: &Links) -> bool {
        let Some(timeout) = self.timeout else { return false };
        contact_of(id, links).is_some_and(|contact| {
            contact.gone || contact.reached.is_none_or(|reached| reached.elapsed() >= timeout)
        })
    }
}

/// `None` for this node itself, and for what is no member.
fn contact_of(id: BrokerId, links: &Links) -> Option<Contact> {
    let id = u64::try_from(id.0).ok().filter(|id| *id != links.node_id)?;
    links.member(id)?;
    Some(links.contact(id))
}
