//! DoPut of a backfill: its batches go in one after the other, each answered by how far it is; when all
//! have come, how their merge goes on is told, and in the end what came of it. A client that hangs up
//! stops it.

use arrow_flight::PutResult;
use futures::StreamExt as _;
use futures::stream::try_unfold;
use hydrant_proto::v1;
use prost::Message as _;
use tonic::Status;

use super::super::Caller;
use super::super::backfill::{decode_request, encode_report};
use super::super::status::to_status;
use super::super::wire::ipc::Decoded;
use super::{Answers, FlightRpc, Upload};
use crate::backfill::{Finishing, Intake, Phase, Told};
use crate::error::Result;
use crate::tenancy::Action;

/// What an upload is at.
enum Putting {
    Taking(Box<Intake>, Box<Upload>),
    Finishing(Finishing, u64),
    Ended,
}

pub(super) async fn put(
    rpc: &FlightRpc,
    caller: &Caller,
    upload: Upload,
    command: v1::BackfillCommand,
) -> Result<Answers<PutResult>> {
    let use_cases = &rpc.use_cases;
    let permit = if command.validate_only {
        use_cases.rehearse(caller, Action::Write)?
    } else {
        let named = vec![format!("Source/{}", command.source), format!("Backfill/{}", command.id)];
        use_cases.change(caller, Action::Write, named).await?
    };
    let intake = use_cases.backfills.begin(&permit, decode_request(command)?).await?;
    let putting = Putting::Taking(Box::new(intake), Box::new(upload));
    let answers = try_unfold(putting, |mut putting| async move {
        let answer = putting.next().await?;
        Ok::<_, Status>(answer.map(|told| {
            let answer = v1::BackfillResponse { told: Some(told) };
            (PutResult { app_metadata: answer.encode_to_vec().into() }, putting)
        }))
    });
    Ok(answers.boxed())
}

impl Putting {
    async fn next(&mut self) -> Result<Option<v1::backfill_response::Told>, Status> {
        loop {
            match std::mem::replace(self, Self::Ended) {
                Self::Taking(mut intake, mut upload) => match upload.next().await? {
                    Some(Decoded::Batch(batch)) if batch.num_rows() > 0 => {
                        intake.push(batch).await.map_err(to_status)?;
                        let (checked, staged) = intake.rows();
                        let phase = v1::backfill_progress::Phase::Reading.into();
                        let progress = v1::BackfillProgress { phase, checked, staged, ..Default::default() };
                        *self = Self::Taking(intake, upload);
                        return Ok(Some(v1::backfill_response::Told::Progress(progress)));
                    }
                    Some(_) => *self = Self::Taking(intake, upload),
                    None => {
                        let (rows, _) = intake.rows();
                        *self = Self::Finishing(intake.finish().await.map_err(to_status)?, rows);
                    }
                },
                Self::Finishing(mut finishing, rows) => match finishing.next().await {
                    Told::Progress(progress) => {
                        let phase = match progress.phase {
                            Phase::Merging => v1::backfill_progress::Phase::Merging,
                            Phase::TakingIn => v1::backfill_progress::Phase::TakingIn,
                        };
                        let progress = v1::BackfillProgress {
                            phase: phase.into(),
                            checked: rows,
                            staged: rows,
                            merged: progress.merged,
                            to_merge: progress.to_merge,
                        };
                        *self = Self::Finishing(finishing, rows);
                        return Ok(Some(v1::backfill_response::Told::Progress(progress)));
                    }
                    Told::Done(outcome) => {
                        let report = outcome.map_err(to_status)?;
                        return Ok(Some(v1::backfill_response::Told::Report(encode_report(&report))));
                    }
                },
                Self::Ended => return Ok(None),
            }
        }
    }
}
