//! A place beside what is kept for many requests, for what whoever answers them makes of it once. Nobody
//! here knows what that is.

use std::any::Any;
use std::fmt;
use std::sync::OnceLock;

/// Made by whoever first asks for it. A clone has none: what it stands beside may be changed.
#[derive(Default)]
pub struct Prepared(OnceLock<Box<dyn Any + Send + Sync>>);

impl Prepared {
    /// What was made before, or is made now; `None` where somebody else keeps something of another type here.
    pub fn get_or_make<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Option<&T> {
        self.0.get_or_init(|| Box::new(make())).downcast_ref()
    }
}

impl Clone for Prepared {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.get().is_some() { "Prepared" } else { "NotPrepared" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_not_for_clones() {
        let prepared = Prepared::default();
        assert_eq!(prepared.get_or_make(|| 1), Some(&1));
        assert_eq!(prepared.get_or_make(|| 2), Some(&1));
        assert_eq!(prepared.get_or_make(String::new), None);
        assert_eq!(prepared.clone().get_or_make(|| 3), Some(&3));
    }
}
