//! A spine of few rows beside a long history: the view is sought in, in files and in the tails, and every
//! value is that of a walk.

use hydrant::history::reading::Access;

use super::*;

const USERS: i64 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn a_spine_of_few_rows_seeks_and_gets_what_a_walk_gets() {
    let directory = tempfile::tempdir().expect("a directory");
    let world = World::start(directory.path(), Arc::new(LossyFiles::new(11))).await;
    for request in 0..4i64 {
        // Late rows and deletes among them.
        let row = |n: i64| {
            let number = request * 15_000 + n;
            (number % USERS, START + number * 7_919 % 50_000, (number % 23 != 0).then_some(number as f64))
        };
        world.append(&(0..15_000).map(row).collect::<Vec<_>>()).await;
        if request == 2 {
            world.landing.land_now().await.expect("landed");
        }
    }
    let few: Vec<(i64, i64)> = vec![(0, START + 20_000), (3, START - 1), (3, START + 60_000), (USERS + 1, START + 9)];
    // The same rows first, and so many more that walking is cheaper.
    let many: Vec<(i64, i64)> = few.iter().copied().chain((0..2_000).map(|n| (n % USERS, START + n))).collect();
    let landed_before = world.join(&spine(&few), None).await.1.cutoff;
    for mode in [Mode::AsKnown, Mode::Final] {
        for cutoff in [None, Some(landed_before), Some(landed_before - 3_000)] {
            let join = async |rows: &[(i64, i64)]| {
                let permit = world.tenancy.admit(&Identity::loopback(), Action::ReadHistory, Demand::default()).await;
                let request = HistoricalRequest { mode, with_event_time: true, ..request(cutoff) };
                let mut intake = world.history.open(&permit.expect("a place"), request).expect("opened");
                intake.push(spine(rows)).await.expect("taken");
                let mut stream = intake.finish().await.expect("begun");
                let table = collect(&mut stream).await.0.slice(0, few.len());
                (stream.reading().access(0), table)
            };
            let (sought, walked) = (join(&few).await, join(&many).await);
            assert_eq!((sought.0, walked.0), (Access::Seek, Access::Merge));
            assert_eq!(sought.1, walked.1, "{mode:?} {cutoff:?}");
            let found = column::<Float64Array>(&sought.1, "user_clicks__amount");
            assert!(found.is_valid(0) && found.is_null(1) && found.is_null(3), "{found:?}");
        }
    }
    world.landing.shutdown().await;
    world.partitions.shutdown().await;
}
