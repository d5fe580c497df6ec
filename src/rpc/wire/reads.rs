//! How much something is read, as people are told it: by a server that refuses to let it go, and by the
//! command line.

use hydrant_proto::v1;

use crate::clock::rfc3339;

/// Completes "it was …", such as `read 3.0 times a day, last at 2026-01-05T10:00:00Z, by 2 readers`.
pub fn reads_text(reads: &v1::Reads) -> String {
    let Some(last) = reads.last_online_micros.max(reads.last_training_micros) else {
        return format!("never read since {}, when counting began", rfc3339(reads.counted_since_micros));
    };
    let readers = match (reads.readers, reads.more_readers) {
        (0, false) => "nobody in 30 days".to_owned(),
        (1, false) => "1 reader".to_owned(),
        (count, false) => format!("{count} readers"),
        (count, true) => format!("{count} readers and others"),
    };
    format!("read {} times a day, last at {}, by {readers}", mean_text(reads.a_day), rfc3339(last))
}

/// Never nothing where there is something.
fn mean_text(mean: f64) -> String {
    match mean {
        none if none <= 0.0 => "0".to_owned(),
        few if few < 0.05 => "less than 0.1".to_owned(),
        few if few < 10.0 => format!("{few:.1}"),
        many => format!("{many:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_told_with_how_many_by_how_many_and_when_last() {
        let begun = 1_388_444_400_000_000;
        let mut reads = v1::Reads { counted_since_micros: begun, ..Default::default() };
        assert_eq!(reads_text(&reads), "never read since 2013-12-30T23:00:00Z, when counting began");
        reads = v1::Reads { last_training_micros: Some(begun + 1_000_000), ..reads };
        assert_eq!(reads_text(&reads), "read 0 times a day, last at 2013-12-30T23:00:01Z, by nobody in 30 days");
        reads = v1::Reads { last_online_micros: Some(begun + 2_000_000), a_day: 0.02, readers: 1, ..reads };
        assert_eq!(reads_text(&reads), "read less than 0.1 times a day, last at 2013-12-30T23:00:02Z, by 1 reader");
        reads = v1::Reads { a_day: 1_234.4, readers: 64, more_readers: true, ..reads };
        assert!(
            reads_text(&reads).starts_with("read 1234 times a day")
                && reads_text(&reads).ends_with("by 64 readers and others")
        );
        assert!(
            reads_text(&v1::Reads { a_day: 3.04, readers: 2, more_readers: false, ..reads })
                .starts_with("read 3.0 times a day")
        );
    }
}
