//! Shares between tenants.

use hydrant_proto::v1;
use hydrant_proto::v1::sharing_service_client::SharingServiceClient;

use super::{Client, Connection, MAX_MESSAGE, PAGE, Refusal};

impl Client {
    pub async fn create_share(&self, request: v1::CreateShareRequest) -> Result<v1::Share, Refusal> {
        let answer = self.sharing().create_share(self.request(request)).await;
        self.answer(answer)
    }

    /// By its resource name.
    pub async fn get_share(&self, name: &str) -> Result<v1::Share, Refusal> {
        let answer = self.sharing().get_share(self.request(v1::GetShareRequest { name: name.to_owned() })).await;
        self.answer(answer)
    }

    /// All that the caller's tenant has given, or was given.
    pub async fn list_shares(&self, received: bool) -> Result<Vec<v1::Share>, Refusal> {
        let (mut shares, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListSharesRequest { received, page_size: PAGE, page_token };
            let answer = self.sharing().list_shares(self.request(request)).await;
            let page = self.answer(answer)?;
            shares.extend(page.shares);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(shares);
            }
        }
    }

    pub async fn withdraw_share(&self, request: v1::WithdrawShareRequest) -> Result<v1::Share, Refusal> {
        let answer = self.sharing().withdraw_share(self.request(request)).await;
        self.answer(answer)
    }

    fn sharing(&self) -> SharingServiceClient<Connection> {
        SharingServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE)
    }
}
