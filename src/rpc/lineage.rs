//! LineageService: what is made of what, column by column. It reads definitions, and changes nothing.

use async_trait::async_trait;
use hydrant_proto::v1;
use hydrant_proto::v1::lineage_service_server::LineageService;
use tonic::{Request, Response, Status};

use super::status::to_status;
use super::wire::plans::{decode_node_kind, encode_node_kind};
use super::{Caller, UseCases, layers};
use crate::error::{Error, Result};
use crate::registry::graph::{Direction, Edge, Graph, Node, Role};
use crate::tenancy::Action;

#[derive(Debug)]
pub struct LineageRpc {
    use_cases: UseCases,
}

impl LineageRpc {
    pub fn new(use_cases: UseCases) -> Self {
        Self { use_cases }
    }

    async fn graph(&self, caller: &Caller, request: v1::GetLineageGraphRequest) -> Result<v1::LineageGraph> {
        use v1::get_lineage_graph_request::Direction as Wire;
        let permit = self.use_cases.permit(caller, Action::ReadDefinitions)?;
        let kind = match request.kind {
            kind if kind == v1::Kind::Unspecified as i32 => None,
            kind => Some(decode_node_kind(kind).ok_or_else(|| {
                Error::invalid("UNKNOWN_KIND", format!("there is no kind {kind} in lineage"))
                    .hint("leave it out, or use ENTITY, SOURCE, COLUMN, FEATURE_VIEW, FEATURE, FEATURE_SERVICE, SPINE, TRAINING_SET, CONSUMER or SHARE")
            })?),
        };
        let direction = match Wire::try_from(request.direction) {
            Ok(Wire::Both) => Direction::Both,
            Ok(Wire::Up) => Direction::Up,
            Ok(Wire::Down) => Direction::Down,
            Err(_) => {
                let message = format!("there is no direction {}", request.direction);
                return Err(Error::invalid("UNKNOWN_DIRECTION", message).hint("use BOTH, UP or DOWN"));
            }
        };
        let around = self.use_cases.registry.lineage_around(&permit, request.name, kind, direction).await?;
        let starts = around.starts.iter().map(|start| encode_index(*start));
        let (starts, registry_revision) = (starts.collect(), around.revision);
        Ok(v1::LineageGraph { starts, registry_revision, ..encode_graph(&around.graph) })
    }
}

#[async_trait]
impl LineageService for LineageRpc {
    async fn get_lineage_graph(
        &self,
        request: Request<v1::GetLineageGraphRequest>,
    ) -> Result<Response<v1::LineageGraph>, Status> {
        let caller = layers::caller(request.extensions());
        self.graph(&caller, request.into_inner()).await.map(Response::new).map_err(to_status)
    }
}

fn encode_graph(graph: &Graph) -> v1::LineageGraph {
    let node = |node: &Node| v1::LineageNode {
        kind: encode_node_kind(node.kind).into(),
        name: node.name.clone(),
        owner: node.owner.clone(),
        about: node.about.clone(),
    };
    let arrow = |edge: &Edge| v1::LineageArrow {
        from: encode_index(edge.from),
        to: encode_index(edge.to),
        role: encode_role(edge.role).into(),
        label: edge.label.clone(),
    };
    v1::LineageGraph {
        nodes: graph.nodes.iter().map(node).collect(),
        arrows: graph.edges.iter().map(arrow).collect(),
        starts: Vec::new(),
        registry_revision: 0,
    }
}

fn encode_index(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

fn encode_role(role: Role) -> v1::lineage_arrow::Role {
    use v1::lineage_arrow::Role as Wire;
    match role {
        Role::Has => Wire::Has,
        Role::Feeds => Wire::Feeds,
        Role::Key => Wire::Key,
        Role::EventTime => Wire::EventTime,
        Role::KnownTime => Wire::KnownTime,
        Role::Identifies => Wire::Identifies,
        Role::PartOf => Wire::PartOf,
        Role::Taken => Wire::Taken,
        Role::LookedUp => Wire::LookedUp,
        Role::Trains => Wire::Trains,
        Role::SpineOf => Wire::SpineOf,
        Role::MayTrain => Wire::MayTrain,
        Role::UsedBy => Wire::UsedBy,
        Role::SharedBy => Wire::SharedBy,
    }
}
