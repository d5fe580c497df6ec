//! Calls about API keys and about who the caller is.

use hydrant_proto::v1;
use hydrant_proto::v1::access_service_client::AccessServiceClient;

use super::{Client, Refusal};

impl Client {
    /// The answer is the only one that ever shows the key.
    pub async fn create_key(&self, request: v1::CreateKeyRequest) -> Result<v1::CreateKeyResponse, Refusal> {
        let answer = AccessServiceClient::new(self.channel()).create_key(self.request(request)).await;
        self.answer(answer)
    }

    pub async fn get_key(&self, id: &str) -> Result<v1::ApiKey, Refusal> {
        let request = v1::GetKeyRequest { id: id.to_owned() };
        let answer = AccessServiceClient::new(self.channel()).get_key(self.request(request)).await;
        self.answer(answer)
    }

    pub async fn list_keys(&self) -> Result<Vec<v1::ApiKey>, Refusal> {
        let answer = AccessServiceClient::new(self.channel()).list_keys(self.request(v1::ListKeysRequest {})).await;
        Ok(self.answer(answer)?.keys)
    }

    pub async fn rotate_key(&self, id: &str, overlap_micros: u64) -> Result<v1::CreateKeyResponse, Refusal> {
        let request = v1::RotateKeyRequest { id: id.to_owned(), overlap_micros };
        let answer = AccessServiceClient::new(self.channel()).rotate_key(self.request(request)).await;
        self.answer(answer)
    }

    pub async fn revoke_key(&self, id: &str) -> Result<v1::ApiKey, Refusal> {
        let request = v1::RevokeKeyRequest { id: id.to_owned() };
        let answer = AccessServiceClient::new(self.channel()).revoke_key(self.request(request)).await;
        self.answer(answer)
    }

    pub async fn who_am_i(&self) -> Result<v1::WhoAmIResponse, Refusal> {
        let answer = AccessServiceClient::new(self.channel()).who_am_i(self.request(v1::WhoAmIRequest {})).await;
        self.answer(answer)
    }
}
