//! Which alerts there are, who is to be told, and what waits to be sent: a book that is kept by hand and
//! persisted as a whole. It sends nothing and reads no clock. One notification tells a view's alerts
//! together, and each change of them is told once; while an alert lasts it is told again now and then. A
//! silence holds back what happens meanwhile: what still differs at its end from what was told last, is
//! told then.

use std::collections::{BTreeMap, BTreeSet};

use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use serde::{Deserialize, Serialize};

use super::payload::{self, Told};
use super::state::Judged;
use crate::registry::promise::Severity;

/// Silences that a server keeps, over all tenants.
pub const MAX_SILENCES: usize = 1_000;

/// What there is to be alerted of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alert {
    /// Rows are older than promised, or can't be read.
    Breached,
    BudgetSpent,
    BurningFast,
}

impl Alert {
    pub const ALL: [Self; 3] = [Self::Breached, Self::BudgetSpent, Self::BurningFast];

    /// As receivers see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Breached => "FreshnessBreached",
            Self::BudgetSpent => "FreshnessBudgetSpent",
            Self::BurningFast => "FreshnessBurningFast",
        }
    }

    /// A spent budget is past help by whoever is woken.
    pub fn severity(self, promised: Severity) -> Severity {
        match (self, promised) {
            (Self::BudgetSpent, Severity::Page) => Severity::Ticket,
            _ => promised,
        }
    }

    /// The alerts that hold.
    pub fn of(judged: &Judged) -> BTreeSet<Self> {
        let holds = |alert: &Self| match alert {
            Self::Breached => judged.is_stale(),
            Self::BudgetSpent => judged.is_spent,
            Self::BurningFast => judged.is_burning,
        };
        Self::ALL.into_iter().filter(holds).collect()
    }
}

/// Tenant and view.
pub type Whose = (Name, Name);

/// Since when each alert has held.
pub type Since = BTreeMap<Alert, Micros>;

/// The alerts of one view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfView {
    pub holding: Since,
    /// As they were told last.
    pub told: Since,
    pub told_at: Micros,
}

/// No notification of a view for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    pub id: u64,
    pub tenant: Name,
    pub view: Name,
    /// It ends just before it.
    pub until: Micros,
    pub reason: String,
    pub created: Micros,
    pub created_by: String,
}

/// A notification on its way to one receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    pub id: u64,
    pub url: String,
    pub tenant: Name,
    pub view: Name,
    pub body: String,
    pub made: Micros,
    pub attempts: u32,
    /// Not before it.
    pub due: Micros,
}

/// When what is told.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// What lasts is told again after so long.
    pub repeat: Micros,
    pub max_queued: usize,
}

/// The book.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Book {
    /// The number that nothing has yet.
    pub next: u64,
    pub views: BTreeMap<Whose, OfView>,
    pub silences: BTreeMap<u64, Silence>,
    /// The one made first in front.
    pub outbox: Vec<Delivery>,
}

/// What came of noting a view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    pub changed: bool,
    /// Notifications that had to make room.
    pub dropped: u64,
}

impl Book {
    pub fn take_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Notes which alerts of a view hold now, and puts in the outbox what is to be told of it.
    pub fn note(
        &mut self,
        whose: &Whose,
        holding: &BTreeSet<Alert>,
        now: Micros,
        receivers: &[String],
        rules: &Rules,
        told: impl FnOnce() -> Told,
    ) -> Noted {
        if holding.is_empty() && !self.views.contains_key(whose) {
            return Noted::default();
        }
        let silenced = self.is_silenced(whose, now);
        let of_view = self.views.entry(whose.clone()).or_default();
        let before = of_view.clone();
        of_view.holding.retain(|alert, _| holding.contains(alert));
        for alert in holding {
            of_view.holding.entry(*alert).or_insert(now);
        }
        let is_news = of_view.holding != of_view.told;
        let is_again = !of_view.told.is_empty() && now.saturating_sub(of_view.told_at) >= rules.repeat;
        let mut noted = Noted::default();
        if !receivers.is_empty() && !silenced && (is_news || is_again) {
            let body = payload::notification(whose, of_view, now, &told());
            (of_view.told, of_view.told_at) = (of_view.holding.clone(), now);
            noted.dropped = self.put(whose, &body, now, receivers, rules);
            noted.changed = true;
        }
        let of_view = self.views.get(whose).cloned().unwrap_or_default();
        noted.changed |= of_view != before;
        if of_view.holding.is_empty() && of_view.told.is_empty() {
            self.views.remove(whose);
        }
        noted
    }

    fn put(&mut self, whose: &Whose, body: &str, now: Micros, receivers: &[String], rules: &Rules) -> u64 {
        // The newest of a view stands for what waits of it.
        self.outbox.retain(|delivery| (&delivery.tenant, &delivery.view) != (&whose.0, &whose.1));
        for url in receivers {
            let id = self.take_number();
            self.outbox.push(Delivery {
                id,
                url: url.clone(),
                tenant: whose.0.clone(),
                view: whose.1.clone(),
                body: body.to_owned(),
                made: now,
                attempts: 0,
                due: now,
            });
        }
        let too_many = self.outbox.len().saturating_sub(rules.max_queued);
        self.outbox.drain(..too_many);
        too_many as u64
    }

    pub fn is_silenced(&self, whose: &Whose, now: Micros) -> bool {
        self.silence_of(whose, now).is_some()
    }

    /// The one of a view that lasts longest.
    pub fn silence_of(&self, whose: &Whose, now: Micros) -> Option<&Silence> {
        let of_view = self.silences.values().filter(|silence| (&silence.tenant, &silence.view) == (&whose.0, &whose.1));
        of_view.filter(|silence| now < silence.until).max_by_key(|silence| silence.until)
    }

