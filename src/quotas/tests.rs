use std::time::Duration;

use super::state::{State, TenantState};
use super::{Change, Raise};
use crate::tenancy::{Limits, Quota};

fn raised(limit: u64, by: u64, seconds: u64) -> TenantState {
    let mut state = TenantState::default();
    state.limits = Limits::default().with(Quota::Features, limit);
    let lasts = Duration::from_secs(seconds);
    let raise = Raise { limits: vec![(Quota::Features, by)], lasts, end: Vec::new() };
    raise.apply(&mut state, 0).expect("a raise");
    state
}

#[test]
fn what_is_kept_reads_back_and_nothing_else_does() {
    let mut state = State::default();
    state.tenants.insert("acme".parse().expect("a name"), raised(5, 10, 1));
    let bytes = state.encode();
    assert_eq!(State::decode(&bytes), Ok(state));
    for hostile in [
        &b""[..],
        b"{}",
        b"[]",
        br#"{"format":2,"tenants":{}}"#,
        br#"{"format":1,"tenants":{"Not A Name":{"limits":{},"revision":1,"updated":0,"updatedBy":""}}}"#,
        br#"{"format":1,"tenants":{"a":{"limits":{"quotas":{"cells":1}},"revision":1,"updated":0,"updatedBy":""}}}"#,
        br#"{"format":1,"tenants":{"a":{"limits":{"quotas":{"features":-1}},"revision":1,"updated":0,"updatedBy":""}}}"#,
        br#"{"format":1,"tenants":{},"more":1}"#,
    ] {
        assert!(State::decode(hostile).is_err(), "{}", String::from_utf8_lossy(hostile));
    }
    assert!(State::decode(&bytes[..bytes.len() - 1]).is_err());
}

#[test]
fn a_raise_never_lowers_a_limit_that_was_set_higher_meanwhile() {
    let mut state = raised(5, 10, 1);
    assert_eq!(state.effective(0).of(Quota::Features), Some(10));
    let change = Change { set: vec![(Quota::Features, 20)], ..Change::default() };
    change.apply(&mut state).expect("a limit");
    assert_eq!((state.effective(0).of(Quota::Features), state.raised_until(Quota::Features, 0)), (Some(20), None));
}

#[test]
fn a_raise_holds_until_its_end_and_not_at_it() {
    let state = raised(5, 10, 1);
    assert_eq!(state.effective(999_999).of(Quota::Features), Some(10));
    assert_eq!(state.effective(1_000_000).of(Quota::Features), Some(5));
}

#[test]
fn what_has_no_limit_any_more_has_no_raise_either() {
    let mut state = raised(5, 10, 1);
    let change = Change { unset: vec![Quota::Features], ..Change::default() };
    change.apply(&mut state).expect("unset");
    assert_eq!(state.effective(0).of(Quota::Features), None);
    let change = Change { set: vec![(Quota::Features, 7)], ..Change::default() };
    change.apply(&mut state).expect("a limit");
    assert_eq!(state.effective(0).of(Quota::Features), Some(7));
}
