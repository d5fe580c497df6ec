//! What a key let in that takes long: it ends when the key is revoked, also in the middle.

use futures::StreamExt as _;
use hydrant::error::Code;
use hydrant::rpc::v1;

use super::access::{Guarded, client, key};
use super::support::{HOUR, NOON, PATIENCE, weather_batch};
use super::training_sets::{command, spine};

/// More than is on its way at a time.
const ROWS: usize = 400_000;

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_and_a_training_set_end_in_the_middle_when_their_key_is_revoked() {
    let guarded = Guarded::start().await;
    let made = guarded.first.create_key(key("", &[v1::Role::Trainer])).await.expect("an admin may");
    let trainer = client(&guarded.server, &made.token).await;
    let spine = spine(ROWS);
    let batches = tokio_stream::iter([Ok(spine.clone())]);
    let stored = trainer.store_spine(spine.schema(), batches).await.expect("stored");
    let endpoints = trainer.endpoints(command(&stored.id, 0)).await.expect("endpoints");
    let mut endpoint = trainer.pull(endpoints.tickets[0].clone()).await.expect("it is let in");
    let exchange = v1::HistoricalFeaturesCommand {
        services: vec!["delay_model".to_owned()],
        event_time: "asked_at".to_owned(),
        ..Default::default()
    };
    let batches = tokio_stream::iter([Ok(spine.clone())]);
    let mut set = trainer.training_set(exchange, spine.schema(), batches).await.expect("it is let in");
    let mut rows = [0; 2];
    rows[0] += endpoint.next().await.expect("good").expect("rows").num_rows();
    rows[1] += set.next().await.expect("good").expect("rows").num_rows();

    guarded.first.revoke_key(&made.key.expect("a key").id).await.expect("an admin may");
    let refused = loop {
        match tokio::time::timeout(PATIENCE, endpoint.next()).await.expect("in time") {
            Ok(batch) => rows[0] += batch.expect("it came to its end").num_rows(),
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused.code, refused.reason.as_str()), (Code::Unauthenticated, "KEY_REVOKED"));
    let refused = loop {
        match tokio::time::timeout(PATIENCE, set.next()).await.expect("in time") {
            Ok(batch) => rows[1] += batch.expect("it came to its end").num_rows(),
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused.code, refused.reason.as_str()), (Code::Unauthenticated, "KEY_REVOKED"));
    assert!(rows.iter().all(|rows| *rows < ROWS), "{rows:?}");
    trainer.endpoints(command(&stored.id, 0)).await.expect_err("nor is it let in again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_and_a_spine_that_stand_still_end_when_their_key_is_revoked_and_another_key_goes_on() {
    let guarded = Guarded::start().await;
    let both = key("", &[v1::Role::Writer, v1::Role::Trainer]);
    let made = guarded.first.create_key(both.clone()).await.expect("an admin may");
    let writer = client(&guarded.server, &made.token).await;
    let batch = weather_batch(&[Some("EWR"), Some("JFK")], &[NOON - 9 * HOUR, NOON - 8 * HOUR], &[1.0, 2.0]);
    let backfill = v1::BackfillCommand {
        source: "weather".to_owned(),
        id: "of a key that is revoked".to_owned(),
        rows: 4,
        ..Default::default()
    };
    // The second batch never comes.
    let first = || tokio_stream::iter([Ok(batch.clone())]).chain(futures::stream::pending());
    let begun = tokio::sync::Notify::new();
    let backfilling = writer.backfill(backfill.clone(), batch.schema(), first(), |_| begun.notify_one());
    let rows = spine(10);
    let storing =
        writer.store_spine(rows.schema(), tokio_stream::iter([Ok(rows.clone())]).chain(futures::stream::pending()));
    let revoking = async {
        begun.notified().await;
        guarded.first.revoke_key(&made.key.as_ref().expect("a key").id).await.expect("an admin may");
    };
    let ended = tokio::time::timeout(PATIENCE, async { tokio::join!(backfilling, storing, revoking) });
    let (backfilled, stored, ()) = ended.await.expect("in time");
    for refused in [backfilled.expect_err("it was revoked"), stored.expect_err("it was revoked")] {
        assert_eq!((refused.code, refused.reason.as_str()), (Code::Unauthenticated, "KEY_REVOKED"));
    }

    let another = client(&guarded.server, &guarded.give(&guarded.first, both).await).await;
    let standing = another.get_backfill(backfill.clone()).await.expect("it is told").standing;
    assert_eq!(standing, Some(v1::get_backfill_response::Standing::StagedRows(0)), "nothing was taken in");
    let batches = tokio_stream::iter([Ok(batch.clone()), Ok(batch.clone())]);
    let report = another.backfill(backfill, batch.schema(), batches, |_| ()).await.expect("it begins anew");
    assert_eq!((report.rows, report.outcome()), (4, v1::backfill_report::Outcome::Applied));
}
