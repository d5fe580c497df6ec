//! When a tenant's online reads are better left where they are, unread: whoever reads them from a connection asks
//! here, and the sender is slowed down by its connection. To read and to refuse a request takes a processor, which
//! reads of others wait for that are within their tenant's share. It decides nothing: the queue does.

use std::sync::Arc;
use std::time::Duration;

use super::account::Account;
use super::gate::Gate;

/// Of one tenant. A clone is the same.
#[derive(Clone, Debug)]
pub struct Backpressure {
    gate: Gate,
    account: Arc<Account>,
}

impl Backpressure {
    /// What is too much has to be told so, also where others always wait, and a connection has more to say than calls.
    const LONGEST: Duration = Duration::from_millis(100);

    pub(super) fn new(gate: Gate, account: Arc<Account>) -> Self {
        Self { gate, account }
    }

    pub fn is_on(&self) -> bool {
        self.gate.is_better_unread(self.account.index)
    }

    /// Whether others ask as well, to whom a turn has to come soon.
    pub fn is_shared(&self) -> bool {
        self.gate.is_shared()
    }

    /// Until it isn't on, or for twice the wait that a queue may have.
    pub async fn passed(&self) {
        self.account.counts().leave_unread();
        let longest = (self.gate.target() * 2).min(Self::LONGEST);
        // Either is as good.
        let _elapsed = tokio::time::timeout(longest, self.gate.until_read(self.account.index)).await;
    }
}
