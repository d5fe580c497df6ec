//! Roles between messages, memory and the words that people write.

use hydrant_proto::v1;

use crate::error::{Error, Result};
use crate::tenancy::{Role, Roles};

pub fn decode_roles(roles: &[i32]) -> Result<Roles> {
    let decode = |role: &i32| match v1::Role::try_from(*role) {
        Ok(v1::Role::Reader) => Ok(Role::Reader),
        Ok(v1::Role::Trainer) => Ok(Role::Trainer),
        Ok(v1::Role::Writer) => Ok(Role::Writer),
        Ok(v1::Role::Owner) => Ok(Role::Owner),
        Ok(v1::Role::Admin) => Ok(Role::Admin),
        Ok(v1::Role::Platform) => Ok(Role::Platform),
        Ok(v1::Role::Pii) => Ok(Role::Pii),
        Ok(v1::Role::Unspecified) | Err(_) => Err(Error::invalid("BAD_KEY", format!("{role} is no role"))),
    };
    roles.iter().map(decode).collect()
}

/// A role by its name, for who asks for keys.
pub fn parse_role(name: &str) -> Result<v1::Role, String> {
    name.parse::<Role>().map(encode_role)
}

/// The name of a role on the wire; of one that this version doesn't know, its number.
pub fn role_name(role: i32) -> String {
    let known = Role::ALL.into_iter().find(|known| i32::from(encode_role(*known)) == role);
    known.map_or_else(|| format!("role {role}"), |known| known.as_str().to_owned())
}

/// As on the wire.
pub fn encode_role(role: Role) -> v1::Role {
    match role {
        Role::Reader => v1::Role::Reader,
        Role::Trainer => v1::Role::Trainer,
        Role::Writer => v1::Role::Writer,
        Role::Owner => v1::Role::Owner,
        Role::Admin => v1::Role::Admin,
        Role::Platform => v1::Role::Platform,
        Role::Pii => v1::Role::Pii,
    }
}

pub fn encode_roles(roles: Roles) -> Vec<i32> {
    roles.iter().map(|role| encode_role(role).into()).collect()
}
