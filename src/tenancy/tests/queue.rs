use std::time::{Duration, Instant};

use super::super::admission::{Arrival, Asked, Class, Queue, Refused, Start, TenantIndex, Ticket, Verdicts};
use super::super::rules::Rules;
use super::{MILLI, rules, with_online};

/// A queue of numbered requests under a clock of its own.
struct Scene {
    queue: Queue<u32>,
    now: Instant,
    begun: Vec<u32>,
    starts: Vec<Start>,
    refused: Vec<(u32, Refused)>,
    next: u32,
    /// Of those that have begun and not ended, the oldest first.
    under_way: Vec<(Class, TenantIndex)>,
    /// Who is told to begin doesn't wake up by itself.
    sleeps: bool,
}

impl Scene {
    fn new(rules: &Rules, tenants: usize) -> Self {
        let mut queue = Queue::new(rules);
        for _ in 0..tenants {
            queue.add_tenant(1);
        }
        let mut scene = Self {
            queue,
            now: Instant::now(),
            begun: Vec::new(),
            starts: Vec::new(),
            refused: Vec::new(),
            next: 0,
            under_way: Vec::new(),
            sleeps: false,
        };
        // The first of all lets in what has arrived; here nothing has.
        let first = scene.arrive(Class::Online, 0);
        assert!(matches!(first, Arrival::Begins(Start { pulse: true, .. })), "{first:?}");
        scene.act(|queue, now, verdicts| queue.end_pulse(now, verdicts));
        scene.end(Class::Online);
        scene.next = 0;
        scene
    }

    fn arrive(&mut self, class: Class, tenant: TenantIndex) -> Arrival {
        self.arrive_asking(class, tenant, Asked { cost: 1, bytes: 1, useful_until: None })
    }

    /// The request gets the next number.
    fn arrive_asking(&mut self, class: Class, tenant: TenantIndex, asked: Asked) -> Arrival {
        let number = self.next;
        self.next += 1;
        let arrival = self.act(|queue, now, verdicts| queue.arrive(now, class, tenant, asked, || number, verdicts));
        if let Arrival::Begins(_) = arrival {
            self.under_way.push((class, tenant));
        }
        arrival
    }

    /// The oldest of a class under way.
    fn end(&mut self, class: Class) {
        self.leave(class, true, None);
    }

    /// An online request, that was worked on for so long.
    fn end_after(&mut self, work: Duration) {
        self.leave(Class::Online, true, Some(self.now - work));
    }

    fn leave(&mut self, class: Class, is_working: bool, begun: Option<Instant>) {
        let oldest = self.under_way.iter().position(|(of, _)| *of == class).expect("one is under way");
        let (class, tenant) = self.under_way.remove(oldest);
        self.act(|queue, now, verdicts| queue.leave(|| now, class, tenant, is_working, begun, verdicts));
    }

    fn act<T>(&mut self, act: impl FnOnce(&mut Queue<u32>, Instant, &mut Verdicts<u32>) -> T) -> T {
        let mut verdicts = Verdicts::default();
        let outcome = act(&mut self.queue, self.now, &mut verdicts);
        for (number, start) in verdicts.begin {
            // As if it woke up at once; unless a test wants to see what happens until then.
            if !self.sleeps {
                self.queue.take_up(start.class, start.tenant);
            }
            self.begun.push(number);
            self.under_way.push((start.class, start.tenant));
            self.starts.push(start);
        }
        self.refused.extend(verdicts.refused);
        outcome
    }

    fn taken_begun(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.begun)
    }
}

fn ticket(arrival: Arrival) -> Ticket {
    match arrival {
        Arrival::Waits(ticket) => ticket,
        other => panic!("it should wait: {other:?}"),
    }
}

