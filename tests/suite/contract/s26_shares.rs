//! Section 26, shares: what one tenant lets another read, and that it is nothing else.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, Int64Array};
use hydrant::access::NewKey;
use hydrant::error::{Code, Error};
use hydrant::history::sets::{Admission, NewSet, SavedSet};
use hydrant::history::{HistoricalRequest, Mode, WhyRequest};
use hydrant::ingest::DeleteRequest;
use hydrant::registry::definition::Kind;
use hydrant::registry::graph::{Direction, NodeKind};
use hydrant::registry::search::Query;
use hydrant::registry::shares::{NewShare, Shared, ToldShare};
use hydrant::registry::tenants::Expected;
use hydrant::serving::{OnlineRequest, Pieces};
use hydrant::tenancy::{Action, Authenticates as _, Demand, Identity, Permit, Quota, Role};
use hydrant_storage::names::Name;
use hydrant_storage::order::CellStatus;
use serde_json::json;

use super::new_key;
use crate::support::node::{AS_KNOWN, HOUR, MINUTE, Online, START, TestNode, definitions_of};
use crate::support::sets::{set_name, stored};
use crate::support::table;

const DAY: i64 = 24 * HOUR;

/// What `default` has.
const PEOPLE: &str = "
apiVersion: hydrant/v1
kind: Entity
metadata: {name: user}
spec: {joinKeys: [{name: user_id, type: int64}]}
---
apiVersion: hydrant/v1
kind: Source
metadata: {name: profiles}
spec:
  type: push
  eventTime: happened
  knownTime: event
  columns:
    - {name: user_id, type: int64}
    - {name: happened, type: timestamp}
    - {name: income, type: float64}
    - {name: visits, type: int64}
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: profile}
spec:
  entities: [user]
  source: profiles
  features:
    - {name: income, default: 1.5, tags: {pii: \"true\"}}
    - {name: visits}
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: secret}
spec: {entities: [user], source: profiles, features: [{name: visits}]}
---
apiVersion: hydrant/v1
kind: FeatureService
metadata: {name: model}
spec: {features: [profile]}
";

/// The rival has a view of the same name, with other values.
const OF_RIVAL: &str = "
apiVersion: hydrant/v1
kind: Entity
metadata: {name: user}
spec: {joinKeys: [{name: user_id, type: int64}]}
---
apiVersion: hydrant/v1
kind: Source
metadata: {name: profiles}
spec:
  type: push
  eventTime: happened
  knownTime: event
  columns: [{name: user_id, type: int64}, {name: happened, type: timestamp}, {name: visits, type: int64}]
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: profile}
spec: {entities: [user], source: profiles, features: [{name: visits}]}
";

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

async fn make_tenant(node: &TestNode, tenant: &str) {
    let document = format!("apiVersion: hydrant/v1\nkind: Tenant\nmetadata: {{name: {tenant}}}\nspec: {{}}\n");
    let platform = node.permit(Action::ManageTenants);
    let registry = &node.use_cases().registry;
    registry.apply_tenants(&platform, definitions_of(&document), Expected::Any, None).await.expect("it is made");
}

async fn caller(node: &TestNode, by: &Permit, new: NewKey) -> Identity {
    let access = &node.use_cases().access;
    let (_, token) = access.create(by, new).await.expect("they may");
    access.authenticate(Some(&token.reveal())).expect("it is good")
}

fn permit(node: &TestNode, who: &Identity, action: Action) -> Permit {
    node.use_cases().tenancy.authorize(who, action).expect("its role allows it")
}

/// `default` with its people, and the tenants `rival` and `third`; the admin of each.
struct World {
    node: TestNode,
    rival: Identity,
    third: Identity,
}

impl World {
    async fn start() -> Self {
        let node = TestNode::start(PEOPLE).await;
        let rows = json!([{"user_id": 7, "happened": START - HOUR, "income": 77_777.25, "visits": 3}]);
        node.see(&node.put("profiles", rows).await).await;
        let mut admins = Vec::new();
        for tenant in ["rival", "third"] {
            make_tenant(&node, tenant).await;
            let first = NewKey { tenant: Some(name(tenant)), ..new_key(&[Role::Admin]) };
            admins.push(caller(&node, &node.permit(Action::ManageTenants), first).await);
        }
        let third = admins.pop().expect("two");
        Self { node, rival: admins.pop().expect("two"), third }
    }

