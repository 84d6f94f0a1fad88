//! RemoveRaftVoter (key 81, version 0, KIP-853): a voter leaves the quorum; afterwards it only follows the metadata log.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{RemoveRaftVoterRequest, RemoveRaftVoterResponse};
use kafka_protocol::protocol::StrBytes;
use ottla_raft::BrokerId;

use super::add_raft_voter::{check_cluster, outcome};
use super::{Close, RequestContext, create_topics};

pub async fn handle(
    cx: RequestContext,
    request: RemoveRaftVoterRequest,
) -> Result<RemoveRaftVoterResponse, Close> {
    let changed = match check(&cx, &request) {
        Err(refusal) => Err(refusal),
        Ok(()) => {
            let (id, directory_id) = (BrokerId(request.voter_id), request.voter_directory_id);
            outcome(create_topics::TIMEOUT_DEFAULT, cx.broker.metadata.remove_voter(id, directory_id)).await
        }
    };
    let response = RemoveRaftVoterResponse::default().with_error_message(None);
    Ok(match changed {
        Ok(()) => response,
        Err((error, message)) => {
            response.with_error_code(error.code()).with_error_message(Some(StrBytes::from_string(message)))
        }
    })
}

fn check(cx: &RequestContext, request: &RemoveRaftVoterRequest) -> Result<(), (ResponseError, String)> {
    check_cluster(cx, request.cluster_id.as_ref())?;
    if request.voter_id < 0 || request.voter_directory_id.is_nil() {
        let message = "the request names no valid voter: id and directory id are needed";
        return Err((ResponseError::InvalidRequest, message.to_owned()));
    }
    Ok(())
}
