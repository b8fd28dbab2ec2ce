//! Whether standard error is systemd's journal.

use rustix::fs::fstat;

/// systemd names the device and the inode of the stream that it connected, as `device:inode` in decimal
/// (systemd.exec(5), `$JOURNAL_STREAM`). A variable that was inherited past a redirection names another stream.
pub(super) fn is_standard_error() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    fstat(std::io::stderr()).is_ok_and(|found| names(&named, found.st_dev, found.st_ino))
}

fn names(stream: &str, device: u64, inode: u64) -> bool {
    let Some((named_device, named_inode)) = stream.split_once(':') else { return false };
    named_device.parse() == Ok(device) && named_inode.parse() == Ok(inode)
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn only_the_stream_that_is_named_is_the_journal() {
        assert!(names("9:1234", 9, 1234));
        for other in ["", ":", "9", "9:1235", "8:1234", "9:1234:1", "9:x"] {
            assert!(!names(other, 9, 1234), "{other}");
        }
    }
}
