//! `pgkeel config edit`: the whole configuration in an editor. A text that is refused is kept, to go on with.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use cluster::status::Status;

use super::{Agents, fetch, record};
use crate::cli::agents::first_answer;
use crate::cli::status::Format;
use crate::cli::text::say;
use crate::config::cluster_wide::{self, Edited};

/// A longer text is refused: no version may be so long.
const TEXT_BYTES_MAX: u64 = 1 << 20;

pub(super) async fn edit(agents: &Agents, format: Format, file: Option<PathBuf>) -> Result<ExitCode, String> {
    match file {
        Some(file) => from_file(agents, format, &file).await,
        None => in_editor(agents, format).await,
    }
}

async fn from_file(agents: &Agents, format: Format, file: &Path) -> Result<ExitCode, String> {
    let name = file.display().to_string();
    let text = if name == "-" {
        read_all(std::io::stdin().lock())
    } else {
        File::open(file).map_err(|e| e.to_string()).and_then(read_all)
    };
    let text = text.map_err(|e| format!("{name} cannot be read: {e}"))?;
    let Edited { from, content } = parsed(&name, &text)?;
    let present = fetch(agents).await?;
    record(agents, format, &present, from, content, None).await
}

fn read_all(from: impl Read) -> Result<String, String> {
    let mut text = String::new();
    from.take(TEXT_BYTES_MAX).read_to_string(&mut text).map_err(|e| e.to_string())?;
    Ok(text)
}

fn parsed(name: &str, text: &str) -> Result<Edited, String> {
    cluster_wide::parse(name, text).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        lines.join("\n")
    })
}

async fn in_editor(agents: &Agents, format: Format) -> Result<ExitCode, String> {
    let present = fetch(agents).await?;
    let status: Status = first_answer(agents, "/v1/status").await?;
    let before = cluster_wide::text(&status.cluster, present.number(), present.content());
    let path = std::env::temp_dir().join(format!("pgkeel-config-{}.toml", std::process::id()));
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    file.write_all(before.as_bytes()).map_err(failed)?;
    drop(file);
    let edited = run_editor(&path).and_then(|()| fs::read_to_string(&path).map_err(failed));
    let after = edited.inspect_err(|_| drop(fs::remove_file(&path)))?;
    if after == before {
        let _ = fs::remove_file(&path);
        say("nothing was changed\n");
        return Ok(ExitCode::SUCCESS);
    }
    let outcome = match parsed(&path.display().to_string(), &after) {
        Ok(Edited { from, content }) => {
            // Read anew: what is different now is what is told.
            let now = fetch(agents).await?;
            let from = from.or(Some(present.number()));
            record(agents, format, &now, from, content, None).await
        }
        Err(wrong) => Err(wrong),
    };
    if matches!(&outcome, Ok(code) if *code == ExitCode::SUCCESS) {
        let _ = fs::remove_file(&path);
    } else {
        eprintln!("your text is kept: correct it and say pgkeel config edit --file {}", path.display());
    }
    outcome
}

/// `$VISUAL`, `$EDITOR` or vi, by the shell, as they may have arguments.
fn run_editor(path: &Path) -> Result<(), String> {
    let named = std::env::var("VISUAL").or_else(|_| std::env::var("EDITOR"));
    let editor = named.ok().filter(|e| !e.trim().is_empty()).unwrap_or_else(|| "vi".to_owned());
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(path);
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the editor ({editor}) ended with {status}; nothing was changed")),
        Err(e) => Err(format!("the editor ({editor}) cannot be started: {e}; set EDITOR, or use --file")),
    }
}
