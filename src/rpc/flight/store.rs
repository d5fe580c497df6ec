//! DoPut of a spine: its batches are stored as they come, and when all are durable the one answer tells
//! the spine's id. It takes a place of its tenant's training sets meanwhile, as a spine that is exchanged
//! does.

use std::future::ready;

use arrow_flight::PutResult;
use futures::StreamExt as _;
use futures::stream::once;
use hydrant_proto::v1;
use prost::Message as _;
use tonic::Status;

use super::super::Caller;
use super::super::status::to_status;
use super::super::wire::ipc::Decoded;
use super::{Answers, FlightRpc, Upload};
use crate::error::Error;
use crate::history::sets::Put;
use crate::tenancy::{Action, Demand};

pub(super) async fn store(rpc: &FlightRpc, caller: &Caller, mut upload: Upload) -> Result<Answers<PutResult>, Status> {
    let use_cases = &rpc.use_cases;
    let mut storing = None;
    while let Some(held) = upload.next().await? {
        match (held, storing.as_mut()) {
            (Decoded::Schema(schema), _) => {
                let permit =
                    use_cases.admit(caller, Action::ReadHistory, Demand { cost: 1, ..Demand::default() }).await;
                let spines = use_cases.training_sets.spines();
                storing = Some(spines.begin(permit.map_err(to_status)?, schema).await.map_err(to_status)?);
            }
            (Decoded::Batch(batch), Some(storing)) => storing.push(batch).await.map_err(to_status)?,
            (Decoded::Batch(_), None) | (Decoded::Nothing, _) => {}
        }
    }
    let missing =
        || to_status(Error::invalid("NO_SPINE", "the spine has no schema").hint("send the spine's schema and rows"));
    let put = storing.ok_or_else(missing)?.finish().await.map_err(to_status)?;
    let told = encode(&put).map_err(to_status)?.encode_to_vec();
    Ok(once(ready(Ok(PutResult { app_metadata: told.into() }))).boxed())
}

fn encode(put: &Put) -> Result<v1::StoredSpine, Error> {
    let about = put.spine.about()?;
    Ok(v1::StoredSpine {
        id: put.spine.id.to_string(),
        spine_hash: about.spine_hash.clone(),
        rows: about.rows,
        bytes: put.spine.bytes(),
        expires_micros: put.expires,
        was_there: !put.is_new,
    })
}
