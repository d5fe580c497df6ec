//! The gate under real threads, with several tenants.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use crate::clock::{ManualTicker, SystemTicker, Ticker};
use crate::error::{Code, Result};
use crate::tenancy::{
    Account, Action, AdmissionSettings, Backpressure, Class, Demand, Identity, Limits, Permit, Tenancy, Turned,
};

struct Scene {
    tenancy: Tenancy,
    accounts: Vec<Arc<Account>>,
}

impl Scene {
    fn new(settings: &AdmissionSettings, tenants: usize) -> Arc<Self> {
        Self::with(settings, tenants, Arc::new(SystemTicker))
    }

    fn with(settings: &AdmissionSettings, tenants: usize, ticker: Arc<dyn Ticker>) -> Arc<Self> {
        let tenancy = Tenancy::with(Limits::default(), settings, ticker);
        for tenant in 0..tenants {
            tenancy.set_limits(&format!("tenant_{tenant}").parse().expect("a name"), Limits::default());
        }
        let accounts = tenancy.accounts().into_iter().filter(|account| account.tenant().as_str() != "default");
        Arc::new(Self { accounts: accounts.collect(), tenancy })
    }

    async fn read(&self, tenant: usize, useful_until: Option<Instant>) -> Result<Permit, Turned> {
        let demand = Demand { cost: 1, bytes: 1, useful_until };
        let account = self.accounts[tenant].clone();
        let identity = Identity::loopback();
        let admitted = self.tenancy.admit_to(account, &identity, Action::ReadOnline, Class::Online, demand);
        admitted.await.map_err(|(turned, _)| turned)
    }

    /// Until so many reads wait.
    async fn until_waiting(&self, wanted: usize) {
        while self.tenancy.waiting(Class::Online) != wanted {
            tokio::task::yield_now().await;
        }
    }
}

fn places(online_places: usize) -> AdmissionSettings {
    // Nobody is refused for the machine being busy with something else.
    AdmissionSettings { online_places, target_wait: Duration::from_secs(60), ..AdmissionSettings::default() }
}

