//! The token that a command shows instead of a certificate: from a file that nobody else can read, or from standard input. Never from
//! the command line, where every user of the host sees it.

use std::fs::File;
use std::io::{Read, Take};
use std::path::{Path, PathBuf};

use identity::{Caller, Folder, Token, files};

/// Names the file, when `--api-token-file` does not.
pub const VARIABLE: &str = "PGKEEL_TOKEN_FILE";
/// Longest file, in bytes.
const FILE_BYTES_MAX: u64 = 4096;

/// The file to use: the one that was given, else the one that the environment names.
#[must_use]
pub fn file_of(given: Option<&Path>) -> Option<PathBuf> {
    let named = || std::env::var_os(VARIABLE).filter(|it| !it.is_empty()).map(PathBuf::from);
    given.map(Path::to_owned).or_else(named)
}

/// Calls with the token of this file (`-`: standard input) agents whose authority is in `folder`.
///
/// # Errors
/// What is wrong with either.
pub fn caller(file: &Path, folder: &Folder) -> Result<Caller, String> {
    let token = read(file)?;
    let authorities = files::certificates("--tls", &folder.authorities()).map_err(|e| e.to_string())?;
    Caller::with_token(authorities, token).map_err(|e| format!("{}: {e}", folder.authorities().display()))
}

fn read(file: &Path) -> Result<Token, String> {
    let wrong = |said: String| format!("the token of {}: {said}", file.display());
    let text = if file == Path::new("-") {
        text(std::io::stdin().take(FILE_BYTES_MAX))
    } else {
        let open = files::open_secret(file).map_err(|trouble| wrong(trouble.to_string()))?;
        text::<File>(open.take(FILE_BYTES_MAX))
    };
    text.map_err(wrong)?.parse::<Token>().map_err(|e| wrong(e.to_string()))
}

fn text<T: Read>(mut from: Take<T>) -> Result<String, String> {
    let mut text = String::new();
    from.read_to_string(&mut text).map_err(|e| e.to_string())?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_read_from_a_file_that_nobody_else_can_read() {
        let file = std::env::temp_dir().join(format!("pgkeel-api-token-{}", std::process::id()));
        let token = Token::make().unwrap();
        std::fs::write(&file, token.word() + "\n").unwrap();
        let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o600);
        assert_eq!(read(&file), Ok(token.clone()));
        mode(0o644);
        let said = read(&file).unwrap_err();
        assert!(said.contains("can be read by others") && !said.contains(&token.word()), "{said}");
        mode(0o600);
        std::fs::write(&file, "secret words").unwrap();
        let said = read(&file).unwrap_err();
        assert!(said.contains("no user's token") && !said.contains("secret words"), "{said}");
        std::fs::remove_file(&file).unwrap();
        assert!(read(&file).unwrap_err().contains("cannot be read"));
    }
}
