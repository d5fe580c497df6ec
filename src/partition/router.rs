//! Which partition holds a slot. A pure table, made once: the number of partitions of a data
//! directory doesn't change while the node runs.

use hydrant_storage::keys::SlotRange;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    /// Ascending; the first is slot 0.
    first_slots: Vec<u16>,
}

impl Router {
    /// `ranges` are in ascending order and cover every slot.
    pub fn new(ranges: &[SlotRange]) -> Self {
        Self { first_slots: ranges.iter().map(|range| range.first).collect() }
    }

    /// The index of the partition that holds `slot`.
    pub fn partition_of(&self, slot: u16) -> usize {
        self.first_slots.partition_point(|first| *first <= slot).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_routed_to_the_partition_whose_range_holds_it() {
        for count in [1, 3, 4, 7, 256] {
            let ranges = SlotRange::split_evenly(count);
            let router = Router::new(&ranges);
            for slot in 0..=u16::MAX {
                assert!(ranges[router.partition_of(slot)].contains(slot), "{count} partitions, slot {slot}");
            }
        }
    }
}