#[test]
fn a_free_place_is_taken_at_once_and_otherwise_the_first_to_come_is_the_first_to_begin() {
    let mut scene = Scene::new(&rules(2), 1);
    assert!(matches!(scene.arrive(Class::Online, 0), Arrival::Begins(_)));
    assert!(matches!(scene.arrive(Class::Online, 0), Arrival::Begins(_)));
    for _ in 2..5 {
        ticket(scene.arrive(Class::Online, 0));
    }
    scene.end(Class::Online);
    scene.end(Class::Online);
    assert_eq!(scene.taken_begun(), [2, 3]);
    scene.end(Class::Online);
    assert_eq!(scene.taken_begun(), [4]);
    assert_eq!((scene.queue.working(Class::Online), scene.queue.waiting(Class::Online)), (2, 0));
}

#[test]
fn a_request_whose_caller_has_given_up_is_refused_before_anything_else() {
    let mut scene = Scene::new(&rules(1), 1);
    let now = scene.now;
    let past = Asked { cost: 1, bytes: 1, useful_until: Some(now) };
    assert_eq!(scene.arrive_asking(Class::Online, 0, past), Arrival::Refused(Refused::Late));
    assert!(matches!(scene.arrive(Class::Online, 0), Arrival::Begins(_)));
    let soon = Asked { useful_until: Some(now + 3 * MILLI), ..past };
    ticket(scene.arrive_asking(Class::Online, 0, soon));
    ticket(scene.arrive(Class::Online, 0));
    scene.now += 3 * MILLI;
    scene.end(Class::Online);
    assert_eq!(scene.refused, [(2, Refused::Late)]);
    assert_eq!(scene.taken_begun(), [3], "its place goes to the next");
}

#[test]
fn a_request_that_cannot_be_served_in_time_is_refused_when_it_comes() {
    let mut scene = Scene::new(&rules(1), 1);
    // Requests take 2 ms, and there is always one that waits.
    assert!(matches!(scene.arrive(Class::Online, 0), Arrival::Begins(_)));
    ticket(scene.arrive(Class::Online, 0));
    for _ in 0..100 {
        ticket(scene.arrive(Class::Online, 0));
        scene.end_after(2 * MILLI);
    }
    let within = |millis: u32| Asked { cost: 1, bytes: 1, useful_until: Some(scene.now + millis * MILLI) };
    let (too_soon, in_time) = (within(3), within(5));
    assert_eq!(scene.arrive_asking(Class::Online, 0, too_soon), Arrival::Refused(Refused::Overloaded));
    ticket(scene.arrive_asking(Class::Online, 0, in_time));
}

#[test]
fn requests_are_served_in_order_although_they_have_waited_beyond_the_target_unless_the_queue_stands() {
    let mut scene = Scene::new(&rules(1), 1);
    scene.arrive(Class::Online, 0);
    for _ in 1..=3 {
        ticket(scene.arrive(Class::Online, 0));
    }
    scene.now += 8 * MILLI;
    ticket(scene.arrive(Class::Online, 0));
    for _ in 0..4 {
        scene.end(Class::Online);
    }
    assert_eq!((scene.taken_begun(), scene.refused), (vec![1, 2, 3, 4], vec![]));
}

#[test]
fn a_queue_that_stands_refuses_those_that_have_waited_beyond_the_target() {
    let mut scene = Scene::new(&rules(1), 1);
    scene.arrive(Class::Online, 0);
    // One request a millisecond comes, and one of two is served: the queue never empties.
    for _ in 0..200 {
        scene.now += MILLI;
        ticket(scene.arrive(Class::Online, 0));
        if scene.next.is_multiple_of(2) {
            scene.end(Class::Online);
        }
    }
    assert!(scene.refused.iter().all(|(_, why)| *why == Refused::Overloaded));
    let oldest_refused = scene.refused.iter().map(|(number, _)| *number).max().expect("some were refused");
    assert!(oldest_refused >= 194, "refused about 5 ms after they came: {oldest_refused}");
    assert!(scene.queue.waiting(Class::Online) <= 5);
    scene.taken_begun();
    let newest = scene.next;
    ticket(scene.arrive(Class::Online, 0));
    scene.end(Class::Online);
    assert_eq!(scene.taken_begun(), [newest], "its caller still waits");
    // Load falls: the queue is empty for a while, and then it is served in order again.
    while scene.queue.waiting(Class::Online) > 0 {
        scene.end(Class::Online);
    }
    scene.now += 5 * MILLI;
    scene.taken_begun();
    let first = scene.next;
    ticket(scene.arrive(Class::Online, 0));
    ticket(scene.arrive(Class::Online, 0));
    scene.end(Class::Online);
    assert_eq!(scene.taken_begun(), [first]);
}

