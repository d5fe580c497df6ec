//! Tenants among the definitions of RegistryService: what they need is the platform's role, whoever else
//! may change definitions.

use hydrant_proto::v1;

use super::registry::{encode_described, names, single};
use super::wire::definitions::{decode_definitions, decode_name, encode_kind};
use super::{Caller, UseCases};
use crate::error::Result;
use crate::registry::definition::Kind;
use crate::registry::plan::Action as Change;
use crate::registry::tenants::{Expected, TenantChanges};
use crate::tenancy::Action;

pub(super) fn is_tenant(definition: &v1::Definition) -> bool {
    matches!(definition.spec, Some(v1::definition::Spec::Tenant(_)))
}

/// Whether the caller sees tenants as the platform does, and not only its own.
pub(super) fn sees_all(caller: &Caller, kind: i32) -> bool {
    kind == v1::Kind::Tenant as i32 && caller.identity.may(Action::ManageTenants)
}

pub(super) async fn put(
    use_cases: &UseCases,
    caller: &Caller,
    definition: Option<v1::Definition>,
    expected: Expected,
) -> Result<v1::Definition> {
    let definition = single(definition);
    let permit = use_cases.change(caller, Action::ManageTenants, names(definition.iter())).await?;
    let definition = definition?;
    let name = definition.name().clone();
    use_cases.registry.apply_tenants(&permit, vec![definition], expected, None).await?;
    use_cases.registry.get_tenant(&permit, &name).map(|described| encode_described(&described))
}

pub(super) fn get(use_cases: &UseCases, caller: &Caller, name: &str) -> Result<v1::Definition> {
    let permit = use_cases.permit(caller, Action::ManageTenants)?;
    let described = use_cases.registry.get_tenant(&permit, &decode_name("tenant", name)?)?;
    Ok(encode_described(&described))
}

pub(super) fn list(
    use_cases: &UseCases,
    caller: &Caller,
    request: &v1::ListDefinitionsRequest,
) -> Result<v1::ListDefinitionsResponse> {
    let permit = use_cases.permit(caller, Action::ManageTenants)?;
    let page = use_cases.registry.list_tenants(&permit, request.page_size, &request.page_token)?;
    Ok(v1::ListDefinitionsResponse {
        definitions: page.items.iter().map(encode_described).collect(),
        next_page_token: page.next_page_token,
        registry_revision: page.revision,
    })
}

pub(super) async fn remove(
    use_cases: &UseCases,
    caller: &Caller,
    request: v1::DeleteDefinitionRequest,
) -> Result<v1::DeleteDefinitionResponse> {
    let name = decode_name("tenant", &request.name);
    let named = name.iter().map(|name| format!("Tenant/{name}")).collect();
    let permit = use_cases.change(caller, Action::ManageTenants, named).await?;
    let name = name?;
    let registry_revision = use_cases.registry.delete_tenant(&permit, &name, request.etag).await?;
    Ok(v1::DeleteDefinitionResponse { registry_revision, reads: None })
}

pub(super) fn draft(use_cases: &UseCases, caller: &Caller, request: v1::PlanRequest) -> Result<v1::PlanResponse> {
    let permit = use_cases.permit(caller, Action::ManageTenants)?;
    let planned = use_cases.registry.plan_tenants(&permit, &decode_definitions(request.definitions)?)?;
    Ok(v1::PlanResponse { registry_revision: planned.revision, changes: encode_changes(planned), ..Default::default() })
}

pub(super) async fn make_so(
    use_cases: &UseCases,
    caller: &Caller,
    request: v1::ApplyRequest,
) -> Result<v1::ApplyResponse> {
    let definitions = decode_definitions(request.definitions);
    let permit = use_cases.change(caller, Action::ManageTenants, names(definitions.iter().flatten())).await?;
    let definitions = definitions?;
    let registry = &use_cases.registry;
    let applied = registry.apply_tenants(&permit, definitions, Expected::Any, request.expected_revision).await?;
    Ok(v1::ApplyResponse { registry_revision: applied.revision, changes: encode_changes(applied) })
}

fn encode_changes(applied: TenantChanges) -> Vec<v1::Change> {
    use v1::change::Action as Wire;
    let changes = applied.changes.into_iter().map(|change| v1::Change {
        kind: encode_kind(Kind::Tenant).into(),
        name: change.name.to_string(),
        action: match change.action {
            Change::Create => Wire::Create.into(),
            Change::Update => Wire::Update.into(),
            Change::Unchanged => Wire::Unchanged.into(),
            Change::Delete => Wire::Delete.into(),
        },
        differences: change.details.iter().map(|text| in_place(text)).collect(),
        details: change.details,
        ..Default::default()
    });
    changes.collect()
}

/// What is said of a tenant touches nobody.
fn in_place(text: &str) -> v1::Difference {
    v1::Difference { text: text.to_owned(), class: v1::difference::Class::InPlace.into(), ..Default::default() }
}
