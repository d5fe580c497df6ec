//! How views stand to what is promised of them, and silences.

use hydrant_proto::v1;
use hydrant_proto::v1::freshness_service_client::FreshnessServiceClient;

use super::{Client, Connection, MAX_MESSAGE, PAGE, Refusal};

impl Client {
    pub async fn get_freshness(&self, view: &str) -> Result<v1::Freshness, Refusal> {
        let request = v1::GetFreshnessRequest { view: view.to_owned() };
        let answer = self.freshness().get_freshness(self.request(request)).await;
        Ok(self.answer(answer)?.freshness.unwrap_or_default())
    }

    /// Every view of which something is promised, page after page.
    pub async fn list_freshness(&self) -> Result<Vec<v1::Freshness>, Refusal> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListFreshnessRequest { page_size: PAGE, page_token };
            let answer = self.freshness().list_freshness(self.request(request)).await;
            let page = self.answer(answer)?;
            all.extend(page.freshness);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    pub async fn silence_freshness(&self, request: v1::SilenceFreshnessRequest) -> Result<v1::Silence, Refusal> {
        let answer = self.freshness().silence_freshness(self.request(request)).await;
        Ok(self.answer(answer)?.silence.unwrap_or_default())
    }

    pub async fn list_silences(&self) -> Result<Vec<v1::Silence>, Refusal> {
        let answer = self.freshness().list_silences(self.request(v1::ListSilencesRequest {})).await;
        Ok(self.answer(answer)?.silences)
    }

    /// What was ended.
    pub async fn delete_silence(&self, id: u64) -> Result<v1::Silence, Refusal> {
        let answer = self.freshness().delete_silence(self.request(v1::DeleteSilenceRequest { id })).await;
        Ok(self.answer(answer)?.silence.unwrap_or_default())
    }

    fn freshness(&self) -> FreshnessServiceClient<Connection> {
        FreshnessServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE)
    }
}
