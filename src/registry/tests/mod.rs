//! What the registry promises, driven through its public face.
