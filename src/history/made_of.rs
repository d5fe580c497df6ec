//! What a training set is made of, for those who are told of it: by the names that its tenant reads by. Of
//! another tenant's nothing is known here but what it shares and how the reader calls that.

use crate::registry::catalog::ServiceVersion;
use crate::registry::selection::Selection;
use crate::runs::{Input, MadeColumn, MadeOf};

pub(super) fn made_of(selection: &Selection) -> MadeOf {
    let mut made = MadeOf::default();
    let mut is_told = vec![false; selection.columns.len()];
    for service in &selection.services {
        let ServiceVersion { service: name, number, .. } = service.version.as_ref();
        let asked = match &service.owner {
            None => name.to_string(),
            Some(owner) => format!("{owner}/{name}"),
        };
        for &column in &service.columns {
            // Several services may have it; it comes from one place.
            if !std::mem::replace(&mut is_told[column], true) {
                let of_another = || Input::OfAnother { name: asked.clone(), version: *number };
                add_column(&mut made, selection, column, service.owner.is_some().then(of_another));
            }
        }
        add_asked(&mut made, asked);
    }
    for &column in &selection.features {
        let view = &selection.views[selection.view_of[selection.columns[column].lookup]];
        if !std::mem::replace(&mut is_told[column], true) {
            let of_another = || Input::OfAnother { name: view.reference(), version: view.view.version };
            add_column(&mut made, selection, column, view.owner.is_some().then(of_another));
        }
        add_asked(&mut made, view.reference());
    }
    made
}

fn add_asked(made: &mut MadeOf, asked: String) {
    if !made.asked.contains(&asked) {
        made.asked.push(asked);
    }
}

fn add_column(made: &mut MadeOf, selection: &Selection, column: usize, of_another: Option<Input>) {
    let column = &selection.columns[column];
    let view = &selection.lookups[column.lookup].view;
    let from = (!column.is_masked).then(|| {
        let (input, field) = match of_another {
            // Under which name of its own the owner has the values is the owner's to know.
            Some(input) => (input, column.name.clone()),
            None => {
                let input = Input::View { name: view.name.clone(), version: view.version };
                (input, view.features[column.feature].name.to_string())
            }
        };
        let known = made.inputs.iter().position(|known| *known == input);
        let index = known.unwrap_or_else(|| {
            made.inputs.push(input);
            made.inputs.len() - 1
        });
        (index, field)
    });
    made.columns.push(MadeColumn { name: column.name.clone(), data_type: column.data_type.to_string(), from });
}