/// For so long, three requests a millisecond come where one can be done; how long after the first of them the first
/// was refused.
fn overloaded(scene: &mut Scene, lasting: u32) -> Option<Duration> {
    let (begun, refused) = (scene.now, scene.refused.len());
    let mut after = None;
    for _ in 0..lasting {
        scene.now += MILLI;
        for _ in 0..3 {
            scene.arrive(Class::Online, 0);
        }
        scene.end(Class::Online);
        if after.is_none() && scene.refused.len() > refused {
            after = Some(scene.now - begun);
        }
    }
    while scene.queue.working(Class::Online) > 0 {
        scene.end(Class::Online);
    }
    after
}

#[test]
fn a_queue_that_stood_a_moment_ago_stands_again_sooner_and_one_that_did_long_ago_does_not() {
    let mut scene = Scene::new(&rules(1), 1);
    let first = overloaded(&mut scene, 60).expect("some are refused");
    assert!((33 * MILLI..40 * MILLI).contains(&first), "{first:?}");
    scene.now += Duration::from_millis(500);
    let again = overloaded(&mut scene, 60).expect("some are refused");
    assert!((12 * MILLI..20 * MILLI).contains(&again), "{again:?}");
    // Nobody asks who would find it empty.
    scene.now += Duration::from_secs(3_600);
    assert_eq!(overloaded(&mut scene, 25), None);
}

/// Two tenants of the same weight, where one request a millisecond can be done: for a while the second sends three
/// quarters of that, and the first so many times that. How many of each are refused.
fn refused_beside(times: u32, lasting: u32) -> [usize; 2] {
    let mut scene = Scene::new(&rules(1), 2);
    scene.arrive(Class::Online, 0);
    let (mut of_second, mut at_once) = (Vec::new(), [0, 0]);
    for milli in 0..lasting {
        scene.now += MILLI;
        for _ in 0..times {
            at_once[0] += usize::from(scene.arrive(Class::Online, 0) == Arrival::Refused(Refused::Overloaded));
        }
        if milli % 4 != 0 {
            of_second.push(scene.next);
            at_once[1] += usize::from(scene.arrive(Class::Online, 1) == Arrival::Refused(Refused::Overloaded));
        }
        scene.end_after(MILLI);
    }
    let of_second = scene.refused.iter().filter(|(number, _)| of_second.contains(number)).count();
    [scene.refused.len() - of_second + at_once[0], of_second + at_once[1]]
}

#[test]
fn while_much_more_waits_of_a_neighbour_a_tenant_is_not_refused_for_want_of_room() {
    let [of_first, of_second] = refused_beside(20, 40);
    assert!(of_first > 500 && of_second == 0, "{of_first}, {of_second}");
    let [_, of_second] = refused_beside(2, 80);
    assert!(of_second > 3, "its own excess is as large: {of_second}");
    let [_, of_second] = refused_beside(20, 80);
    assert!(of_second > 3, "what waits of it takes too long by itself: {of_second}");
}

/// One that stands, of the first of two tenants: more comes than can be done, and each request works for so long.
fn standing(work: Duration) -> Scene {
    let mut scene = Scene::new(&rules(1), 2);
    scene.arrive(Class::Online, 0);
    for _ in 0..60 {
        for _ in 0..3 {
            scene.arrive(Class::Online, 0);
        }
        scene.now += MILLI;
        scene.end_after(work);
    }
    assert!(!scene.refused.is_empty());
    scene
}

