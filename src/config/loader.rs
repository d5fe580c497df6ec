//! Puts the layers of a configuration together: the embedded defaults, a file, the environment,
//! flags; later wins. Each value is tried as it is laid on, so that an error names the option and
//! where its value came from. Nothing is guessed: what isn't an option is refused.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Config, REFERENCE};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(PathBuf),
    Environment(String),
    Flag(&'static str),
}

/// Why a configuration was refused. Every variant about a value names the option.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("configuration file '{}' can't be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("configuration file '{}' is no TOML: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("there is no option '{option}' ({origin}){}", suggestion.as_ref().map(|name| format!("; did you mean '{name}'?")).unwrap_or_default())]
    Unknown { option: String, origin: Origin, suggestion: Option<String> },
    #[error("option '{option}' ({origin}): {message}")]
    Invalid { option: String, origin: Origin, message: String },
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<ConfigError>),
}

/// Collects layers in ascending precedence, then loads them.
#[derive(Debug, Default)]
pub struct Loader {
    file: Option<PathBuf>,
    environment: Vec<(String, String)>,
    flags: Vec<(&'static str, &'static str, String)>,
}

const ENVIRONMENT_PREFIX: &str = "HYDRANT_";
const ENVIRONMENT_SEPARATOR: &str = "__";

impl Loader {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Takes the variables named HYDRANT_SECTION__OPTION, and leaves all others alone.
    #[must_use]
    pub fn environment(mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let ours = variables.into_iter().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            let is_option = name.strip_prefix(ENVIRONMENT_PREFIX)?.contains(ENVIRONMENT_SEPARATOR);
            // Not UTF-8: kept with its replacement characters, to be refused as a value.
            is_option.then(|| (name, value.to_string_lossy().into_owned()))
        });
        self.environment.extend(ours);
        self
    }

    /// A flag of the command line (`--grpc-addr`) and the option that it sets (`server.grpc_addr`).
    #[must_use]
    pub fn flag(mut self, flag: &'static str, option: &'static str, value: Option<String>) -> Self {
        self.flags.extend(value.map(|value| (flag, option, value)));
        self
    }

    /// Lays the layers on each other and checks the result.
    pub fn load(self) -> Result<Config, ConfigError> {
        let mut layers = Layers::begin();
        let mut problems = Vec::new();
        if let Some(path) = &self.file {
            for (option, value) in read_file(path)? {
                problems.extend(layers.lay(&option, value, Origin::File(path.clone())).err());
            }
        }
        for (name, text) in &self.environment {
            let option = option_of_variable(name);
            let origin = Origin::Environment(name.clone());
            problems.extend(layers.lay_text(&option, text, origin).err());
        }
        for (flag, option, text) in &self.flags {
            problems.extend(layers.lay_text(option, text, Origin::Flag(flag)).err());
        }
        if problems.is_empty() {
            problems.extend(layers.breaches());
        }
        match problems.len() {
            0 => Ok(layers.config),
            1 => Err(problems.swap_remove(0)),
            _ => Err(ConfigError::Several(problems)),
        }
    }
}

/// The options laid on so far, and the valid configuration that they make.
struct Layers {
    table: Table,
    config: Config,
    origins: BTreeMap<String, Origin>,
}

impl Layers {
    fn begin() -> Self {
        let table: Table = REFERENCE.parse().expect("the compiled-in defaults are TOML");
        let config = table.clone().try_into().expect("the compiled-in defaults are complete and well-typed");
        Self { table, config, origins: BTreeMap::new() }
    }

    /// Lays one value on. A value that doesn't fit leaves the layers as they were.
    fn lay(&mut self, option: &str, value: Value, origin: Origin) -> Result<(), ConfigError> {
        let empty_section = value.as_table().is_some_and(Table::is_empty) && self.table.contains_key(option);
        if empty_section {
            return Ok(());
        }
        let Some(place) = find(&mut self.table, option) else {
            return Err(ConfigError::Unknown { suggestion: self.nearest(option), option: option.to_owned(), origin });
        };
        let before = std::mem::replace(place, value);
        match self.table.clone().try_into() {
            Ok(config) => {
                self.config = config;
                self.origins.insert(option.to_owned(), origin);
                Ok(())
            }
            Err(error) => {
                *find(&mut self.table, option).expect("it was found before") = before;
                Err(ConfigError::Invalid { option: option.to_owned(), origin, message: error.message().to_owned() })
            }
        }
    }

