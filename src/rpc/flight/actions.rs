//! DoAction: how far a training set is. Actions are listed by ListActions.

use arrow_flight::{Action as FlightAction, ActionType, Result as ActionResult};
use prost::Message as _;

use super::super::training::encode_progress;
use super::super::{Caller, UseCases};
use super::tickets;
use crate::error::{Error, Result};
use crate::tenancy::Action;

const PROGRESS: &str = "training_set.progress";

pub(super) fn all() -> [ActionType; 1] {
    let description =
        "How far a training set is: the body is one of its tickets, the answer a hydrant.v1.TrainingSetProgress.";
    [ActionType { r#type: PROGRESS.to_owned(), description: description.to_owned() }]
}

pub(super) fn act(use_cases: &UseCases, caller: &Caller, action: FlightAction) -> Result<ActionResult> {
    if action.r#type != PROGRESS {
        let shown: String = action.r#type.chars().take(80).collect();
        return Err(Error::not_found("UNKNOWN_ACTION", format!("there is no action '{shown}'"))
            .hint(format!("ListActions lists them: {PROGRESS}")));
    }
    let permit = use_cases.permit(caller, Action::ReadHistory)?;
    let (request, rows) = tickets::decode(&action.body)?;
    let prepared = use_cases.training_sets.reopen(&permit, request)?;
    prepared.check_rows(&rows)?;
    let progress = encode_progress(&prepared, &use_cases.training_sets.progress(&prepared), 0);
    Ok(ActionResult { body: progress.encode_to_vec().into() })
}