    async fn of_rival(&self, new: NewKey) -> Identity {
        caller(&self.node, &permit(&self.node, &self.rival, Action::ManageKeys), new).await
    }

    async fn give(&self, new: NewShare) -> Result<ToldShare, Error> {
        let change = self.node.permit(Action::ChangeDefinitions);
        self.node.use_cases().registry.create_share(&change, new, false).await
    }

    async fn withdraw(&self, number: u32, notice: Duration) -> Result<ToldShare, Error> {
        let change = self.node.permit(Action::ChangeDefinitions);
        self.node.use_cases().registry.withdraw_share(&change, number, notice, String::new(), false).await
    }

    async fn read_by(&self, who: &Identity, what: &str) -> Result<Online, Error> {
        self.node.get_by(&permit(&self.node, who, Action::ReadOnline), online(what)).await
    }

    /// As the rival's admin.
    async fn read(&self, what: &str) -> Result<Online, Error> {
        self.read_by(&self.rival, what).await
    }

    /// A training set `people` of the shared service.
    async fn save(&self, who: &Identity) -> SavedSet {
        let train = permit(&self.node, who, Action::ReadHistory);
        let spine = table::spine_at(&json!({"user_id": 7}), &[self.node.now()]);
        let sets = &self.node.use_cases().training_sets;
        let mut upload = sets.spines().begin(train.clone(), spine.schema()).await.expect("there is room");
        upload.push(spine).await.expect("taken");
        let id = upload.finish().await.expect("stored").spine.id;
        let new = NewSet { name: set_name("people"), request: stored(id, &["default/model"], AS_KNOWN) };
        let (tenancy, who) = (self.node.use_cases().tenancy.clone(), who.clone());
        let admission: Admission = Box::new(move || {
            Box::pin(
                async move { tenancy.admit(&who, Action::ReadHistory, Demand { cost: 1, ..Demand::default() }).await },
            )
        });
        let creation = sets.create(&train, new).await.expect("it may train");
        creation.finish(admission).await.expect("made").set
    }

    async fn train(&self, who: &Identity, what: &str) -> Result<crate::support::node::Training, Error> {
        let (request, spine) = training(&self.node, what);
        self.node.join_by(&permit(&self.node, who, Action::ReadHistory), request, &spine).await
    }
}

fn view(to: &str) -> NewShare {
    NewShare { of: Shared::View(name("profile")), to: name(to), may_train: false, with_pii: false }
}

fn service(to: &str) -> NewShare {
    NewShare { of: Shared::Service(name("model")), ..view(to) }
}

fn split(what: &str) -> (Vec<String>, Vec<String>) {
    let (features, services) = what.split(' ').map(str::to_owned).partition(|what: &String| what.contains(':'));
    (services, features)
}

/// Services and features, with spaces between them.
fn online(what: &str) -> OnlineRequest {
    let (services, features) = split(what);
    let keys: ArrayRef = Arc::new(Int64Array::from(vec![7]));
    OnlineRequest {
        services,
        features,
        entities: vec![("user_id".to_owned(), keys)],
        include_event_times: true,
        ..OnlineRequest::default()
    }
}

fn training(node: &TestNode, what: &str) -> (HistoricalRequest, arrow_array::RecordBatch) {
    let spine = table::spine_at(&json!({"user_id": 7}), &[node.now()]);
    let (services, features) = split(what);
    let request = HistoricalRequest {
        services,
        features,
        event_time: "at".to_owned(),
        mode: Mode::AsKnown,
        cutoff: None,
        with_status: true,
        with_event_time: true,
        spine: spine.schema(),
    };
    (request, spine)
}

