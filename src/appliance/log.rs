//! Log lines on standard error, for a person at a terminal or for the journal.
//!
//! Not here: metrics, or anything for each frame. Refusals to start are not logged but printed by `main`.
//! Invariant: no colours unless a terminal shows them; under systemd each line carries its priority and no clock.

use std::fmt;
use std::io::IsTerminal;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The environment variable with the filter.
pub const VARIABLE: &str = "XSHELF_LOG";

/// A filter that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("log filter '{filter}': {source}; write error, warn, info, debug or trace, or MODULE=LEVEL[,…]")]
pub struct BadFilter {
    filter: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Starts logging; `filter` stands before the environment, and without either it is `info`. A second call changes
/// nothing.
///
/// # Errors
/// [`BadFilter`]
pub fn start(filter: Option<&str>) -> Result<(), BadFilter> {
    let variable = std::env::var(VARIABLE).ok().filter(|v| !v.is_empty());
    let filter = filter.map(str::to_owned).or(variable).unwrap_or_else(|| "info".to_owned());
    let parsed =
        EnvFilter::builder().parse(&filter).map_err(|source| BadFilter { filter: filter.clone(), source })?;
    let terminal = std::io::stderr().is_terminal();
    let builder =
        tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr).with_ansi(terminal);
    // systemd sets it for what it connects to the journal (systemd.exec(5)).
    let done = if !terminal && std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.event_format(Journal).try_init()
    } else {
        builder.with_target(false).try_init()
    };
    // The only error is that logging has been started already.
    drop(done);
    Ok(())
}

/// `<6>message`: the priorities of sd-daemon(3); the journal adds time and name.
struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// The priority of a level (syslog(3)).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worse_levels_have_lower_priorities() {
        let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
        let numbers = levels.map(priority);
        assert!(numbers.is_sorted() && numbers[0] < numbers[1]);
    }

    #[test]
    fn a_bad_filter_says_what_is_possible() {
        let e = start(Some("xshelf=loud")).unwrap_err().to_string();
        assert!(e.contains("'xshelf=loud'") && e.contains("write error, warn, info"), "{e}");
    }
}
