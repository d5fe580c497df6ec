//! Of which tenants online requests are better left unread: what was read of them now would be refused, or wait for
//! others, and to read it takes what those wait for. Who reads, and what, is not known here.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Class, ClassQueue, Queue, TenantIndex};

/// Those of which something is left unread, and over how many connections.
#[derive(Debug, Default)]
pub(super) struct Unread(BTreeMap<TenantIndex, usize>);

impl<W> Queue<W> {
    /// Whether a tenant's are: its queue stands, and a request goes before its next whose tenant's queue doesn't.
    pub fn is_better_unread(&self, tenant: TenantIndex) -> bool {
        let online = &self.classes[Class::Online as usize];
        online.is_better_unread(tenant, online.first_within_its_share())
    }

    /// Something of the tenant is left unread, until [`Self::end_unread`].
    pub fn begin_unread(&mut self, tenant: TenantIndex) {
        *self.unread.0.entry(tenant).or_default() += 1;
    }

    pub fn end_unread(&mut self, tenant: TenantIndex) {
        if let Some(connections) = self.unread.0.get_mut(&tenant) {
            *connections -= 1;
            if *connections == 0 {
                self.unread.0.remove(&tenant);
            }
        }
    }

    /// The tenants of which something is left unread and better isn't any more.
    pub fn to_be_read(&self) -> Vec<TenantIndex> {
        if self.unread.0.is_empty() {
            return Vec::new();
        }
        let online = &self.classes[Class::Online as usize];
        let first = online.first_within_its_share();
        self.unread.0.keys().copied().filter(|tenant| !online.is_better_unread(*tenant, first)).collect()
    }

    /// Whether several tenants ask online.
    pub fn is_shared(&self, now: Instant) -> bool {
        self.pulses.is_shared(now)
    }
}

impl<W> ClassQueue<W> {
    fn is_better_unread(&self, tenant: TenantIndex, first_within_its_share: Option<u64>) -> bool {
        let is_before = |stamp| stamp < self.next_stamp(tenant);
        self.tenants[tenant].standing.is_some() && first_within_its_share.is_some_and(is_before)
    }

    /// The stamp of the first, among those that are next, that may begin and is of a tenant whose queue doesn't stand.
    fn first_within_its_share(&self) -> Option<u64> {
        /// There may be many tenants, and this is asked often.
        const LOOKED_AT: usize = 8;
        let mut next = self.backlogged.iter().take(LOOKED_AT);
        let is_within = |tenant: TenantIndex| self.tenants[tenant].standing.is_none() && self.leaves_room(tenant);
        next.find(|(_, tenant)| is_within(*tenant)).map(|(stamp, _)| *stamp)
    }
}
