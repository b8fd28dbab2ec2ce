//! The cluster-wide configuration as text, for an editor: the part of a configuration file that it corresponds to.

use std::fmt::Write as _;

use agent::settings::managed::hba_line;
use cluster::configuration::Content;
use toml::de::DeTable;

use super::managed;
use super::report::{ConfigError, Report};
use super::section::{OneAlone, Section};

/// Begins the line that says from which version a text was made.
const VERSION: &str = "# version:";

/// A text that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// The version that it was made from, if it says so.
    pub from: Option<u64>,
    /// What it says.
    pub content: Content,
}

/// Writes a version as a text that [`parse`] reads.
#[must_use]
pub fn text(cluster: &str, version: u64, content: &Content) -> String {
    let mut text = format!(
        "# PostgreSQL's configuration on every node of cluster {cluster}.\n{VERSION} {version}\n\
         # A node's own configuration file has the last word on that node. Nothing changes when you save nothing.\n\n\
         [postgres]\n# Lines of pg_hba.conf, after a node's own.\nhba = [\n"
    );
    for line in &content.hba {
        let _ = writeln!(text, "  {},", quoted(line));
    }
    text.push_str("]\n\n[postgres.settings]\n# work_mem = \"64MB\"\n");
    for (name, value) in &content.parameters {
        let bare = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let name = if bare { name.clone() } else { quoted(name) };
        let _ = writeln!(text, "{name} = {}", quoted(value));
    }
    text
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\t', "\\t"))
}

/// Reads a text that is called `file` in errors.
///
/// # Errors
/// Everything that is wrong with it, in the order of its lines.
pub fn parse(file: &str, text: &str) -> Result<Edited, Vec<ConfigError>> {
    let mut report = Report::new(file, text);
    let (document, syntax) = DeTable::parse_recoverable(text);
    let mut content = Content::default();
    if report.syntax(&syntax) {
        let root = Section::root(document.get_ref());
        root.refuse_unknown(&mut report, &["postgres"]);
        if let Some(postgres) = root.open(&mut report, "postgres") {
            postgres.refuse_unknown(&mut report, &["hba", "settings"]);
            let lines = postgres.list(&mut report, "hba", OneAlone::Refused, hba_line).unwrap_or_default();
            content.hba = lines.into_iter().flatten().map(|found| found.value).collect();
            content.parameters = managed::read(&postgres, &mut report);
        }
    }
    if !report.errors.is_empty() {
        report.errors.sort();
        return Err(report.errors);
    }
    let from = text.lines().find_map(|line| line.strip_prefix(VERSION)?.trim().parse().ok());
    Ok(Edited { from, content })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let content = Content {
            parameters: [
                ("work_mem", "64MB"),
                ("pg_stat_statements.max", "5000"),
                ("log_line_prefix", "%m \"quoted\" \\ [%p] "),
            ]
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .into(),
            hba: vec!["host all all 10.0.0.0/8 scram-sha-256".to_owned()],
        };
        let written = text("shop", 7, &content);
        assert_eq!(parse("edit", &written).unwrap(), Edited { from: Some(7), content }, "{written}");
        assert_eq!(parse("edit", &text("shop", 0, &Content::default())).unwrap().content, Content::default());
    }

    #[test]
    fn mistakes_have_their_line() {
        let said = |text: &str| {
            let errors = parse("edit", text).unwrap_err();
            errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        assert!(said("[postgres.settings]\nport = 5432\n").starts_with("edit:2: "), "managed");
        assert!(said("[postgres]\nhba = [\"nobody\"]\n").contains("is not a line of pg_hba.conf"));
        assert!(said("[postgres]\nport = 1\n").contains("unknown key"));
        assert!(said("work_mem").contains("not TOML"));
    }
}
