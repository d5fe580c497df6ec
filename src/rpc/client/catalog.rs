//! Searching definitions, their past, and going back to it.

use hydrant_proto::v1;
use hydrant_proto::v1::catalog_service_client::CatalogServiceClient;

use super::{Client, Connection, MAX_MESSAGE, Refusal};

impl Client {
    /// A page of what is found.
    pub async fn search(&self, request: v1::SearchRequest) -> Result<v1::SearchResponse, Refusal> {
        let answer = self.catalog().search(self.request(request)).await;
        self.answer(answer)
    }

    /// A page of who changed what and when.
    pub async fn list_revisions(
        &self,
        request: v1::ListRevisionsRequest,
    ) -> Result<v1::ListRevisionsResponse, Refusal> {
        let answer = self.catalog().list_revisions(self.request(request)).await;
        self.answer(answer)
    }

    /// Goes back to a revision, or tells what that would change.
    pub async fn rollback(&self, request: v1::RollbackRequest) -> Result<v1::RollbackResponse, Refusal> {
        let answer = self.catalog().rollback(self.request(request)).await;
        self.answer(answer)
    }

    fn catalog(&self) -> CatalogServiceClient<Connection> {
        CatalogServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE)
    }
}
