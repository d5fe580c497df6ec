//! Of which tenants online requests are better left unread: what was read of them now would be refused, or wait for
//! others, and to read it takes what those wait for. Who reads, and what, is not known here.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Class, ClassQueue, Queue, TenantIndex};

/// Those of which something is left unread, with in how many places.
#[derive(Debug, Default)]
pub(super) struct Unread(BTreeMap<TenantIndex, usize>);

impl<W> Queue<W> {
    /// Whether a tenant's are: its queue stands, and a request goes before its next whose tenant's queue doesn't.
    pub fn is_better_unread(&self, tenant: TenantIndex) -> bool {
        let online = &self.classes[Class::Online as usize];
        let own = &online.tenants[tenant];
        let next = if own.waiting.is_empty() { online.virtual_time.max(own.paid) } else { own.stamp };
        own.standing.is_some() && online.waits_before(next)
    }

    /// Something of the tenant is left unread, until [`Self::end_unread`].
    pub fn begin_unread(&mut self, tenant: TenantIndex) {
        *self.unread.0.entry(tenant).or_default() += 1;
    }

    pub fn end_unread(&mut self, tenant: TenantIndex) {
        if let Some(places) = self.unread.0.get_mut(&tenant) {
            *places -= 1;
            if *places == 0 {
                self.unread.0.remove(&tenant);
            }
        }
    }

    /// The tenants of which something is left unread and better isn't any more.
    pub fn to_be_read(&self) -> Vec<TenantIndex> {
        self.unread.0.keys().copied().filter(|tenant| !self.is_better_unread(*tenant)).collect()
    }

    /// Whether several tenants ask online.
    pub fn is_shared(&self, now: Instant) -> bool {
        self.pulses.is_shared(now)
    }
}

impl<W> ClassQueue<W> {
    /// Whether one of those that are next has a stamp before this, and is of a tenant whose queue doesn't stand.
    fn waits_before(&self, stamp: u64) -> bool {
        /// There may be many tenants, and this is asked often.
        const LOOKED_AT: usize = 8;
        let mut next = self.backlogged.iter().take(LOOKED_AT).take_while(|(own, _)| *own < stamp);
        next.any(|(_, tenant)| self.tenants[*tenant].standing.is_none())
    }
}
