//! The client of ErasureService.

use hydrant_proto::v1;
use hydrant_proto::v1::erasure_service_client::ErasureServiceClient;

use super::{Client, Connection, Refusal};

impl Client {
    pub async fn erase_key(&self, request: v1::EraseKeyRequest) -> Result<v1::Erasure, Refusal> {
        let answer = self.erasure_service().erase_key(self.request(request)).await;
        self.answer(answer)
    }

    /// By its full name, or its number.
    pub async fn get_erasure(&self, name: &str) -> Result<v1::Erasure, Refusal> {
        let request = v1::GetErasureRequest { name: name.to_owned() };
        let answer = self.erasure_service().get_erasure(self.request(request)).await;
        self.answer(answer)
    }

    /// The newest first, `limit` at most.
    pub async fn list_erasures(&self, limit: usize) -> Result<Vec<v1::Erasure>, Refusal> {
        const PAGE: u32 = 1_000;
        let (mut erasures, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListErasuresRequest { page_size: PAGE, page_token };
            let answer = self.erasure_service().list_erasures(self.request(request)).await;
            let page = self.answer(answer)?;
            erasures.extend(page.erasures);
            if page.next_page_token.is_empty() || erasures.len() >= limit {
                erasures.truncate(limit);
                return Ok(erasures);
            }
            page_token = page.next_page_token;
        }
    }

    fn erasure_service(&self) -> ErasureServiceClient<Connection> {
        ErasureServiceClient::new(self.channel())
    }
}
