//! What is kept beside the data directory: directories that a clone replaced, and WAL that the cluster lost.
//!
//! A replaced directory stays until the next one is set aside and replaced in its turn, or until a person prunes it. It
//! may go only once its successor has streamed: a mark in it says so, because that outlives everything in memory.

use super::room::bytes_under;
use super::{PgError, Place, files, lost};
use cluster::WallMs;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// In a directory whose successor has streamed.
const MARK: &str = "pgkeel-replaced";
/// Ends the name of a directory that is being removed.
const GOING: &str = ".going";

/// What kind of directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A whole data directory that a clone replaced.
    Data,
    /// WAL that only this node had.
    Wal,
}

/// A directory that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its name, beside the data directory.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Since when, by the host's clock.
    pub since: WallMs,
    /// What its files take.
    pub bytes: u64,
    /// Why it may not go yet.
    pub needed: Option<String>,
}

impl Place {
    /// Directories beside the data directory whose names begin so, in the order of their names.
    #[must_use]
    pub fn those_beside(&self, prefix: &str) -> Vec<PathBuf> {
        let prefix = self.beside(prefix);
        let (Some(parent), Some(prefix)) = (prefix.parent(), prefix.file_name().and_then(|n| n.to_str()))
        else {
            return Vec::new();
        };
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let named =
            |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix));
        let mut found: Vec<PathBuf> = entries.map(|e| e.path()).filter(named).collect();
        found.sort();
        found
    }
}

/// Where the data directory goes when a copy takes its place.
#[must_use]
pub fn name_for(place: &Place, now: WallMs) -> PathBuf {
    place.beside(&format!("aside-{}", now / 1000))
}

fn is_going(path: &Path) -> bool {
    path.to_string_lossy().ends_with(GOING)
}

/// The server that took the place of what was set aside streams: what was set aside may go from now on, and all that earlier
/// ones had replaced goes at once. What one rejoin has set aside stays together: if a copy was cut short, the newest is that
/// copy, and the node's own data is what was set aside before it.
///
/// # Errors
/// When something cannot be marked or removed.
pub fn note_replaced(place: &Place) -> Result<(), PgError> {
    let (going, kept): (Vec<PathBuf>, Vec<PathBuf>) =
        place.those_beside("aside-").into_iter().partition(|path| is_going(path));
    let newest = kept.last().map(|dir| own_name(dir)).unwrap_or_default();
    for dir in &kept {
        let mark = dir.join(MARK);
        if !mark.exists() {
            files::replace(&mark, &newest, place.owner())?;
        }
    }
    let together = kept.last().map(|dir| set_aside_with(dir));
    let old = kept.iter().filter(|dir| Some(set_aside_with(dir)) != together);
    let renamed = old.map(|dir| retire(dir)).collect::<Result<Vec<_>, _>>()?;
    let going =
        going.into_iter().chain(place.those_beside("lost-").into_iter().filter(|path| is_going(path)));
    going.chain(renamed).try_for_each(|dir| files::remove_dir(&dir))
}

/// What is in this directory has not been replaced, whatever its mark says.
pub fn forget_replaced(dir: &Path) {
    let _ = fs::remove_file(dir.join(MARK));
}