#[test]
fn a_queue_that_stands_is_kept_short_and_who_comes_to_a_full_one_is_refused_at_once() {
    // An eighth of 5 ms is room for twelve requests of 0.05 ms; of those that take longer six more than there are
    // places may wait.
    for (work, room) in [(MILLI / 20, 12), (2 * MILLI, 7)] {
        let mut scene = standing(work);
        while scene.queue.waiting(Class::Online) >= room {
            scene.end_after(work);
        }
        while scene.queue.waiting(Class::Online) < room - 1 {
            ticket(scene.arrive(Class::Online, 0));
        }
        let newest = scene.next;
        ticket(scene.arrive(Class::Online, 0));
        let refused = scene.refused.len();
        assert_eq!(scene.arrive(Class::Online, 0), Arrival::Refused(Refused::Overloaded), "{work:?}");
        assert_eq!(
            (scene.refused.len(), scene.queue.waiting(Class::Online)),
            (refused, room),
            "nobody had to go for it"
        );
        scene.taken_begun();
        scene.end_after(work);
        assert_eq!(scene.taken_begun(), [newest], "the newest of those that were let in");
        ticket(scene.arrive(Class::Online, 0));
    }
}

#[test]
fn a_queue_that_is_kept_short_may_grow_again_where_nobody_has_waited_in_vain_for_a_while() {
    let work = MILLI / 10;
    let mut scene = standing(work);
    // Every 3 ms ten come at once, and can all be done by the next time.
    let mut refused = Vec::new();
    for _ in 0..300 {
        while scene.queue.working(Class::Online) > 0 {
            scene.end_after(work);
        }
        scene.now += 3 * MILLI;
        let arrivals: Vec<Arrival> = (0..10).map(|_| scene.arrive(Class::Online, 0)).collect();
        refused.push(arrivals.iter().filter(|arrival| matches!(arrival, Arrival::Refused(_))).count());
    }
    assert_eq!((refused[0], refused[10]), (2, 2), "one begins, and seven may wait");
    assert_eq!(refused[200..], [0; 100]);
}

#[test]
fn a_queue_that_stands_is_not_kept_short_while_others_wait() {
    let mut scene = standing(MILLI / 10);
    assert!((0..10).any(|_| scene.arrive(Class::Online, 0) == Arrival::Refused(Refused::Overloaded)));
    let other = ticket(scene.arrive(Class::Online, 1));
    ticket(scene.arrive(Class::Online, 0));
    scene.act(|queue, now, verdicts| queue.give_up(now, other, verdicts));
    assert_eq!(scene.arrive(Class::Online, 0), Arrival::Refused(Refused::Overloaded));
}

#[test]
fn what_comes_of_a_queue_that_stands_is_better_unread_while_another_s_request_goes_before_its_next() {
    let work = MILLI / 10;
    let mut scene = standing(work);
    assert!(!scene.queue.is_better_unread(0), "nobody else waits");
    let of_other: Vec<u32> = (0..4)
        .map(|_| {
            ticket(scene.arrive(Class::Online, 1));
            scene.next - 1
        })
        .collect();
    assert!(!scene.queue.is_better_unread(1), "its own queue doesn't stand");
    scene.queue.begin_unread(0);
    // They take turns, as they have the same weight.
    let turns: Vec<bool> = (0..8)
        .map(|_| {
            let is_unread = scene.queue.is_better_unread(0);
            assert_eq!(scene.queue.to_be_read().is_empty(), is_unread);
            scene.taken_begun();
            scene.end_after(work);
            let begun = scene.taken_begun();
            assert_eq!(is_unread, of_other.contains(&begun[0]), "{begun:?}");
            is_unread
        })
        .collect();
    assert_eq!(turns.iter().filter(|is_unread| **is_unread).count(), 4, "{turns:?}");
    assert_eq!(scene.queue.to_be_read(), [0]);
    scene.queue.end_unread(0);
    assert!(scene.queue.to_be_read().is_empty());
}

