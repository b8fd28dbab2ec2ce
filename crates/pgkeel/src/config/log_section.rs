//! The log: `[log]`.

use crate::log::LogFormat;

use super::report::Report;
use super::section::Section;

/// `None` when the file says nothing, or goes with a reported error.
pub(super) fn read(root: &Section<'_>, report: &mut Report<'_>) -> Option<LogFormat> {
    let section = root.open_or_empty(report, "log")?;
    section.refuse_unknown(report, &["format"]);
    section.parsed(report, "format", format).map(|found| found.value)
}

fn format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => Err(format!("{other:?} is no format of the log; write \"text\" or \"json\"")),
    }
}
