//! What a failure doesn't say by itself and a look at the server does: which name was meant, and
//! which port was taken for the gRPC port. It only adds; a failure that nothing is found out about
//! stays as it is.

use std::time::Duration;

use hydrant_proto::v1;

use super::server::{DEFAULT_ADDRESS, Server};
use super::{Failure, definitions, share};
use crate::registry::definition::Kind;
use crate::registry::selection::is_of_another;
use crate::rpc::client::{Client, Heard};

/// The look at the server takes so long at most: the failure is what was waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Names that a hint lists; of more it says how to list them.
const MAX_NAMES: usize = 10;

/// Bytes of a name that another is looked for; names are not longer.
const MAX_LENGTH: usize = 80;

/// The failure, perhaps with a hint, or said better.
pub async fn explained(failure: Failure, server: &Server) -> Failure {
    let explained = async {
        match failure.reason.as_str() {
            "SERVER_UNREACHABLE" if !server.remote.is_secure() => match server.remote.listen().await {
                Heard::Http => Some(wrong_port(server, "speaks HTTP and no gRPC: it looks like a server's HTTP port")),
                Heard::Tls => Some(speaks_tls(server)),
                Heard::Other => None,
            },
            "UNKNOWN_METHOD" if !knows_registry(server).await => Some(wrong_port(
                server,
                "serves gRPC, but none of the services that commands need: it looks like a server's Flight port",
            )),
            "NO_CREDENTIAL" => {
                Some(failure.clone().hint("name a file with your API key by --token-file, or set HYDRANT_TOKEN"))
            }
            _ if failure.hint.is_some() => None,
            "SERVICE_VERSION_NOT_FOUND" => {
                let service = metadata(&failure, "service")?;
                let hint = match is_of_another(service) {
                    true => shared_versions_hint(server, service).await?,
                    false => format!("`hydrant describe service {service}` tells which versions there are"),
                };
                Some(failure.clone().hint(hint))
            }
            _ => {
                let (kind, name) = missing(&failure)?;
                let hint = match is_of_another(name) {
                    true => shared_names_hint(server, name).await?,
                    false => names_hint(server, kind, name).await?,
                };
                Some(failure.clone().hint(hint))
            }
        }
    };
    tokio::time::timeout(PATIENCE, explained).await.ok().flatten().unwrap_or(failure)
}

fn wrong_port(server: &Server, told: &str) -> Failure {
    Failure::new("WRONG_PORT", format!("{} {told}", server.address())).with("server", server.address()).hint(format!(
        "name the address of gRPC, the first of the three that `hydrant serve` prints ({DEFAULT_ADDRESS} by default)"
    ))
}

fn speaks_tls(server: &Server) -> Failure {
    let address = server.address();
    Failure::new("TLS_ONLY", format!("{address} speaks TLS only"))
        .with("server", address)
        .hint(format!("write https://{address} (--server, HYDRANT_SERVER)"))
}

/// Whether the server answers what every gRPC port of a Hydrant does.
async fn knows_registry(server: &Server) -> bool {
    let Ok(client) = Client::connect_to(server.remote.clone()).await else { return true };
    !client.server_info().await.is_err_and(|refusal| refusal.reason == "UNKNOWN_METHOD")
}

fn metadata<'a>(failure: &'a Failure, wanted: &str) -> Option<&'a str> {
    failure.metadata.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str())
}

/// The kind and the name of what isn't there.
fn missing(failure: &Failure) -> Option<(Kind, &str)> {
    let metadata = |key| metadata(failure, key);
    match failure.reason.as_str() {
        "DEFINITION_NOT_FOUND" => {
            let kind = metadata("kind")?;
            Some((Kind::ALL.into_iter().find(|known| known.as_str() == kind)?, metadata("name")?))
        }
        "VIEW_NOT_FOUND" => Some((Kind::FeatureView, metadata("view")?)),
        "SERVICE_NOT_FOUND" => Some((Kind::FeatureService, metadata("service")?.split('@').next()?)),
        _ => None,
    }
}