#[test]
fn writes_keep_their_order_however_long_they_wait() {
    let mut scene = Scene::new(&rules(1), 1);
    let places = 64;
    for _ in 0..places {
        assert!(matches!(scene.arrive(Class::Ingest, 0), Arrival::Begins(_)));
    }
    let first = scene.next;
    for _ in 0..10 {
        ticket(scene.arrive(Class::Ingest, 0));
        scene.now += Duration::from_millis(300);
    }
    for _ in 0..10 {
        scene.end(Class::Ingest);
    }
    assert_eq!(scene.taken_begun(), (first..first + 10).collect::<Vec<_>>());
}

#[test]
fn each_tenant_s_queue_is_bounded_in_requests_and_in_bytes() {
    let bounded = with_online(rules(1), |online| {
        online.max_waiting = 3;
        online.max_waiting_bytes = 100;
    });
    let mut scene = Scene::new(&bounded, 2);
    scene.arrive(Class::Online, 0);
    for _ in 0..3 {
        ticket(scene.arrive(Class::Online, 0));
    }
    assert_eq!(scene.arrive(Class::Online, 0), Arrival::Refused(Refused::Overloaded));
    let large = Asked { cost: 1, bytes: 60, useful_until: None };
    ticket(scene.arrive_asking(Class::Online, 1, large));
    assert_eq!(scene.arrive_asking(Class::Online, 1, large), Arrival::Refused(Refused::Overloaded));
    let larger = Asked { cost: 1, bytes: 101, useful_until: None };
    assert_eq!(scene.arrive_asking(Class::Online, 1, larger), Arrival::Refused(Refused::Overloaded));
    // Where the newest is served first it is the oldest that makes room.
    scene.now += 21 * MILLI;
    ticket(scene.arrive(Class::Online, 0));
    assert_eq!(scene.refused, [(1, Refused::Overloaded)]);
}

#[test]
fn reads_go_before_writes_and_writes_before_training_sets_and_none_starves() {
    let mut scene = Scene::new(&rules(1), 1);
    let (ingest, training) = (64, 2);
    let floor = ingest / 8;
    // Writes under way fill their places; a read under way and one that waits.
    for _ in 0..floor {
        assert!(matches!(scene.arrive(Class::Ingest, 0), Arrival::Begins(_)));
    }
    assert!(matches!(scene.arrive(Class::Online, 0), Arrival::Begins(_)));
    ticket(scene.arrive(Class::Online, 0));
    // Beyond their floor, writes wait although they have places; training sets keep one.
    let waiting_write = scene.next;
    ticket(scene.arrive(Class::Ingest, 0));
    assert!(matches!(scene.arrive(Class::Training, 0), Arrival::Begins(_)));
    let waiting_set = scene.next;
    ticket(scene.arrive(Class::Training, 0));
    scene.end(Class::Ingest);
    assert_eq!(scene.taken_begun(), [waiting_write], "within the floor one goes on");
    let held_back = scene.next;
    ticket(scene.arrive(Class::Ingest, 0));
    assert!(scene.taken_begun().is_empty());
    // No read waits any more: first the writes, then the training sets.
    scene.end(Class::Online);
    assert_eq!(scene.taken_begun()[1..], [held_back, waiting_set]);
    assert_eq!(scene.queue.working(Class::Training), training);
}

#[test]
fn a_request_that_waits_for_a_disk_leaves_its_place_to_others_and_is_not_made_to_wait_again() {
    let bounded = with_online(rules(1), |online| online.in_flight = 3);
    let mut scene = Scene::new(&bounded, 1);
    scene.arrive(Class::Online, 0);
    ticket(scene.arrive(Class::Online, 0));
    scene.act(|queue, now, verdicts| queue.pause(now, Class::Online, verdicts));
    assert_eq!(scene.taken_begun(), [1]);
    scene.queue.resume(Class::Online);
    assert_eq!((scene.queue.working(Class::Online), scene.queue.in_flight(Class::Online)), (2, 2));
    scene.act(|queue, now, verdicts| queue.pause(now, Class::Online, verdicts));
    scene.act(|queue, now, verdicts| queue.pause(now, Class::Online, verdicts));
    assert!(matches!(scene.arrive(Class::Online, 0), Arrival::Begins(_)));
    scene.act(|queue, now, verdicts| queue.pause(now, Class::Online, verdicts));
    ticket(scene.arrive(Class::Online, 0));
    assert!(scene.taken_begun().is_empty(), "as many are under way as may be");
    scene.leave(Class::Online, false, None);
    assert_eq!(scene.taken_begun(), [3]);
}