#[tokio::test]
async fn the_tenant_that_has_had_less_is_next_however_many_of_another_wait() {
    let scene = Scene::new(&places(1), 2);
    let first = scene.read(0, None).await.expect("a free place");
    let (begun, mut order) = mpsc::channel(16);
    for tenant in [0, 0, 0, 0, 1] {
        let (of_task, begun) = (scene.clone(), begun.clone());
        let waiting = scene.tenancy.waiting(Class::Online);
        tokio::spawn(async move {
            let permit = of_task.read(tenant, None).await.expect("its turn comes");
            begun.send(permit.tenant().to_string()).await.expect("the test listens");
        });
        scene.until_waiting(waiting + 1).await;
    }
    drop((first, begun));
    assert_eq!(order.recv().await.as_deref(), Some("tenant_1"));
    for _ in 0..4 {
        assert_eq!(order.recv().await.as_deref(), Some("tenant_0"));
    }
    assert_eq!(order.recv().await, None);
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_its_request_out_of_the_queue() {
    let scene = Scene::new(&places(1), 1);
    let first = scene.read(0, None).await.expect("a free place");
    let of_task = scene.clone();
    let waits = tokio::spawn(async move { of_task.read(0, None).await.is_ok() });
    scene.until_waiting(1).await;
    waits.abort();
    assert!(waits.await.expect_err("aborted").is_cancelled());
    assert_eq!(scene.tenancy.waiting(Class::Online), 0);
    drop(first);
    let _second = scene.read(0, None).await.expect("nobody is before it");
}

#[tokio::test]
async fn who_waits_in_vain_is_told_at_its_deadline() {
    let scene = Scene::new(&places(1), 1);
    let _first = scene.read(0, None).await.expect("a free place");
    let deadline = SystemTicker.now() + Duration::from_millis(2);
    let refused = scene.read(0, Some(deadline)).await.expect_err("the place is never free");
    assert!(matches!(refused, Turned::Away(crate::tenancy::Refused::Late)));
    assert_eq!(scene.tenancy.waiting(Class::Online), 0);
}

#[tokio::test]
async fn who_waits_too_long_for_a_place_is_refused_with_when_to_try_again() {
    let settings =
        AdmissionSettings { online_places: 1, target_wait: Duration::from_micros(100), ..Default::default() };
    let tenancy = Tenancy::with(Limits::default(), &settings, Arc::new(SystemTicker));
    let identity = Identity::loopback();
    let admit = || tenancy.admit(&identity, Action::ReadOnline, Demand::default());
    let _first = admit().await.expect("a free place");
    let refused = admit().await.expect_err("the place is never free");
    assert_eq!((refused.code, refused.reason), (Code::ResourceExhausted, "OVERLOADED"));
    assert!(refused.retry_after.is_some());
}

#[tokio::test]
async fn what_is_left_unread_for_others_is_read_when_they_have_begun() {
    let (settings, clock) = (places(1), Arc::new(ManualTicker::default()));
    let scene = Scene::with(&settings, 2, clock.clone());
    let first = scene.read(0, None).await.expect("a free place");
    let wait = |tenant: usize| {
        let of_task = scene.clone();
        tokio::spawn(async move { of_task.read(tenant, None).await.is_ok() })
    };
    let backpressure = Backpressure::new(scene.tenancy.gate.clone(), scene.accounts[0].clone());
    // More and more wait, and none begins.
    for _ in 0..20 {
        wait(0);
        tokio::task::yield_now().await;
        clock.advance(settings.target_wait / 2);
    }
    assert!(!backpressure.is_on() && !backpressure.is_shared());
    let other = wait(1);
    tokio::task::yield_now().await;
    assert!(backpressure.is_on() && backpressure.is_shared());
    // Until it is told, and not only for as long as it waits at most.
    let (gate, tenant) = (scene.tenancy.gate.clone(), scene.accounts[0].index);
    let told = tokio::spawn(async move { gate.until_read(tenant).await });
    let passed = tokio::spawn(async move { backpressure.passed().await });
    tokio::task::yield_now().await;
    assert!(!passed.is_finished() && !told.is_finished());
    drop(first);
    assert!(other.await.expect("it ends"));
    tokio::time::timeout(Duration::from_secs(60), told).await.expect("it is told").expect("it ends");
    passed.await.expect("it ends");
    assert_eq!(scene.accounts[0].counts().left_unread(), 1);
}

#[tokio::test]
async fn a_read_that_waits_for_something_else_lets_the_next_begin() {
    let scene = Scene::new(&places(1), 1);
    let disk = Arc::new(Notify::new());
    let (of_task, of_disk) = (scene.clone(), disk.clone());
    let reading = tokio::spawn(async move {
        let permit = of_task.read(0, None).await.expect("a free place");
        permit.run(of_disk.notified()).await;
        of_task.tenancy.working(Class::Online)
    });
    while scene.tenancy.in_flight(Class::Online) != 1 || scene.tenancy.working(Class::Online) != 0 {
        tokio::task::yield_now().await;
    }
    let second = scene.read(0, None).await.expect("the place is lent");
    disk.notify_one();
    assert_eq!(reading.await.expect("it ends"), 2, "it goes on at once, beyond the places");
    drop(second);
    assert_eq!((scene.tenancy.working(Class::Online), scene.tenancy.in_flight(Class::Online)), (0, 0));
}

#[tokio::test]
async fn the_disk_is_read_in_turn_by_tenants_however_much_one_of_them_asks_for() {
    let settings = AdmissionSettings { disk_places: 1, ..places(8) };
    let scene = Scene::new(&settings, 2);
    let (greedy, other) = (scene.read(0, None).await.expect("a place"), scene.read(1, None).await.expect("another"));
    let first = greedy.turn_at_disk(64).await.expect("nobody is before it");
    let (read, mut order) = mpsc::channel(16);
    for permit in [&greedy, &greedy, &greedy, &greedy, &other] {
        let (permit, read) = (permit.clone(), read.clone());
        let waiting = scene.tenancy.waiting(Class::Disk);
        tokio::spawn(async move {
            let _turn = permit.turn_at_disk(64).await.expect("its turn comes");
            read.send(permit.tenant().to_string()).await.expect("the test listens");
        });
        while scene.tenancy.waiting(Class::Disk) == waiting {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(scene.tenancy.working(Class::Disk), 1);
    drop((first, read));
    assert_eq!(order.recv().await.as_deref(), Some("tenant_1"));
    for _ in 0..4 {
        assert_eq!(order.recv().await.as_deref(), Some("tenant_0"));
    }
    assert_eq!(order.recv().await, None);
    assert_eq!(scene.accounts[0].counts().admitted(Class::Disk), 5);
}

#[tokio::test]
async fn in_the_middle_of_long_work_another_tenant_has_its_turn_and_nobody_else() {
    for of_another in [true, false] {
        let scene = Scene::new(&places(1), 2);
        let long = scene.read(0, None).await.expect("a free place");
        let of_task = scene.clone();
        let waits = tokio::spawn(async move {
            let permit = of_task.read(usize::from(of_another), None).await.expect("its turn comes");
            permit.run(async {}).await;
        });
        scene.until_waiting(1).await;
        let has_had_its_turn = long.run(async {
            for _ in 0..4 {
                long.give_way().await;
            }
            waits.is_finished()
        });
        assert_eq!(has_had_its_turn.await, of_another);
        drop(long);
        waits.await.expect("it ends");
        assert_eq!((scene.tenancy.working(Class::Online), scene.tenancy.in_flight(Class::Online)), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_many_threads_only_places_of_those_who_sleep_are_used_beyond_them_and_all_is_given_back() {
    const PLACES: usize = 3;
    let scene = Scene::new(&places(PLACES), 3);
    let (working, most, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let counts = Arc::new((working, most, done));
    let tasks = (0..300).map(|number| {
        let (scene, counts) = (scene.clone(), counts.clone());
        tokio::spawn(async move {
            for round in 0..20 {
                let reading = scene.read(number % 3, None);
                // Every seventh is given up wherever it is.
                if (number + round) % 7 == 0 {
                    futures::future::select(Box::pin(reading), Box::pin(tokio::task::yield_now())).await;
                    continue;
                }
                let Ok(permit) = reading.await else { continue };
                let now = counts.0.fetch_add(1, Ordering::SeqCst) + 1;
                counts.1.fetch_max(now, Ordering::SeqCst);
                // Others are on the other threads meanwhile, and on this one.
                tokio::task::yield_now().await;
                counts.0.fetch_sub(1, Ordering::SeqCst);
                counts.2.fetch_add(1, Ordering::SeqCst);
                drop(permit);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("it ends");
    }
    let (_, most, done) = &*counts;
    assert!(done.load(Ordering::SeqCst) > 5_000, "{done:?}");
    let most = most.load(Ordering::SeqCst);
    assert!(most >= PLACES, "they are used: {most}");
    assert!(most <= 2 * PLACES, "of each place one may sleep while another has it: {most}");
    let tenancy = &scene.tenancy;
    let left = (tenancy.working(Class::Online), tenancy.in_flight(Class::Online), tenancy.waiting(Class::Online));
    assert_eq!(left, (0, 0, 0));
}