async fn names_hint(server: &Server, kind: Kind, name: &str) -> Option<String> {
    let client = Client::connect_to(server.remote.clone()).await.ok()?;
    let there = client.list_definitions(kind).await.ok()?;
    let names: Vec<String> = there.into_iter().filter_map(|definition| Some(definition.metadata?.name)).collect();
    let list = format!("`hydrant get {}`", definitions::plural(kind));
    Some(hint(&list, "there is none yet: `hydrant apply -f DIR` makes what DIR defines", name, &names))
}

/// The services that other tenants share with the caller's, by the names that it has for them.
async fn shared_services(server: &Server) -> Option<Vec<v1::Share>> {
    let client = Client::connect_to(server.remote.clone()).await.ok()?;
    let mut shares = client.list_shares(true).await.ok()?;
    shares.retain(|share| !share.ended && matches!(share.of, Some(v1::share::Of::Service(_))));
    Some(shares)
}

async fn shared_names_hint(server: &Server, name: &str) -> Option<String> {
    let names: Vec<String> = shared_services(server).await?.iter().map(share::named).collect();
    let list = "`hydrant share list --with-me`";
    let none = format!("no tenant shares a service with yours: {list} shows what is shared");
    Some(hint(list, &none, name, &names))
}

async fn shared_versions_hint(server: &Server, service: &str) -> Option<String> {
    let shares = shared_services(server).await?;
    let share = shares.iter().find(|share| share::named(share) == service)?;
    let versions: Vec<String> = share.versions.iter().rev().take(MAX_NAMES).map(ToString::to_string).collect();
    Some(format!("the versions that are shared, the newest first: {}", versions.join(", ")))
}

/// `list` is the command that lists the names; `none` what is said where there are none.
fn hint(list: &str, none: &str, name: &str, names: &[String]) -> String {
    // A third of the letters may be wrong. What is far too long is nobody's name.
    let near = |other: &&String| name.len() <= MAX_LENGTH && distance(name, other) <= name.len().max(other.len()) / 3;
    if let Some(nearest) = names.iter().filter(near).min_by_key(|other| distance(name, other)) {
        return format!("is it '{nearest}'? {list} lists all");
    }
    match names.len() {
        0 => none.to_owned(),
        1..=MAX_NAMES => format!("there are: {}", names.join(", ")),
        more => format!("{list} lists all {more}"),
    }
}

/// How many letters have to be put in, taken out, exchanged, or swapped with their neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut between = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            if i == 0 || j == 0 {
                between[i][j] = i + j;
                continue;
            }
            let exchanged = between[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = exchanged.min(between[i - 1][j] + 1).min(between[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(between[i - 2][j - 2] + 1);
            }
            between[i][j] = least;
        }
    }
    between[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_guessed_and_otherwise_the_names_are_told() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let all = names(&["airport_weather", "carrier_departures", "plane_register"]);
        let hint = |name: &str, names: &[String]| hint("`hydrant get views`", "there is none", name, names);
        assert_eq!(hint("airport_wether", &all), "is it 'airport_weather'? `hydrant get views` lists all");
        assert_eq!(hint("clicks", &all), "there are: airport_weather, carrier_departures, plane_register");
        assert_eq!(hint("airport", &[]), "there is none");
        let many: Vec<String> = (0..40).map(|number| format!("view_of_things_{number}")).collect();
        assert_eq!(hint("x", &many), "`hydrant get views` lists all 40");
    }

    #[test]
    fn a_distance_counts_letters() {
        for (a, b, letters) in
            [("", "", 0), ("abc", "", 3), ("weather", "wether", 1), ("modle", "model", 1), ("é", "e", 1)]
        {
            assert_eq!(distance(a, b), letters, "{a} {b}");
            assert_eq!(distance(b, a), letters, "{b} {a}");
        }
    }
}
