//! Files of a host are exchanged: by several at once, by who is ended in the middle, and where they belong to somebody else.

use crate::{Dir, HOUR, YEAR, subject};
use identity::authority::{Authority, Pair};
use identity::{Credentials, Folder, Plain, Role, Subject, certificate};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::time::{Duration, Instant};

fn n1() -> Subject {
    subject("shop", Role::Agent, "n1")
}

fn load(folder: &Folder) -> Credentials {
    Credentials::load(folder.clone(), Plain::Refused).unwrap()
}

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn names(folder: &Folder) -> Vec<String> {
    let all = fs::read_dir(folder.dir()).unwrap().flatten();
    let mut names: Vec<_> = all.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn text(path: std::path::PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

/// A clock that was a year ahead for a moment makes a certificate that is good now.
#[test]
fn a_certificate_of_a_wrong_clock_is_accepted() {
    let dir = Dir::new();
    let authority = dir.authority("shop");
    let folder = dir.issue(&authority, &n1(), YEAR);
    let ahead = authority.issue_at(&n1(), HOUR * 24 * 90, certificate::now() + YEAR).unwrap();
    folder.write_own(&ahead).unwrap();
    let credentials = load(&folder);
    assert_eq!(credentials.doubt(), None);
    assert_eq!(credentials.current().lifetime, HOUR * 24 * 90);
    let behind = authority.issue_at(&n1(), YEAR, certificate::now() - YEAR);
    assert!(
        behind.err().unwrap().to_string().contains("clock"),
        "nothing is signed before the authority's time"
    );
}

#[test]
fn it_is_due_by_the_time_for_which_it_was_made() {
    let dir = Dir::new();
    let authority = dir.authority("shop");
    let now = certificate::now();
    // As an authority that is much older than the certificate would make it: its first moment says nothing.
    let folder = dir.issue(&authority, &n1(), HOUR);
    let current = load(&folder).current();
    assert!(current.good.0 + HOUR * 23 < now, "good from the authority's first moment on");
    assert_eq!(current.lifetime, HOUR);
    assert!(!current.is_left(3, now) && !current.is_left(3, now + Duration::from_secs(39 * 60)));
    assert!(current.is_left(3, now + Duration::from_secs(41 * 60)) && current.is_left(3, now + YEAR));
    assert!(
        current.is_left(3, current.good.0 - Duration::from_secs(1)),
        "not good yet: waiting need not help"
    );
}

#[test]
fn owner_group_and_mode_of_the_key_stay() {
    let dir = Dir::new();
    let authority = dir.authority("shop");
    let folder = dir.issue(&authority, &n1(), YEAR);
    if rustix::process::geteuid().is_root() {
        chown(folder.key(), Some(0), Some(12_345)).unwrap();
        fs::set_permissions(folder.key(), fs::Permissions::from_mode(0o640)).unwrap();
        let before = fs::read(folder.key()).unwrap();
        folder.write_own(&authority.issue(&n1(), YEAR).unwrap()).unwrap();
        let facts = fs::metadata(folder.key()).unwrap();
        assert_eq!((facts.uid(), facts.gid(), facts.mode() & 0o7777), (0, 12_345, 0o640));
        assert_ne!(fs::read(folder.key()).unwrap(), before);
    }
    fs::set_permissions(folder.key(), fs::Permissions::from_mode(0o400)).unwrap();
    folder.write_own(&authority.issue(&n1(), YEAR).unwrap()).unwrap();
    assert_eq!(mode(&folder.key()), 0o400);
    fs::set_permissions(folder.key(), fs::Permissions::from_mode(0o666)).unwrap();
    folder.write_own(&authority.issue(&n1(), YEAR).unwrap()).unwrap();
    assert_eq!(mode(&folder.key()), 0o600, "one that is open to others is closed");
}

#[test]
fn the_pair_before_is_kept_and_can_be_returned_to() {
    let dir = Dir::new();
    let authority = dir.authority("shop");
    let folder = dir.issue(&authority, &n1(), YEAR);
    let before = (text(folder.certificate()), text(folder.key()));
    folder.write_own(&authority.issue(&n1(), YEAR).unwrap()).unwrap();
    let (crt, key) = (Folder::old_of(&folder.certificate()), Folder::old_of(&folder.key()));
    assert_eq!((text(crt.clone()), text(key.clone())), before);
    assert_eq!(mode(&key), 0o600);
    assert_eq!(names(&folder), ["ca.crt", "own.crt", "own.crt.old", "own.key", "own.key.old"]);
    // What does not belong together is not worth keeping.
    fs::write(folder.key(), authority.issue(&n1(), YEAR).unwrap().key).unwrap();
    folder.write_own(&authority.issue(&n1(), YEAR).unwrap()).unwrap();
    assert_eq!((text(crt.clone()), text(key.clone())), before);
    fs::rename(crt, folder.certificate()).unwrap();
    fs::rename(key, folder.key()).unwrap();
    load(&folder);
}

#[test]
fn one_for_somebody_else_is_not_put_in_place() {
    let dir = Dir::new();
    let authority = dir.authority("shop");
    let folder = dir.issue(&authority, &n1(), YEAR);
    let before = text(folder.certificate());
    let other = authority.issue(&subject("shop", Role::Agent, "n9"), YEAR).unwrap();
    let said = folder.renew_own(&other, &n1()).unwrap_err().to_string();
    assert!(said.contains("for agent n9 of shop, and not for agent n1 of shop"), "{said}");
    assert_eq!(text(folder.certificate()), before);
    assert_eq!(names(&folder), ["ca.crt", "own.crt", "own.key"]);
}

#[test]
fn several_at_once_leave_a_pair() {
    let dir = Dir::new();
    let folder = dir.issue(&dir.authority("shop"), &n1(), YEAR);
    let all: Vec<_> = (0..4)
        .map(|_| {
            let (folder, authority) = (folder.clone(), dir.authority("shop"));
            std::thread::spawn(move || {
                for _ in 0..10 {
                    folder.write_own(&authority.issue(&n1(), YEAR).unwrap()).unwrap();
                    load(&folder);
                }
            })
        })
        .collect();
    all.into_iter().for_each(|one| one.join().unwrap());
    load(&folder);
    assert_eq!(names(&folder), ["ca.crt", "own.crt", "own.crt.old", "own.key", "own.key.old"]);
}

/// Another process has the right to it, and does not let go at once.
#[test]
fn who_comes_while_somebody_is_at_work_waits() {
    let dir = Dir::new();
    let authority = dir.authority("shop");
    let folder = dir.issue(&authority, &n1(), YEAR);
    let held = fs::File::open(folder.dir()).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let before = text(folder.key());
    let (there, pair) = (folder.clone(), authority.issue(&n1(), YEAR).unwrap());
    let writing = std::thread::spawn(move || there.write_own(&pair));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(text(folder.key()), before);
    drop(held);
    writing.join().unwrap().unwrap();
    assert_ne!(text(folder.key()), before);
}

/// What a process leaves that is ended between key and certificate.
fn half_done(folder: &Folder, pair: &Pair) {
    let next = folder.dir().join(".pgkeel-next");
    fs::create_dir(&next).unwrap();
    fs::copy(folder.authorities(), next.join("ca.crt")).unwrap();
    fs::write(next.join("own.crt"), &pair.certificate).unwrap();
    fs::write(folder.key(), &pair.key).unwrap();
}

#[test]
fn an_exchange_that_was_broken_off_is_finished_if_it_fits() {
    let dir = Dir::new();
    let authority = dir.authority("shop");
    let folder = dir.issue(&authority, &n1(), YEAR);
    let pair = authority.issue(&n1(), YEAR).unwrap();
    half_done(&folder, &pair);
    load(&folder);
    assert_eq!(text(folder.certificate()), pair.certificate);
    folder.write_own(&authority.issue(&n1(), YEAR).unwrap()).unwrap();
    assert!(!names(&folder).contains(&".pgkeel-next".to_owned()), "{:?}", names(&folder));

    // The pair that somebody has put there since is not spoilt by what was left.
    let folder = dir.issue(&authority, &subject("shop", Role::Agent, "n2"), YEAR);
    let (own, key) = (text(folder.certificate()), text(folder.key()));
    half_done(&folder, &pair);
    fs::write(folder.key(), key).unwrap();
    load(&folder);
    assert_eq!(text(folder.certificate()), own);
}

#[test]
fn only_what_an_exchange_has_left_is_removed() {
    let dir = Dir::new();
    let authority = dir.authority("shop");
    let folder = dir.issue(&authority, &n1(), YEAR);
    fs::write(folder.dir().join("own.key.4194305.new"), "left").unwrap();
    fs::write(folder.dir().join("own.key.new"), "a person's").unwrap();
    fs::create_dir(folder.dir().join("next")).unwrap();
    fs::write(folder.dir().join("next/own.key"), "a person's").unwrap();
    folder.write_own(&authority.issue(&n1(), YEAR).unwrap()).unwrap();
    let all = ["ca.crt", "next", "own.crt", "own.crt.old", "own.key", "own.key.new", "own.key.old"];
    assert_eq!(names(&folder), all);

    let theirs = folder.dir().join(".pgkeel-next/notes");
    fs::create_dir(folder.dir().join(".pgkeel-next")).unwrap();
    fs::write(&theirs, "a person's").unwrap();
    let said = folder.write_own(&authority.issue(&n1(), YEAR).unwrap()).unwrap_err().to_string();
    assert!(said.contains("holds files that pgkeel has not made"), "{said}");
    assert!(theirs.exists());
    load(&folder);
}

#[test]
fn a_key_of_another_authority_signs_nothing_and_one_of_several_is_found() {
    let dir = Dir::new();
    let (old, new) = (Authority::found("shop").unwrap(), Authority::found("shop").unwrap());
    let folder = Folder::at(&dir.0.join("both"));
    folder.write_authorities(&old.certificate).unwrap();
    folder.write_authority_key(&new.key).unwrap();
    let said = folder.authority().err().unwrap().to_string();
    assert!(said.contains("ca.key is not the key of a certificate in ca.crt"), "{said}");
    // Whichever comes first.
    for both in [[&old, &new], [&new, &old]] {
        folder.write_authorities(&both.map(|one| one.certificate.as_str()).concat()).unwrap();
        let authority = folder.authority().unwrap();
        assert_eq!(authority.certificate().trim(), new.certificate.replace("\r\n", "\n").trim());
        folder.write_own(&authority.issue(&n1(), YEAR).unwrap()).unwrap();
        load(&folder);
    }
}

/// A reader never sees one of each.
#[test]
fn who_reads_meanwhile_finds_a_pair() {
    let dir = Dir::new();
    let authority = dir.authority("shop");
    let folder = dir.issue(&authority, &n1(), YEAR);
    let there = folder.clone();
    let reading = std::thread::spawn(move || {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            load(&there);
        }
    });
    while !reading.is_finished() {
        folder.write_own(&authority.issue(&n1(), YEAR).unwrap()).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    reading.join().unwrap();
}
