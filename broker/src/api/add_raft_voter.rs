//! AddRaftVoter (key 80, version 0, KIP-853): a controller that follows the metadata log becomes a voter. Answered when the
//! quorum with it is in force. Version 1 (KIP-1186: an answer before that) is not offered.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{AddRaftVoterRequest, AddRaftVoterResponse};
use kafka_protocol::protocol::StrBytes;
use ottla_raft::{BrokerId, VoterChangeError};

use super::{Close, RequestContext, create_topics};
use crate::error_map;

pub async fn handle(cx: RequestContext, request: AddRaftVoterRequest) -> Result<AddRaftVoterResponse, Close> {
    let changed = match check(&cx, &request) {
        Err(refusal) => Err(refusal),
        Ok(address) => {
            let (id, directory_id) = (BrokerId(request.voter_id), request.voter_directory_id);
            let added = cx.broker.metadata.add_voter(id, directory_id, &address);
            outcome(create_topics::timeout(request.timeout_ms), added).await
        }
    };
    let response = AddRaftVoterResponse::default().with_error_message(None);
    Ok(match changed {
        Ok(()) => response,
        Err((error, message)) => {
            response.with_error_code(error.code()).with_error_message(Some(StrBytes::from_string(message)))
        }
    })
}

/// The address of the new voter, in Kafka's order of checks.
fn check(cx: &RequestContext, request: &AddRaftVoterRequest) -> Result<String, (ResponseError, String)> {
    check_cluster(cx, request.cluster_id.as_ref())?;
    let invalid = |message: String| (ResponseError::InvalidRequest, message);
    if request.voter_id < 0 || request.voter_directory_id.is_nil() {
        return Err(invalid("the request names no valid voter: id and directory id are needed".into()));
    }
    // Voters reach each other on the first listener of controllers.
    let name = cx.broker.config.controller_listener_names.first().map_or("CONTROLLER", String::as_str);
    let endpoint = request.listeners.iter().find(|listener| &*listener.name == name);
    let endpoint =
        endpoint.ok_or_else(|| invalid(format!("the request names no endpoint for the listener {name}")))?;
    if endpoint.host.is_empty() || endpoint.port == 0 {
        return Err(invalid(format!("the endpoint for the listener {name} is not an address")));
    }
    // An IPv6 address is told from its port by brackets.
    let host = &*endpoint.host;
    let is_bare_ipv6 = host.contains(':') && !host.starts_with('[');
    Ok(if is_bare_ipv6 { format!("[{host}]:{}", endpoint.port) } else { format!("{host}:{}", endpoint.port) })
}

/// A request that names a cluster must mean this one.
pub(super) fn check_cluster(
    cx: &RequestContext,
    given: Option<&StrBytes>,
) -> Result<(), (ResponseError, String)> {
    let image = cx.broker.metadata.image();
    match given {
        Some(given) if **given != *image.cluster_id.to_string() => Err((
            ResponseError::InconsistentClusterId,
            format!("this is cluster {}, not {given}", image.cluster_id),
        )),
        Some(_) | None => Ok(()),
    }
}

/// What became of a change of the voters within a limit.
pub(super) async fn outcome(
    limit: std::time::Duration,
    change: impl Future<Output = Result<(), VoterChangeError>>,
) -> Result<(), (ResponseError, String)> {
    match tokio::time::timeout(limit, change).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err((error_map::voter_change(&error), error.to_string())),
        Err(_) => Err((
            ResponseError::RequestTimedOut,
            "the voters were not changed in time; the change may still be made".to_owned(),
        )),
    }
}