fn own_name(dir: &Path) -> String {
    dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The newest directory that was set aside for the same rejoin: what its mark says.
fn set_aside_with(dir: &Path) -> String {
    match fs::read_to_string(dir.join(MARK)) {
        Ok(newest) if !newest.is_empty() => newest,
        _ => own_name(dir),
    }
}

/// Gives a directory the name under which it is removed, however often that is interrupted.
fn retire(dir: &Path) -> Result<PathBuf, PgError> {
    let mut name = dir.as_os_str().to_owned();
    name.push(GOING);
    let going = PathBuf::from(name);
    files::rename(dir, &going)?;
    Ok(going)
}

/// All that is kept, oldest first. Looks at every file, so it may take a while.
#[must_use]
pub fn list(place: &Place) -> Vec<Kept> {
    let data = place.those_beside("aside-").into_iter().filter(|path| !is_going(path));
    let data = data.map(|dir| {
        let needed = (!dir.join(MARK).exists())
            .then(|| "the copy that took its place has not streamed from the primary yet".to_owned());
        let seconds = dir.to_string_lossy().rsplit_once("aside-").and_then(|(_, s)| s.parse::<u64>().ok());
        kept(&dir, Kind::Data, seconds.unwrap_or(0) * 1000, needed)
    });
    let wal = lost::list(place).into_iter().filter(|(path, _)| !is_going(path));
    let wal = wal.map(|(dir, record)| kept(&dir, Kind::Wal, record.kept_at, None));
    let mut all: Vec<Kept> = data.chain(wal).collect();
    all.sort_by(|a, b| (a.since, &a.name).cmp(&(b.since, &b.name)));
    all
}

fn kept(dir: &Path, kind: Kind, since: WallMs, needed: Option<String>) -> Kept {
    let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Kept { name, kind, since, bytes: bytes_under(dir, &|_| true), needed }
}

/// Takes the directories of these names away, and returns what is left to be removed; a name that is not listed, or
/// whose directory is still needed, stops it before anything is changed.
///
/// # Errors
/// When one may not go, or cannot be renamed.
pub fn prune(place: &Place, names: &[String]) -> Result<Vec<PathBuf>, PgError> {
    let all = list(place);
    for name in names {
        match all.iter().find(|kept| kept.name == *name) {
            None => {
                return Err(PgError::Unexpected(format!(
                    "there is no {name} beside {}",
                    place.data().display()
                )));
            }
            Some(Kept { needed: Some(why), .. }) => {
                return Err(PgError::Unexpected(format!("{name} is still needed: {why}")));
            }
            Some(_) => {}
        }
    }
    names.iter().map(|name| retire(&place.data().with_file_name(name))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn place(name: &str) -> (PathBuf, Place) {
        let root = std::env::temp_dir().join(format!("pgkeel-aside-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        let place = Place::under(&root);
        (root, place)
    }

    fn set_aside(place: &Place, seconds: u64) -> String {
        let dir = name_for(place, seconds * 1000);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("PG_VERSION"), "15\n").unwrap();
        dir.file_name().unwrap().to_string_lossy().into_owned()
    }

    #[test]
    fn nothing_goes_before_its_successor_streams() {
        let (root, place) = place("needed");
        let name = set_aside(&place, 100);
        assert!(list(&place)[0].needed.is_some());
        let refused = prune(&place, std::slice::from_ref(&name)).unwrap_err().to_string();
        assert!(refused.contains("still needed"), "{refused}");
        note_replaced(&place).unwrap();
        assert_eq!(list(&place)[0].needed, None);
        let going = prune(&place, &[name]).unwrap();
        assert!(list(&place).is_empty() && going[0].exists());
        note_replaced(&place).unwrap();
        assert!(!going[0].exists(), "a removal that was cut short is ended later");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn only_what_the_last_rejoin_set_aside_stays() {
        let (root, place) = place("newest");
        let names = || list(&place).into_iter().map(|kept| kept.name).collect::<Vec<_>>();
        // The node's own data, and a copy that was cut short.
        let (own, copy) = (set_aside(&place, 100), set_aside(&place, 200));
        for _ in 0..2 {
            note_replaced(&place).unwrap();
            assert_eq!(names(), [own.clone(), copy.clone()]);
        }
        let put_back = fs::read_to_string(place.beside("aside-200").join(MARK));
        assert!(put_back.is_ok());
        forget_replaced(&place.beside("aside-200"));
        assert!(list(&place)[1].needed.is_some());
        note_replaced(&place).unwrap();
        let next = set_aside(&place, 300);
        note_replaced(&place).unwrap();
        let left = list(&place);
        assert_eq!(names(), [next]);
        assert_eq!(left[0].since, 300_000);
        assert!(prune(&place, &["../etc".to_owned()]).is_err());
        fs::remove_dir_all(root).unwrap();
    }
}