    /// Lays on a value given as text, which takes the type that the option has.
    fn lay_text(&mut self, option: &str, text: &str, origin: Origin) -> Result<(), ConfigError> {
        let typed = match find(&mut self.table, option) {
            Some(Value::Integer(_)) => text.parse().ok().map(Value::Integer),
            Some(Value::Float(_)) => text.parse().ok().map(Value::Float),
            Some(Value::Boolean(_)) => text.parse().ok().map(Value::Boolean),
            _ => Some(Value::String(text.to_owned())),
        };
        // What doesn't parse goes on as text, to be refused with the type that was expected.
        self.lay(option, typed.unwrap_or_else(|| Value::String(text.to_owned())), origin)
    }

    fn breaches(&self) -> impl Iterator<Item = ConfigError> {
        self.config.breaches().into_iter().map(|(option, message)| ConfigError::Invalid {
            option: option.to_owned(),
            origin: self.origins.get(option).cloned().unwrap_or(Origin::Default),
            message,
        })
    }

    /// The option that a mistyped one may have meant.
    fn nearest(&self, mistyped: &str) -> Option<String> {
        let options = self.table.iter().flat_map(|(section, options)| {
            let names = options.as_table().into_iter().flat_map(Table::keys);
            names.map(move |name| format!("{section}.{name}"))
        });
        let nearest = options.map(|option| (edit_distance(&option, mistyped), option)).min()?;
        (nearest.0 <= 4).then_some(nearest.1)
    }
}

fn read_file(path: &Path) -> Result<Vec<(String, Value)>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let syntax = |error: toml::de::Error| ConfigError::Syntax { path: path.to_owned(), message: error.to_string() };
    let table: Table = text.parse().map_err(syntax)?;
    let mut options = Vec::new();
    for (section, value) in table {
        match value {
            Value::Table(entries) if !entries.is_empty() => {
                options.extend(entries.into_iter().map(|(name, value)| (format!("{section}.{name}"), value)));
            }
            // No option stands outside a section: laid on under its bare name, it is refused by it.
            outside => options.push((section, outside)),
        }
    }
    Ok(options)
}

/// `HYDRANT_SERVER__GRPC_ADDR` sets `server.grpc_addr`.
fn option_of_variable(name: &str) -> String {
    let path = name.strip_prefix(ENVIRONMENT_PREFIX).unwrap_or(name);
    path.replace(ENVIRONMENT_SEPARATOR, ".").to_ascii_lowercase()
}

fn find<'a>(table: &'a mut Table, option: &str) -> Option<&'a mut Value> {
    let (section, name) = option.split_once('.')?;
    table.get_mut(section)?.as_table_mut()?.get_mut(name)
}

