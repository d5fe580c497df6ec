//! The client of AuditService.

use hydrant_proto::v1;
use hydrant_proto::v1::audit_service_client::AuditServiceClient;

use super::{Client, MAX_MESSAGE, Refusal};

impl Client {
    /// One page; its token is given back for the next.
    pub async fn list_audit_records(
        &self,
        request: v1::ListAuditRecordsRequest,
    ) -> Result<v1::ListAuditRecordsResponse, Refusal> {
        let mut client = AuditServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE);
        let answer = client.list_audit_records(self.request(request)).await;
        self.answer(answer)
    }

    /// `noted`: a head that was told before, or nothing.
    pub async fn verify_audit(&self, noted: &str) -> Result<v1::VerifyAuditResponse, Refusal> {
        let request = v1::VerifyAuditRequest { noted: noted.to_owned() };
        let answer = AuditServiceClient::new(self.channel()).verify_audit(self.request(request)).await;
        self.answer(answer)
    }
}
