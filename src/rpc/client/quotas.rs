//! The client of QuotaService. Tenants are named as people name them; an empty one is the caller's own.

use hydrant_proto::v1;
use hydrant_proto::v1::quota_service_client::QuotaServiceClient;

use super::{Client, Connection, Refusal};

impl Client {
    /// Of a tenant, or of `tenants/TENANT/keys/KEY/quotas`.
    pub async fn get_quotas(&self, tenant: &str) -> Result<v1::TenantQuotas, Refusal> {
        let request = v1::GetQuotasRequest { name: resource(tenant) };
        let answer = self.quota_service().get_quotas(self.request(request)).await;
        self.answer(answer)
    }

    /// Of every tenant that the caller may see.
    pub async fn list_quotas(&self) -> Result<Vec<v1::TenantQuotas>, Refusal> {
        let answer = self.quota_service().list_quotas(self.request(v1::ListQuotasRequest::default())).await;
        Ok(self.answer(answer)?.tenants)
    }

    /// Of the keys of a tenant that have some.
    pub async fn list_key_quotas(&self, tenant: &str) -> Result<Vec<v1::TenantQuotas>, Refusal> {
        let request = v1::ListQuotasRequest { parent: format!("tenants/{tenant}") };
        let answer = self.quota_service().list_quotas(self.request(request)).await;
        Ok(self.answer(answer)?.tenants)
    }

    /// The request's name is a tenant's, or that of a key's quotas.
    pub async fn update_quotas(&self, mut request: v1::UpdateQuotasRequest) -> Result<v1::TenantQuotas, Refusal> {
        request.name = resource(&request.name);
        let answer = self.quota_service().update_quotas(self.request(request)).await;
        self.answer(answer)
    }

    /// The request's name is a tenant's, or that of a key's quotas.
    pub async fn raise_quotas(&self, mut request: v1::RaiseQuotasRequest) -> Result<v1::TenantQuotas, Refusal> {
        request.name = resource(&request.name);
        let answer = self.quota_service().raise_quotas(self.request(request)).await;
        self.answer(answer)
    }

    fn quota_service(&self) -> QuotaServiceClient<Connection> {
        QuotaServiceClient::new(self.channel())
    }
}

/// The name of a key's quotas is taken as it is.
fn resource(tenant: &str) -> String {
    if tenant.is_empty() || tenant.contains('/') { tenant.to_owned() } else { format!("tenants/{tenant}/quotas") }
}

/// How the quotas of a key are named.
pub fn of_key(tenant: &str, key: &str) -> String {
    format!("tenants/{tenant}/keys/{key}/quotas")
}