/// The number of letters to put in, take out or change (Levenshtein).
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for column in 0..to.len() {
            let changed = diagonal + usize::from(letter != to[column]);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("by default"),
            Self::File(path) => write!(formatter, "in {}", path.display()),
            Self::Environment(name) => write!(formatter, "from {name}"),
            Self::Flag(flag) => write!(formatter, "from {flag}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("written");
        file
    }

    fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn the_embedded_default_is_valid_and_listens_on_loopback_only() {
        let config = Config::embedded();
        assert!(config.server.grpc_addr.ip().is_loopback());
        assert_eq!(config.storage.partitions, 4);
    }

    #[test]
    fn flags_win_over_the_environment_which_wins_over_the_file_which_wins_over_the_defaults() {
        let file =
            file("[server]\ngrpc_addr = '127.0.0.1:1'\nflight_addr = '127.0.0.1:1'\nhttp_addr = '127.0.0.1:1'\n");
        let config = Loader::new()
            .flag("--http-addr", "server.http_addr", Some("127.0.0.1:3".to_owned()))
            .flag("--data-dir", "storage.data_dir", None)
            .environment(variables(&[
                ("HYDRANT_SERVER__HTTP_ADDR", "127.0.0.1:2"),
                ("HYDRANT_SERVER__FLIGHT_ADDR", "127.0.0.1:2"),
                ("HYDRANT_STORAGE__PARTITIONS", "8"),
                ("HYDRANT_TELEMETRY__TRACE_SHARE", "1"),
                ("HYDRANT_SERVER", "somewhere:7600"),
                ("PATH", "/bin"),
            ]))
            .file(file.path())
            .load()
            .expect("valid");
        assert_eq!(config.server.grpc_addr.port(), 1);
        assert_eq!(config.server.flight_addr.port(), 2);
        assert_eq!(config.server.http_addr.port(), 3);
        assert_eq!(config.storage.partitions, 8);
        assert_eq!(config.storage.data_dir, Path::new("hydrant-data"));
    }

    #[test]
    fn an_option_that_does_not_exist_is_refused_wherever_it_stands() {
        let file = file("[server]\ngrpc_adr = '127.0.0.1:1'\n");
        let error = Loader::new().file(file.path()).load().expect_err("refused").to_string();
        assert!(error.contains("'server.grpc_adr'") && error.contains("did you mean 'server.grpc_addr'"), "{error}");

        let environment = variables(&[("HYDRANT_SERVER__PORT_OF_CALL", "1")]);
        let error = Loader::new().environment(environment).load().expect_err("refused").to_string();
        assert!(error.contains("HYDRANT_SERVER__PORT_OF_CALL"), "{error}");

        let outside = super::tests::file("grpc_addr = 'x'\n");
        let error = Loader::new().file(outside.path()).load().expect_err("refused").to_string();
        assert!(error.contains("'grpc_addr'"), "{error}");

        let empty = super::tests::file("[server]\n");
        assert!(Loader::new().file(empty.path()).load().is_ok());
        let empty = super::tests::file("[servers]\n");
        assert!(Loader::new().file(empty.path()).load().is_err());
    }

    #[test]
    fn a_wrong_value_is_refused_naming_its_option_and_where_it_came_from() {
        let environment = variables(&[("HYDRANT_STORAGE__PARTITIONS", "many")]);
        let error = Loader::new().environment(environment).load().expect_err("refused").to_string();
        assert!(error.contains("'storage.partitions' (from HYDRANT_STORAGE__PARTITIONS)"), "{error}");

        let file = file("[log]\nsegment = '64 megabytes'\n");
        let error = Loader::new().file(file.path()).load().expect_err("refused").to_string();
        assert!(error.contains("'log.segment'") && error.contains("64MiB"), "{error}");

        let broken = super::tests::file("[log\n");
        assert!(matches!(Loader::new().file(broken.path()).load(), Err(ConfigError::Syntax { .. })));
        assert!(matches!(Loader::new().file("/nowhere/at/all").load(), Err(ConfigError::Unreadable { .. })));
    }

    #[test]
    fn an_address_that_is_not_loopback_is_refused_until_there_are_credentials() {
        for address in ["0.0.0.0:7600", "192.168.1.2:7600", "[::]:7600"] {
            let loader = Loader::new().flag("--grpc-addr", "server.grpc_addr", Some(address.to_owned()));
            let error = loader.load().expect_err(address).to_string();
            assert!(error.contains("'server.grpc_addr' (from --grpc-addr)") && error.contains("loopback"), "{error}");
        }
        let loader = Loader::new().flag("--grpc-addr", "server.grpc_addr", Some("[::1]:7600".to_owned()));
        assert!(loader.load().is_ok());
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let environment = variables(&[
            ("HYDRANT_STORAGE__PARTITIONS", "0"),
            ("HYDRANT_TELEMETRY__TRACE_SHARE", "2.0"),
            ("HYDRANT_LANDING__INTERVAL", "0s"),
            ("HYDRANT_PARTITIONS__TRIM_INTERVAL", "9ms"),
            ("HYDRANT_PARTITIONS__FLUSH_INTERVAL", "10ms"),
        ]);
        let error = Loader::new().environment(environment).load().expect_err("refused").to_string();
        assert!(!error.contains("flush_interval"), "{error}");
        for option in ["storage.partitions", "telemetry.trace_share", "landing.interval", "partitions.trim_interval"] {
            assert!(error.contains(option), "{error}");
        }
    }
}
