//! Logging: text on a terminal, JSON lines otherwise, always to stderr; stdout is for results.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// What is logged unless `--log` or `RUST_LOG` says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Warn,
    Info,
}

#[derive(Debug, thiserror::Error)]
#[error("\"{filter}\" is not a filter ({reason}); write a level, such as info, or stockwarden=debug,info")]
pub struct BadFilter {
    filter: String,
    reason: ParseError,
}

/// Starts logging for the process; a second call changes nothing.
pub fn start(filter: Option<&str>, usual: Level) -> Result<(), BadFilter> {
    let given = filter.map(str::to_owned).or_else(|| std::env::var("RUST_LOG").ok().filter(|f| !f.is_empty()));
    let filter = filter_of(given.as_deref(), usual)?;
    let to_stderr = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = if io::stderr().is_terminal() { to_stderr.try_init() } else { to_stderr.json().try_init() };
    // Somebody else (a test) has started it already.
    drop(started);
    Ok(())
}

fn filter_of(given: Option<&str>, usual: Level) -> Result<EnvFilter, BadFilter> {
    let text = given.unwrap_or(match usual {
        Level::Warn => "warn",
        // Drivers tell every statement and every connection at info.
        Level::Info => "info,sqlx=warn,librdkafka=warn,actix_server=warn",
    });
    EnvFilter::try_new(text).map_err(|reason| BadFilter { filter: text.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_makes_no_sense_is_told_with_an_example() {
        let told = filter_of(Some("stockwarden=loud"), Level::Info).expect_err("no level").to_string();
        assert!(told.starts_with("\"stockwarden=loud\" is not a filter") && told.contains("stockwarden=debug,info"), "{told}");
        assert!(filter_of(None, Level::Info).is_ok() && filter_of(Some("debug"), Level::Warn).is_ok());
    }
}