#[test]
fn who_has_much_under_way_leaves_room_for_whoever_comes_and_holds_up_nobody() {
    let bounded = with_online(rules(1), |online| (online.in_flight, online.for_each_free) = (12, Some(2)));
    let mut scene = Scene::new(&bounded, 3);
    let begins_and_waits_for_a_disk = |scene: &mut Scene, tenant| {
        let begins = matches!(scene.arrive(Class::Online, tenant), Arrival::Begins(_));
        if begins {
            scene.act(|queue, now, verdicts| queue.pause(now, Class::Online, verdicts));
        }
        begins
    };
    let mut most = |tenant| (0..20).take_while(|_| begins_and_waits_for_a_disk(&mut scene, tenant)).count();
    // Eight of twelve leave four, three beside them leave one.
    assert_eq!([most(0), most(1), most(2)], [8, 3, 1]);
    assert_eq!(scene.queue.waiting(Class::Online), 3, "the one of each that may not begin");
    scene.starts.clear();
    scene.leave(Class::Online, false, None);
    let begun: Vec<TenantIndex> = scene.starts.iter().map(|start| start.tenant).collect();
    assert_eq!(begun, [2], "the one that becomes free is for whoever has least");
}

#[test]
fn what_is_refused_together_with_a_newcomer_keeps_nothing_from_beginning() {
    let mut scene = Scene::new(&rules(1), 1);
    scene.arrive(Class::Online, 0);
    ticket(scene.arrive(Class::Online, 0));
    for _ in 0..rules(1).classes[Class::Ingest as usize].floor {
        assert!(matches!(scene.arrive(Class::Ingest, 0), Arrival::Begins(_)));
    }
    ticket(scene.arrive(Class::Ingest, 0));
    let write = scene.next - 1;
    scene.now += rules(1).classes[Class::Online as usize].patience + MILLI;
    let too_large = Asked { cost: 1, bytes: usize::MAX, useful_until: None };
    assert!(matches!(scene.arrive_asking(Class::Online, 0, too_large), Arrival::Refused(Refused::Overloaded)));
    assert_eq!((scene.refused.len(), scene.taken_begun()), (1, vec![write]));
}

#[test]
fn who_sends_what_nobody_could_answer_in_time_doesn_t_change_how_long_requests_are_taken_to_work() {
    let mut scene = Scene::new(&rules(1), 2);
    let hopeless = |scene: &mut Scene, within: Duration| {
        let asked = Asked { cost: 1, bytes: 1, useful_until: Some(scene.now + within) };
        matches!(scene.arrive_asking(Class::Online, 1, asked), Arrival::Refused(Refused::Overloaded))
    };
    // Sixteen of 8 ms each: that is nearly what they are taken for.
    scene.arrive(Class::Online, 0);
    for _ in 0..16 {
        ticket(scene.arrive(Class::Online, 0));
        scene.now += 8 * MILLI;
        scene.end_after(8 * MILLI);
    }
    for _ in 0..1_000 {
        assert!(hopeless(&mut scene, MILLI), "one within a millisecond");
    }
    assert!(hopeless(&mut scene, 5 * MILLI));
    // With time it fades.
    let mut times = 0;
    while hopeless(&mut scene, 5 * MILLI) {
        scene.now += 8 * MILLI;
        times += 1;
        assert!(times < 20);
    }
}

fn pulsing(places: usize) -> Rules {
    Rules { pulse: 4 * MILLI, shared_pulse: MILLI, ..rules(places) }
}

