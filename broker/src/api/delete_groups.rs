//! DeleteGroups: API key 42, versions 0 to 3.
//!
//! v1: throttling. v2: flexible. v3: a message for each error (Kafka 4.4).
//!
//! A group is deleted when its tombstones are durable.

use futures::future::try_join_all;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

use super::group_values::owned;
use super::{Close, RequestContext};
use crate::error_map;

pub async fn handle(cx: RequestContext, request: DeleteGroupsRequest) -> Result<DeleteGroupsResponse, Close> {
    let delete = |group_id: kafka_protocol::messages::GroupId| {
        let groups = &cx.broker.groups;
        async move {
            let result = groups.delete_group(&owned(&group_id.0)?).await;
            let error_code = result.err().map_or(0, |error| error_map::group(error).code());
            Ok::<_, Close>(
                DeletableGroupResult::default().with_group_id(group_id).with_error_code(error_code),
            )
        }
    };
    cx.broker.groups.await_loaded(request.groups_names.iter().map(|id| id.0.as_str())).await;
    let results = try_join_all(request.groups_names.into_iter().map(delete)).await?;
    Ok(DeleteGroupsResponse::default().with_results(results))
}
