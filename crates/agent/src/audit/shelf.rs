//! Two files of JSON lines that are only appended to: when the newer one is full it takes the place of the older one.

use super::Entry;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry::{Occupied, Vacant};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Size of a file, in bytes.
const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// What the lines of a shelf are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lines {
    /// Each is an entry, and is on the disk before the next one is taken.
    Each,
    /// Later ones tell more of the same entry.
    Counted,
}

/// See the module.
pub(super) struct Shelf {
    new: PathBuf,
    old: PathBuf,
    lines: Lines,
    /// The last line may not be whole: this process has written none yet, or could not.
    torn: bool,
    bytes_max: u64,
}

impl Shelf {
    pub(super) fn at(dir: &Path, name: &str, lines: Lines) -> Shelf {
        Shelf {
            new: dir.join(format!("{name}.jsonl")),
            old: dir.join(format!("{name}.old.jsonl")),
            lines,
            torn: true,
            bytes_max: FILE_BYTES_MAX,
        }
    }

    /// Opened anew for each line: whoever moves the file away gets a new one.
    pub(super) fn append(&mut self, entry: &Entry) -> io::Result<()> {
        let line = serde_json::to_string(entry).map_err(io::Error::other)?;
        let line = if self.torn { format!("\n{line}\n") } else { format!("{line}\n") };
        self.torn = true;
        let length = fs::metadata(&self.new).map_or(0, |file| file.len());
        if length > 0 && length + line.len() as u64 > self.bytes_max {
            fs::rename(&self.new, &self.old).map_err(|e| about(&self.old, &e))?;
        }
        self.write(&line).map_err(|e| about(&self.new, &e))?;
        self.torn = false;
        Ok(())
    }

    fn write(&self, line: &str) -> io::Result<()> {
        if let Some(dir) = self.new.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.new)?;
        file.write_all(line.as_bytes())?;
        match self.lines {
            Lines::Each => file.sync_data(),
            Lines::Counted => Ok(()),
        }
    }

    /// All entries; of those that are counted, `open` ones among them, the state with the highest count. What is no entry is skipped.
    pub(super) fn read(&self, open: &[Entry]) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::<Entry>::new();
        let mut counted: BTreeMap<String, usize> = BTreeMap::new();
        let mut take = |entry: Entry| {
            if self.lines == Lines::Counted {
                match counted.entry(identity(&entry)) {
                    Occupied(at) => {
                        if let Some(known) = entries.get_mut(*at.get()).filter(|it| it.times < entry.times) {
                            *known = entry;
                        }
                        return;
                    }
                    Vacant(at) => drop(at.insert(entries.len())),
                }
            }
            entries.push(entry);
        };
        for file in [&self.old, &self.new] {
            let text = self.text(file).map_err(|e| about(file, &e))?;
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).for_each(&mut take);
        }
        open.iter().cloned().for_each(take);
        Ok(entries)
    }

    fn text(&self, file: &Path) -> io::Result<String> {
        let mut bytes = Vec::new();
        match File::open(file) {
            Ok(file) => drop(file.take(2 * self.bytes_max).read_to_end(&mut bytes)?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// What is the same in all lines of one entry.
fn identity(entry: &Entry) -> String {
    format!("{}\n{}\n{}\n{}\n{}\n{:?}", entry.at, entry.who, entry.from, entry.what, entry.why, entry.result)
}

fn about(file: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", file.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::audit::Verdict;

    struct Dir(PathBuf);

    impl Dir {
        fn make(test: &str) -> Dir {
            let dir = std::env::temp_dir().join(format!("pgkeel-shelf-{test}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            Dir(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn entry(at: u64, result: Verdict, times: u64) -> Entry {
        let text = |text: &str| text.to_owned();
        Entry {
            at,
            node: "n1".parse().unwrap(),
            who: text("admin alice"),
            says: None,
            from: text("::1"),
            what: text("pause"),
            result,
            why: String::new(),
            times,
            last: at + times,
        }
    }

    #[test]
    fn two_files_are_all_and_the_newest_stay() {
        let dir = Dir::make("rotate");
        let mut shelf = Shelf { bytes_max: 2000, ..Shelf::at(&dir.0, "orders", Lines::Each) };
        for at in 0..200 {
            shelf.append(&entry(at, Verdict::Done, 1)).unwrap();
        }
        let told: Vec<u64> = shelf.read(&[]).unwrap().iter().map(|it| it.at).collect();
        assert!(told.len() > 8 && told.len() < 40, "{told:?}");
        assert_eq!(told, (200 - told.len() as u64..200).collect::<Vec<_>>());
        let sizes: Vec<u64> = [&shelf.old, &shelf.new].map(|file| fs::metadata(file).unwrap().len()).into();
        assert!(sizes.iter().all(|size| *size <= 2000), "{sizes:?}");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&shelf.new).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_line_that_is_not_whole_spoils_no_other() {
        let dir = Dir::make("torn");
        let mut shelf = Shelf::at(&dir.0, "orders", Lines::Counted);
        shelf.append(&entry(1, Verdict::Done, 1)).unwrap();
        let half = "{\"at\":2,\"no";
        OpenOptions::new().append(true).open(&shelf.new).unwrap().write_all(half.as_bytes()).unwrap();
        let mut next = Shelf::at(&dir.0, "orders", Lines::Counted);
        next.append(&entry(3, Verdict::Done, 1)).unwrap();
        assert_eq!(next.read(&[]).unwrap().iter().map(|it| it.at).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn of_one_that_is_counted_the_last_state_is_told() {
        let dir = Dir::make("counted");
        let mut shelf = Shelf::at(&dir.0, "refused", Lines::Counted);
        for (at, times) in [(1, 1), (1, 10), (2, 1)] {
            shelf.append(&entry(at, Verdict::Refused, times)).unwrap();
        }
        let told = |open: &[Entry]| -> Vec<(u64, u64)> {
            shelf.read(open).unwrap().iter().map(|it| (it.at, it.times)).collect()
        };
        assert_eq!(told(&[]), [(1, 10), (2, 1)]);
        let open = [entry(1, Verdict::Refused, 14), entry(2, Verdict::Refused, 1)];
        assert_eq!(told(&open), [(1, 14), (2, 1)]);
        assert_eq!(told(&[entry(1, Verdict::Refused, 1)]), [(1, 10), (2, 1)], "never less than is written");
    }

    #[test]
    fn what_cannot_be_written_is_said() {
        let dir = Dir::make("file");
        fs::write(&dir.0, "a file in the place of the directory").unwrap();
        let mut shelf = Shelf::at(&dir.0, "orders", Lines::Counted);
        let said = shelf.append(&entry(1, Verdict::Done, 1)).unwrap_err().to_string();
        assert!(said.contains("orders.jsonl"), "{said}");
        fs::remove_file(&dir.0).unwrap();
        shelf.append(&entry(1, Verdict::Done, 1)).unwrap();
        assert_eq!(shelf.read(&[]).unwrap().len(), 1, "and is written again as soon as it can be");
    }
}
