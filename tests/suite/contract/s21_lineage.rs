//! Contract, section 21: what is made of what, and who uses it.

use hydrant::registry::definition::Kind;
use hydrant::registry::graph::Direction;
use hydrant::tenancy::Action;
use serde_json::json;

use super::SHOP;
use crate::support::node::{AS_KNOWN, START, TestNode};
use crate::support::sets::{set_name, stored};
use crate::support::table::spine;

const CONSUMER: &str = "
apiVersion: hydrant/v1
kind: Consumer
metadata: {name: churn_model, owner: ml@example.com}
spec: {version: '4', services: [model@1]}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_training_set_and_a_consumer_are_downstream_of_the_columns_that_they_are_made_of() {
    let mut node = TestNode::start(SHOP).await;
    node.apply(CONSUMER).await;
    let id = node.store(&spine(&json!([{"user_id": 1, "friend_id": 2, "at": START}]))).await;
    node.save("set", stored(id, &["model"], AS_KNOWN)).await;
    for _ in 0..2 {
        let (graph, _) = node.use_cases().registry.graph(&node.permit(Action::ReadDefinitions)).expect("it is there");
        let around = |direction| {
            let part = graph.around(&graph.named("set", None).expect("it is saved"), direction).expect("small");
            part.nodes.into_iter().map(|node| node.name).collect::<Vec<_>>()
        };
        let up = around(Direction::Up);
        for of in ["clicks.amount", "facts", "user_facts", "user_facts:plan", "model@1", id.to_string().as_str()] {
            assert!(up.iter().any(|name| name == of), "it is made of {of}: {up:?}");
        }
        assert_eq!(around(Direction::Down), ["set@1", "churn_model"]);
        let down = |of: &str| {
            let part = graph.around(&graph.named(of, None).expect("it is there"), Direction::Down).expect("small");
            part.nodes.into_iter().map(|node| node.name).collect::<Vec<_>>()
        };
        for of in ["clicks.amount", "facts.plan", "facts.level", "facts.user_id", "user", "user_facts", "model@1"] {
            let down = down(of);
            for end in ["set@1", "churn_model"] {
                assert!(down.iter().any(|name| name == end), "{of} leads to {end}: {down:?}");
            }
        }
        // No service takes the score.
        assert_eq!(down("clicks.score").len(), 5);
        node.restart().await;
    }
    let change = node.permit(Action::ChangeDefinitions);
    let registry = node.use_cases().registry.clone();
    let refused = registry.delete(&change, Kind::FeatureService, &set_name("model"), String::new()).await;
    let refused = refused.expect_err("it is used twice");
    assert!(refused.message.contains("Consumer/churn_model (ml@example.com), TrainingSet/set@1"), "{refused}");
    drop((change, registry));
}
