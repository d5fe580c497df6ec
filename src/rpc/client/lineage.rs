//! Lineage, column by column.

use hydrant_proto::v1;
use hydrant_proto::v1::lineage_service_client::LineageServiceClient;

use super::{Client, MAX_MESSAGE, Refusal};

impl Client {
    /// The part of the graph around a name.
    pub async fn lineage_graph(&self, request: v1::GetLineageGraphRequest) -> Result<v1::LineageGraph, Refusal> {
        let mut client = LineageServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE);
        let answer = client.get_lineage_graph(self.request(request)).await;
        self.answer(answer)
    }
}
