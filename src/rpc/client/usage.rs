//! Who uses which features.

use hydrant_proto::v1;
use hydrant_proto::v1::usage_service_client::UsageServiceClient;

use super::{Client, Connection, MAX_MESSAGE, PAGE, Refusal};

impl Client {
    /// By its resource name.
    pub async fn get_usage(&self, name: &str) -> Result<v1::Usage, Refusal> {
        let answer = self.usage().get_usage(self.request(v1::GetUsageRequest { name: name.to_owned() })).await;
        self.answer(answer)
    }

    /// All pages as one, which has no next.
    pub async fn list_usage(&self, of: &str, unused_micros: u64) -> Result<v1::ListUsageResponse, Refusal> {
        let mut whole = v1::ListUsageResponse::default();
        loop {
            let (of, page_token) = (of.to_owned(), std::mem::take(&mut whole.next_page_token));
            let request = v1::ListUsageRequest { of, unused_micros, page_size: PAGE, page_token };
            let answer = self.usage().list_usage(self.request(request)).await;
            let page = self.answer(answer)?;
            let before = std::mem::take(&mut whole.usages);
            whole = v1::ListUsageResponse { usages: before.into_iter().chain(page.usages).collect(), ..page };
            if whole.next_page_token.is_empty() {
                return Ok(whole);
            }
        }
    }

    fn usage(&self) -> UsageServiceClient<Connection> {
        UsageServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE)
    }
}