    /// Lets go of silences that have ended; whether there were any.
    pub fn forget_ended(&mut self, now: Micros) -> bool {
        let before = self.silences.len();
        self.silences.retain(|_, silence| now < silence.until);
        self.silences.len() < before
    }

    /// The delivery to this receiver that is to be tried next, if one is due.
    pub fn due(&self, url: &str, now: Micros) -> Option<Delivery> {
        self.outbox.iter().find(|delivery| delivery.url == url && delivery.due <= now).cloned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;

    const RULES: Rules = Rules { repeat: 1_000, max_queued: 4 };

    fn whose(view: &str) -> Whose {
        ("default".parse().expect("a name"), view.parse().expect("a name"))
    }

    fn told() -> Told {
        Told {
            severity: Severity::Page,
            owner: String::new(),
            summary: "old".to_owned(),
            description: "older".to_owned(),
        }
    }

    struct Scene {
        book: Book,
        receivers: Vec<String>,
    }

    impl Scene {
        fn new() -> Self {
            Self { book: Book::default(), receivers: vec!["http://one/".to_owned()] }
        }

        /// The statuses of the alerts in what was put in the outbox.
        fn note(&mut self, holding: &[Alert], now: Micros) -> Option<String> {
            let last = self.book.next;
            self.book.note(&whose("a"), &holding.iter().copied().collect(), now, &self.receivers, &RULES, told);
            let new = self.book.outbox.iter().find(|delivery| delivery.id > last)?;
            let body: Json = serde_json::from_str(&new.body).expect("JSON");
            let alerts = body["alerts"].as_array().expect("alerts").iter();
            let text = |json: &Json| json.as_str().expect("a text").to_owned();
            let each =
                alerts.map(|alert| format!("{} {}", text(&alert["labels"]["alertname"]), text(&alert["status"])));
            Some(format!("{}: {}", text(&body["status"]), each.collect::<Vec<_>>().join(", ")))
        }

        fn silence(&mut self, until: Micros) {
            let id = self.book.take_number();
            let (tenant, view) = whose("a");
            let silence = Silence { id, tenant, view, until, reason: "r".into(), created: 0, created_by: "me".into() };
            self.book.silences.insert(id, silence);
        }
    }

    #[test]
    fn each_change_is_told_once_and_what_lasts_is_told_again() {
        let mut scene = Scene::new();
        assert_eq!(scene.note(&[], 0), None);
        assert_eq!(scene.note(&[Alert::Breached], 10).as_deref(), Some("firing: FreshnessBreached firing"));
        assert_eq!(scene.note(&[Alert::Breached], 11), None);
        assert_eq!(scene.note(&[Alert::Breached], 1_009), None);
        assert_eq!(scene.note(&[Alert::Breached], 1_010).as_deref(), Some("firing: FreshnessBreached firing"));
        let both = scene.note(&[Alert::Breached, Alert::BudgetSpent], 1_020);
        assert_eq!(both.as_deref(), Some("firing: FreshnessBreached firing, FreshnessBudgetSpent firing"));
        let one = scene.note(&[Alert::BudgetSpent], 1_030);
        assert_eq!(one.as_deref(), Some("firing: FreshnessBreached resolved, FreshnessBudgetSpent firing"));
        assert_eq!(scene.note(&[], 1_040).as_deref(), Some("resolved: FreshnessBudgetSpent resolved"));
        assert_eq!(scene.note(&[], 9_040), None);
        assert!(scene.book.views.is_empty(), "nothing is kept of a view without alerts");
    }

    #[test]
    fn a_silence_holds_back_and_its_end_tells_what_still_differs() {
        let mut scene = Scene::new();
        scene.silence(100);
        assert_eq!(scene.note(&[Alert::Breached], 10), None);
        assert_eq!(scene.note(&[], 50), None);
        assert_eq!(scene.note(&[], 100), None, "it came and went under the silence");
        scene.silence(300);
        assert_eq!(scene.note(&[Alert::Breached], 200), None);
        assert_eq!(scene.note(&[Alert::Breached], 299), None);
        assert!(scene.note(&[Alert::Breached], 300).is_some(), "a silence ends just before its end");
        scene.silence(500);
        assert_eq!(scene.note(&[], 400), None);
        assert_eq!(scene.note(&[], 500).as_deref(), Some("resolved: FreshnessBreached resolved"));
        assert!(scene.book.forget_ended(500) && scene.book.silences.is_empty());
    }

    #[test]
    fn a_newer_notification_of_a_view_stands_for_the_one_that_waits_and_the_outbox_is_bounded() {
        let mut scene = Scene::new();
        scene.receivers.push("http://two/".to_owned());
        scene.note(&[Alert::Breached], 1);
        scene.note(&[], 2);
        assert_eq!(scene.book.outbox.len(), 2, "one for each receiver");
        assert!(scene.book.outbox.iter().all(|delivery| delivery.body.contains("resolved")));
        assert_eq!(scene.book.due("http://two/", 1), None);
        assert_eq!(scene.book.due("http://two/", 2).map(|delivery| delivery.url).as_deref(), Some("http://two/"));
        let mut dropped = 0;
        for view in ["b", "c"] {
            let holding = BTreeSet::from([Alert::Breached]);
            dropped += scene.book.note(&whose(view), &holding, 3, &scene.receivers, &RULES, told).dropped;
        }
        assert_eq!((scene.book.outbox.len(), dropped), (4, 2));
    }
}