#[test]
fn while_one_lets_in_what_has_arrived_the_others_are_put_in_order() {
    let mut scene = Scene::new(&pulsing(2), 2);
    assert!(matches!(scene.arrive(Class::Online, 0), Arrival::Begins(Start { pulse: false, .. })));
    scene.end(Class::Online);
    scene.now += 4 * MILLI;
    assert!(matches!(scene.arrive(Class::Online, 0), Arrival::Begins(Start { pulse: true, .. })));
    for tenant in [0, 0, 0, 1] {
        ticket(scene.arrive(Class::Online, tenant));
    }
    assert!(scene.taken_begun().is_empty(), "although a place is free");
    assert!(matches!(scene.arrive(Class::Ingest, 0), Arrival::Begins(_)), "writes are not concerned");
    scene.act(|queue, now, verdicts| queue.end_pulse(now, verdicts));
    assert_eq!(scene.taken_begun(), [5], "the tenant that has had less");
}

#[test]
fn what_has_arrived_is_let_in_more_often_where_several_tenants_ask_and_some_wait() {
    /// Of 40 requests that begin a millisecond apart, while so many more wait, how many let in others.
    fn pulses(tenants: &[TenantIndex], waiting: usize) -> usize {
        let mut scene = Scene::new(&pulsing(1), 2);
        scene.arrive(Class::Online, 0);
        for _ in 0..waiting {
            ticket(scene.arrive(Class::Online, 0));
        }
        let begin = |turn: usize| {
            scene.now += MILLI;
            ticket(scene.arrive(Class::Online, tenants[turn % tenants.len()]));
            scene.end(Class::Online);
            let pulse = scene.starts.pop().expect("another has the place").pulse;
            if pulse {
                scene.act(|queue, now, verdicts| queue.end_pulse(now, verdicts));
            }
            pulse
        };
        (0..40).map(begin).filter(|pulse| *pulse).count()
    }
    // Until the second has asked there is one tenant.
    assert_eq!((pulses(&[0], 0), pulses(&[0], 1), pulses(&[0, 1], 0), pulses(&[0, 1], 1)), (10, 10, 10, 39));
}

#[test]
fn a_request_that_is_given_up_leaves_no_trace() {
    let mut scene = Scene::new(&rules(1), 2);
    scene.arrive(Class::Online, 0);
    let first = ticket(scene.arrive(Class::Online, 0));
    let second = ticket(scene.arrive(Class::Online, 1));
    assert_eq!(scene.act(|queue, now, verdicts| queue.give_up(now, first, verdicts)), Some(1));
    assert_eq!(scene.act(|queue, now, verdicts| queue.give_up(now, first, verdicts)), None);
    scene.end(Class::Online);
    assert_eq!(scene.taken_begun(), [2]);
    assert_eq!(scene.act(|queue, now, verdicts| queue.give_up(now, second, verdicts)), None, "it has begun");
    scene.end(Class::Online);
    for class in Class::ALL {
        let counts = (scene.queue.working(class), scene.queue.in_flight(class), scene.queue.waiting(class));
        assert_eq!(counts, (0, 0, 0));
    }
}

#[test]
fn a_place_that_waits_for_its_owner_to_wake_up_is_used_meanwhile_but_not_past_another_tenant() {
    for other_waits in [false, true] {
        let mut scene = Scene::new(&rules(1), 2);
        scene.sleeps = true;
        assert!(matches!(scene.arrive(Class::Online, 0), Arrival::Begins(_)));
        // Nobody has the place but who works in it.
        ticket(scene.arrive(Class::Online, 0));
        ticket(scene.arrive(Class::Online, 0));
        if other_waits {
            ticket(scene.arrive(Class::Online, 1));
        }
        scene.end(Class::Online);
        let told = if other_waits { 3 } else { 1 };
        assert_eq!(scene.taken_begun(), [told], "it is told, and sleeps");
        let passes = matches!(scene.arrive(Class::Online, 0), Arrival::Begins(_));
        assert_eq!(passes, !other_waits);
        ticket(scene.arrive(Class::Online, 0));
        if other_waits {
            continue;
        }
        scene.end(Class::Online);
        assert_eq!(scene.taken_begun(), [0; 0], "the place is still that of the one that sleeps");
        scene.queue.take_up(Class::Online, 0);
        ticket(scene.arrive(Class::Online, 0));
    }
}
