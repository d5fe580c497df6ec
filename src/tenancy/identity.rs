//! Who is calling. An identity is what the transport has verified about a caller, and never what a
//! request claims about itself; it grants nothing.

/// A verified caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    name: String,
}

impl Identity {
    /// A caller on this machine's loopback interface: the operator. Listeners bind to nothing else
    /// until credentials are served.
    pub fn loopback() -> Self {
        Self { name: "loopback".to_owned() }
    }

    /// As written into records of who changed what.
    pub fn name(&self) -> &str {
        &self.name
    }
}