/// What an error tells its caller.
fn told(error: &Error) -> (Code, &'static str, String, Option<String>) {
    (error.code, error.reason, error.message.clone(), error.hint.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shared_is_read_online_and_trained_on_under_its_owner_s_name_beside_one_s_own() {
    let mut world = World::start().await;
    let owners = world.node.read(&["profile:visits"], json!({"user_id": [7]})).await;
    let registry = world.node.use_cases().registry.clone();
    let change = permit(&world.node, &world.rival, Action::ChangeDefinitions);
    registry.apply(&change, definitions_of(OF_RIVAL), None).await.expect("an admin may");
    drop((registry, change));
    for new in [view("rival"), service("rival")] {
        world.give(NewShare { may_train: true, ..new }).await.expect("an owner may");
    }
    for _ in 0..2 {
        {
            let read = world.read("default/profile:visits profile:visits default/model").await.expect("it is shared");
            assert_eq!(read.statuses("default__profile__visits"), [CellStatus::Present]);
            assert_eq!(read.column("default__profile__visits"), owners.column("profile__visits"));
            // Its own view of that name has no row.
            assert_eq!(read.statuses("profile__visits"), [CellStatus::NotFound]);
            let services: Vec<String> = read.0.services.iter().map(|service| service.reference()).collect();
            assert_eq!(services, ["default/model@1"]);
            let views: Vec<String> = read.0.provenance.views.iter().map(|view| view.reference()).collect();
            assert_eq!(views, ["default/profile", "profile"]);
            assert_eq!(read.0.event_times[0].view, "default/profile");

            let set =
                world.train(&world.rival, "default/model@1 default/profile:visits profile:visits").await.expect("may");
            assert_eq!(set.statuses("default__profile__visits"), ["PRESENT"]);
            assert_eq!(set.plan.services, ["default/model@1"]);

            // Many keys in pieces, each of which names the version again.
            let bulk = permit(&world.node, &world.rival, Action::ReadInBulk);
            let serving = &world.node.use_cases().serving;
            let pieces = serving.begin_bulk(&bulk, online("default/model"), Pieces { rows: None, unpinned: false });
            let pieces = pieces.expect("it is shared");
            let piece = serving.get(&bulk, pieces.request(pieces.piece(0), None)).await.expect("answered");
            assert_eq!(piece.selection().services[0].reference(), "default/model@1");
        }
        world.node.restart().await;
    }

    // A saved one, which the receiver keeps and pulls again.
    let sets = world.node.use_cases().training_sets.clone();
    let train = permit(&world.node, &world.rival, Action::ReadHistory);
    let set = world.save(&world.rival).await;
    assert_eq!(set.services, ["default/model@1"]);
    // What was read is called as its reader calls it, and how many rows its owner has is not told.
    let tables: Vec<_> =
        set.tables.iter().map(|table| (table.view.as_str(), table.delta_version, table.tail_rows)).collect();
    assert_eq!(tables, [("default/profile", None, 0)]);
    let made = world.train(&world.rival, "default/model").await.expect("may");
    assert_eq!((made.report.tables[0].view.as_str(), made.report.tables[0].tail_rows), ("default/profile", 0));
    let own = world.train(&Identity::loopback(), "model").await.expect("may");
    assert_eq!((own.report.tables[0].view.as_str(), own.report.tables[0].tail_rows), ("profile", 1));
    // Its lineage tells the reader the name by which it reads, and its owner nothing of who trains.
    let lineage = |who: &Identity, of: &str| {
        let read = permit(&world.node, who, Action::ReadDefinitions);
        let (graph, _) = world.node.use_cases().registry.graph(&read)?;
        let part = graph.around(&graph.named(of, None)?, Direction::Both)?;
        Ok::<_, Error>(part.nodes.into_iter().map(|node| node.name).collect::<Vec<_>>())
    };
    let spine = set.spine.to_string();
    let told = ["default/model@1", spine.as_str(), "people@1"];
    assert_eq!(lineage(&world.rival, "people").expect("it is the rival's"), told);
    for of in ["people", spine.as_str()] {
        let refused = lineage(&Identity::loopback(), of).expect_err("it isn't the owner's");
        assert_eq!(refused.reason, "LINEAGE_NODE_NOT_FOUND");
    }
    assert!(!lineage(&Identity::loopback(), "model").expect("it is there").contains(&"people@1".to_owned()));
    sets.prepare_saved(&train, &set_name("people"), None).await.expect("as long as it is shared");
    let (told, left_out) = sets.describe(&train, &set_name("people"), None).expect("it is the rival's");
    assert!(!told.statistics.is_empty() && left_out.is_none(), "{left_out:?}");
    world.withdraw(2, Duration::ZERO).await.expect("withdrawn");
    let refused = sets.prepare_saved(&train, &set_name("people"), None).await.expect_err("no longer");
    assert_eq!(refused.reason, "SERVICE_NOT_FOUND");
    let (told, left_out) = sets.describe(&train, &set_name("people"), None).expect("it is the rival's");
    assert!(told.statistics.is_empty());
    let why = left_out.expect("it says why there are none");
    assert!(why.contains("there is no feature service 'default/model@1'"), "{why}");
    drop((train, sets));
    world.node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_shared_answers_as_what_does_not_exist() {
    let world = World::start().await;
    world.give(view("third")).await.expect("an owner may");
    let refusals = async |what: &[&str]| {
        let mut refusals = Vec::new();
        for what in what {
            let error = world.read(what).await.expect_err("it isn't the rival's");
            refusals.push(error);
            refusals.push(world.train(&world.rival, what).await.expect_err("neither"));
        }
        refusals
    };
    let features = |place: &str| [format!("{place}:visits"), format!("{place}:no_such")];
    let is_alike = |one: &Error, other: &Error, (from, to): (&str, &str)| {
        let (mut one, other) = (told(one), told(other));
        one.2 = one.2.replace(from, to);
        assert_eq!(one, other);
    };
    // There, of a tenant that is there, of one that isn't, and as a name of one's own.
    let there = features("default/profile");
    let there = refusals(&[&there[0], &there[1], "default/model", "default/model@1", "default/model@9"]).await;
    assert!(there.iter().all(|error| error.code == Code::NotFound), "{there:?}");
    for place in ["default/no_such", "nobody/profile", "third/profile"] {
        let beside = features(place);
        let beside = refusals(&[&beside[0], &beside[1]]).await;
        for (one, other) in there.iter().zip(&beside) {
            is_alike(one, other, ("default/profile", place));
        }
    }
    for place in ["default/no_such", "nobody/model"] {
        let versions = [place.to_owned(), format!("{place}@1"), format!("{place}@9")];
        let beside = refusals(&[&versions[0], &versions[1], &versions[2]]).await;
        for (one, other) in there[4..].iter().zip(&beside) {
            is_alike(one, other, ("default/model", place));
        }
    }
    // One view shared shows no other, nor the service that is made of it.
    world.give(view("rival")).await.expect("an owner may");
    world.read("default/profile:visits").await.expect("it is shared");
    for what in ["default/secret:visits", "default/model", "default/model@1"] {
        assert_eq!(world.read(what).await.expect_err("it is not").code, Code::NotFound, "{what}");
    }
    // Nor is a share of somebody else's told.
    let registry = &world.node.use_cases().registry;
    let read = permit(&world.node, &world.rival, Action::ReadDefinitions);
    let others = registry.share(&read, &name("default"), 1).expect_err("it is to the third");
    let nobodys = registry.share(&read, &name("default"), 9).expect_err("there is none");
    is_alike(&others, &nobodys, ("share 1", "share 9"));
    registry.share(&read, &name("default"), 2).expect("it is the rival's");
    let listed = registry.shares(&read, true, 0, "").expect("listed").shares;
    assert_eq!(listed.iter().map(|told| told.share.number).collect::<Vec<_>>(), [2]);
    assert!(registry.shares(&read, false, 0, "").expect("listed").shares.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_writes_or_changes_anything_by_a_share() {
    let world = World::start().await;
    world.give(NewShare { may_train: true, with_pii: true, ..view("rival") }).await.expect("an owner may");
    let ingest = &world.node.use_cases().ingest;
    let write = permit(&world.node, &world.rival, Action::Write);
    let rows = world.node.request("profiles", &json!([{"user_id": 7, "happened": START, "income": 1.0, "visits": 9}]));
    for source in ["default/profiles", "profiles"] {
        let request = hydrant::ingest::IngestRequest { source: source.to_owned(), ..rows.clone() };
        let refused = ingest.ingest(&write, request).await.expect_err("it is the owner's");
        assert_eq!(refused.code, Code::NotFound, "{refused}");
    }
    let keys: ArrayRef = Arc::new(Int64Array::from(vec![7]));
    let delete = DeleteRequest {
        view: "default/profile".to_owned(),
        keys: vec![("user_id".to_owned(), keys)],
        event_times: vec![START],
        producer: None,
        known_time: None,
    };
    assert_eq!(ingest.delete(&write, delete).await.expect_err("it is the owner's").code, Code::NotFound);
    let read = world.read("default/profile:visits").await.expect("it is shared");
    assert_eq!(read.statuses("default__profile__visits"), [CellStatus::Present]);
    // Nor is the share the other tenant's to withdraw or to hand on.
    let change = permit(&world.node, &world.rival, Action::ChangeDefinitions);
    let registry = &world.node.use_cases().registry;
    let refused = registry.withdraw_share(&change, 1, Duration::ZERO, String::new(), false).await;
    assert_eq!(refused.expect_err("it gave none").reason, "SHARE_NOT_FOUND");
    let refused = registry.create_share(&change, view("third"), false).await;
    assert_eq!(refused.expect_err("it has no such view").reason, "DEFINITION_NOT_FOUND");
    let reader = world.of_rival(new_key(&[Role::Reader])).await;
    let refused = world.node.use_cases().tenancy.authorize(&reader, Action::ChangeDefinitions);
    assert_eq!(refused.expect_err("readers share nothing").reason, "PERMISSION_DENIED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_for_reads_gives_no_training_sets_and_nothing_of_the_past() {
    let world = World::start().await;
    world.give(view("rival")).await.expect("an owner may");
    world.read("default/profile:visits").await.expect("as of now");
    let read = permit(&world.node, &world.rival, Action::ReadOnline);
    let past = OnlineRequest { at: Some(START), ..online("default/profile:visits") };
    let past = world.node.get_by(&read, past).await.expect_err("not the past");
    let set = world.train(&world.rival, "default/profile:visits").await.expect_err("no training set");
    let (_, features) = split("default/profile:visits");
    let why = WhyRequest {
        services: Vec::new(),
        features,
        columns: Vec::new(),
        entities: online("").entities,
        at: START,
        mode: Mode::AsKnown,
        cutoff: None,
        losers: 0,
    };
    let why = world.node.use_cases().history.why(&read, why).await.expect_err("nor why");
    for refused in [past, set, why] {
        assert_eq!((refused.code, refused.reason), (Code::PermissionDenied, "SHARE_WITHOUT_TRAINING"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_personal_stays_masked_unless_the_share_and_the_reader_s_key_both_allow_it() {
    let world = World::start().await;
    let plain = world.of_rival(new_key(&[Role::Reader, Role::Trainer])).await;
    let granted = world.of_rival(new_key(&[Role::Reader, Role::Trainer, Role::Pii])).await;
    let income = async |who: &Identity, what: &str| {
        let read = world.read_by(who, what).await.expect("it is shared");
        let status = read.statuses("default__profile__income")[0];
        let trained = world.train(who, what).await.expect("it is shared");
        let masked = trained.plan.masked().any(|name| name == "default__profile__income");
        assert_eq!(masked, status == CellStatus::Masked, "{status:?}");
        assert_eq!(read.statuses("default__profile__visits"), [CellStatus::Present]);
        status
    };
    world.give(NewShare { may_train: true, ..service("rival") }).await.expect("an owner may");
    for who in [&plain, &granted] {
        assert_eq!(income(who, "default/model").await, CellStatus::Masked);
    }
    world
        .give(NewShare { may_train: true, with_pii: true, ..view("rival") })
        .await
        .expect("the operator has the grant");
    let features = "default/profile:income default/profile:visits";
    assert_eq!(income(&plain, features).await, CellStatus::Masked);
    assert_eq!(income(&granted, features).await, CellStatus::Present);
    // What one share withholds the other gives, and only that one.
    assert_eq!(income(&granted, "default/model").await, CellStatus::Masked);
    assert_eq!(income(&granted, "default/model default/profile:income").await, CellStatus::Present);
    // Who may not see it gives nobody the right.
    let owner = caller(&world.node, &world.node.permit(Action::ManageKeys), new_key(&[Role::Owner])).await;
    let change = permit(&world.node, &owner, Action::ChangeDefinitions);
    let registry = &world.node.use_cases().registry;
    let refused = registry.create_share(&change, NewShare { with_pii: true, ..view("third") }, false).await;
    assert_eq!(refused.expect_err("no grant").reason, "PII_NOT_GRANTED");
    registry.create_share(&change, view("third"), false).await.expect("masked it may");
    // A saved set's columns can't be had unmasked by naming them.
    let train = permit(&world.node, &granted, Action::ReadHistory);
    let sets = &world.node.use_cases().training_sets;
    world.withdraw(1, Duration::ZERO).await.expect("withdrawn");
    world.give(NewShare { may_train: true, with_pii: true, ..service("rival") }).await.expect("an owner may");
    assert!(world.save(&granted).await.masked.is_empty());
    let last = world.node.use_cases().registry.shares(&world.node.permit(Action::ReadDefinitions), false, 0, "");
    let last = last.expect("listed").shares.last().expect("some").share.number;
    world.withdraw(last, Duration::ZERO).await.expect("withdrawn");
    world.give(NewShare { may_train: true, ..service("rival") }).await.expect("masked from now on");
    let refused = sets.prepare_saved(&train, &set_name("people"), None).await.expect_err("made with the right");
    assert_eq!(refused.reason, "PII_NOT_GRANTED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_ends_at_its_notice_s_end_or_at_once_and_both_sides_see_when() {
    let mut world = World::start().await;
    let unshared = world.read("default/profile:visits").await.expect_err("not shared");
    world.give(view("rival")).await.expect("an owner may");
    world.give(service("rival")).await.expect("an owner may");
    world.read("default/profile:visits").await.expect("it is shared");
    world.read("default/model").await.expect("it is shared");
    let told = world.withdraw(1, Duration::from_hours(14 * 24)).await.expect("with notice");
    let end = told.share.ends.expect("it ends");
    assert!(end >= START + 14 * DAY && !told.has_ended);
    world.withdraw(2, Duration::ZERO).await.expect("at once");
    assert_eq!(world.read("default/model").await.expect_err("it has ended").reason, "SERVICE_NOT_FOUND");
    let again = world.withdraw(2, Duration::ZERO).await.expect_err("it has ended");
    assert_eq!(again.reason, "SHARE_ENDED");

    for (who, received) in [(Identity::loopback(), false), (world.rival.clone(), true)] {
        let read = permit(&world.node, &who, Action::ReadDefinitions);
        let registry = &world.node.use_cases().registry;
        let listed = registry.shares(&read, received, 0, "").expect("listed").shares;
        let ends: Vec<_> = listed.iter().map(|told| (told.share.number, told.share.ends, told.has_ended)).collect();
        assert_eq!((ends[0], ends[1].0, ends[1].2), ((1, Some(end), false), 2, true));
        let query = Query { text: "visits".to_owned(), kind: Some(NodeKind::Feature), ..Query::default() };
        let (found, _) = registry.search(&read, query, 0, String::new()).await.expect("found");
        let wanted = if received { "default/profile:visits" } else { "profile:visits" };
        let hit = found.hits.iter().find(|hit| hit.name == wanted).expect("it is found");
        assert_eq!((hit.shares.len(), hit.shares[0].ends), (1, Some(end)), "{hit:?}");
        assert!(!received || found.hits.len() == 1, "nothing else of its owner: {:?}", found.hits);
    }
    let (graph, _) = world.node.use_cases().registry.graph(&world.node.permit(Action::ReadDefinitions)).expect("made");
    let down = graph.around(&graph.named("profiles.visits", None).expect("there"), Direction::Down).expect("small");
    let share: Vec<_> = down.nodes.iter().filter(|node| node.kind == NodeKind::Share).collect();
    assert_eq!(share.len(), 1, "the one that ended is gone: {share:?}");
    assert!(share[0].owner.starts_with("tenant rival, until 20"), "{:?}", share[0]);

    world.node.advance(14 * DAY - MINUTE).await;
    world.read("default/profile:visits").await.expect("until then");
    world.node.restart().await;
    world.read("default/profile:visits").await.expect("until then");
    world.node.advance(2 * MINUTE).await;
    for what in ["default/profile:visits", "default/profile:visits"] {
        let refused = world.read(what).await.expect_err("it has ended");
        assert_eq!(self::told(&refused), self::told(&unshared), "as if it had never been shared");
    }
    world.give(view("rival")).await.expect("anew");
    world.read("default/profile:visits").await.expect("it is shared");
    world.node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_names_the_tenants_that_it_would_hurt_and_what_is_shared_is_not_deleted() {
    let world = World::start().await;
    world.give(view("rival")).await.expect("an owner may");
    world.give(service("third")).await.expect("an owner may");
    let registry = &world.node.use_cases().registry;
    let read = world.node.permit(Action::ReadDefinitions);
    let changed = PEOPLE.replace("    - {name: visits}\n", "    - {name: visits, default: -1}\n");
    let plan = registry.plan(&read, &definitions_of(&changed)).expect("it is planned");
    let of_view = plan.changes.iter().find(|change| change.name.as_str() == "profile").expect("it changes");
    let touched: Vec<String> = of_view.differences[0].touches.named.iter().map(ToString::to_string).collect();
    for share in ["Share/1 (tenant rival)", "Share/2 (tenant third)"] {
        assert!(touched.iter().any(|touched| touched == share), "{touched:?}");
    }
    let change = world.node.permit(Action::ChangeDefinitions);
    let delete = async |kind, what: &str| registry.delete(&change, kind, &name(what), String::new()).await;
    let refused = delete(Kind::FeatureService, "model").await.expect_err("it is shared");
    assert_eq!(refused.reason, "DEFINITION_IN_USE");
    assert!(refused.message.contains("Share/2 (tenant third)"), "{refused}");
    world.withdraw(2, Duration::from_hours(1)).await.expect("with notice");
    let refused = delete(Kind::FeatureService, "model").await.expect_err("until then");
    assert!(refused.message.contains("Share/2 (tenant third, until 20"), "{refused}");
    world.node.advance(2 * HOUR).await;
    delete(Kind::FeatureService, "model").await.expect("nobody reads it any more");
    let refused = delete(Kind::FeatureView, "profile").await.expect_err("it is shared");
    assert!(refused.message.contains("Share/1 (tenant rival)"), "{refused}");
    world.withdraw(1, Duration::ZERO).await.expect("withdrawn");
    delete(Kind::FeatureView, "profile").await.expect("nobody reads it any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reader_s_tenant_pays_for_what_it_reads_of_others() {
    let world = World::start().await;
    world.give(view("rival")).await.expect("an owner may");
    let quotas = &world.node.use_cases().quotas;
    let change = hydrant::quotas::Change { set: vec![(Quota::KeysPerSecond, 0)], ..Default::default() };
    let by = world.node.permit(Action::ChangeQuotas);
    quotas.update(&by, &name("default"), change.clone(), "", false).await.expect("the platform may");
    world.read("default/profile:visits").await.expect("its owner's quota is not asked");
    quotas.update(&by, &name("rival"), change, "", false).await.expect("the platform may");
    let refused = world.read("default/profile:visits").await.expect_err("its own is used up");
    let quota = refused.quota.as_ref().expect("it names the quota");
    assert_eq!((refused.reason, quota.subject.as_str()), ("QUOTA_EXCEEDED", "tenants/rival"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_key_reads_what_is_shared_only_where_it_names_it() {
    let world = World::start().await;
    world.give(view("rival")).await.expect("an owner may");
    world.give(service("rival")).await.expect("an owner may");
    let all = world.of_rival(new_key(&[Role::Reader])).await;
    world.read_by(&all, "default/profile:visits default/model").await.expect("it has no limit");
    let shared = |text: &str| vec![text.parse().expect("owner and name")];
    let by_view = NewKey { shared_views: shared("default/profile"), ..new_key(&[Role::Reader]) };
    let by_service = NewKey { shared_services: shared("default/model"), ..new_key(&[Role::Reader]) };
    let own = NewKey { views: vec![name("profile")], ..new_key(&[Role::Reader]) };
    for (new, allowed) in [(by_view, "default/profile:visits"), (by_service, "default/model@1"), (own, "")] {
        let limited = world.of_rival(new).await;
        for what in ["default/profile:visits", "default/model@1", "default/secret:visits"] {
            match world.read_by(&limited, what).await {
                Ok(_) => assert_eq!(what, allowed),
                Err(refused) => assert!(what != allowed && refused.reason == "OUT_OF_REACH", "{what}: {refused}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_end_with_the_tenant_that_they_are_to_and_none_is_made_to_it_or_to_a_later_one_of_its_name() {
    let world = World::start().await;
    world.give(view("rival")).await.expect("an owner may");
    let platform = world.node.permit(Action::ManageTenants);
    let registry = &world.node.use_cases().registry;
    registry.delete_tenant(&platform, &name("rival"), String::new()).await.expect("it has nothing of its own");
    let told = registry.share(&world.node.permit(Action::ReadDefinitions), &name("default"), 1).expect("it is listed");
    assert!(told.has_ended && told.share.ends.is_some(), "{told:?}");
    assert_eq!(world.give(view("rival")).await.expect_err("it has gone").reason, "TENANT_NOT_FOUND");
    let again = definitions_of("apiVersion: hydrant/v1\nkind: Tenant\nmetadata: {name: rival}\nspec: {}");
    let refused = registry.apply_tenants(&platform, again, Expected::Any, None).await.expect_err("its name is kept");
    assert_eq!(refused.reason, "TENANT_WAS_DELETED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_makes_no_sense_is_refused_and_validation_changes_nothing() {
    let world = World::start().await;
    let registry = &world.node.use_cases().registry;
    let change = world.node.permit(Action::ChangeDefinitions);
    registry.create_share(&change, view("rival"), true).await.expect("it could be");
    world.read("default/profile:visits").await.expect_err("it was only checked");
    let no_such = NewShare { of: Shared::View(name("no_such")), ..view("rival") };
    for (new, reason) in
        [(view("default"), "BAD_SHARE"), (view("nobody"), "TENANT_NOT_FOUND"), (no_such, "DEFINITION_NOT_FOUND")]
    {
        assert_eq!(world.give(new).await.expect_err("no sense").reason, reason);
    }
    let first = world.give(view("rival")).await.expect("an owner may");
    assert_eq!(first.share.number, 1);
    assert_eq!(world.give(view("rival")).await.expect_err("it is already").reason, "SHARE_EXISTS");
    let withdraw = async |notice: Duration, etag: &str, only: bool| {
        registry.withdraw_share(&change, 1, notice, etag.to_owned(), only).await
    };
    let far = withdraw(Duration::from_hours(366 * 24), "", false).await;
    assert_eq!(far.expect_err("a year at most").reason, "BAD_SHARE");
    assert_eq!(withdraw(Duration::ZERO, "77", false).await.expect_err("not seen").reason, "ETAG_MISMATCH");
    withdraw(Duration::ZERO, &first.share.etag(), true).await.expect("it could be");
    world.read("default/profile:visits").await.expect("it was only checked");
    withdraw(Duration::ZERO, &first.share.etag(), false).await.expect("as it was seen");
    world.read("default/profile:visits").await.expect_err("it has ended");
    // Page by page.
    let read = world.node.permit(Action::ReadDefinitions);
    world.give(view("third")).await.expect("an owner may");
    let page = registry.shares(&read, false, 1, "").expect("a page");
    let rest = registry.shares(&read, false, 1, &page.next_page_token).expect("the rest");
    assert_eq!((page.shares[0].share.number, rest.shares[0].share.number), (1, 2));
    assert!(rest.next_page_token.is_empty());
    assert_eq!(registry.shares(&read, false, 1, "x").expect_err("no token").reason, "BAD_PAGE_TOKEN");
    assert!(registry.shares(&permit(&world.node, &world.third, Action::ReadDefinitions), true, 0, "").is_ok());
}
