#![allow(clippy::unwrap_used)]
use super::*;

const SEGMENT: u64 = 1 << 20;

fn root(name: &str) -> (PathBuf, Place) {
    let root = std::env::temp_dir().join(format!("pgkeel-lost-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(root.join("data/pg_wal")).unwrap();
    let place = Place::under(&root);
    (root, place)
}

fn segment(place: &Place, timeline: Timeline, number: u64) {
    let name = segment_name(timeline, number, SEGMENT);
    fs::write(place.data().join("pg_wal").join(name), vec![number as u8; SEGMENT as usize]).unwrap();
}

fn beyond(from: u64, to: u64) -> Beyond {
    Beyond { epoch: 7, fork: Lsn(from), timeline: 2, end: Lsn(to), segment_bytes: SEGMENT }
}

#[test]
fn wal_of_several_timelines_is_taken_in_order() {
    let forks = [Fork { timeline: 1, at: Lsn(150) }];
    let piece = |timeline, from, to| Piece { timeline, from: Lsn(from), to: Lsn(to) };
    assert_eq!(pieces(&beyond(100, 300), &forks), [piece(1, 100, 150), piece(2, 150, 300)]);
    assert_eq!(pieces(&beyond(150, 300), &forks), [piece(2, 150, 300)]);
}

#[tokio::test]
async fn what_is_kept_once_is_not_written_again() {
    let (root, place) = root("once");
    (3..=5).for_each(|number| segment(&place, 2, number));
    fs::write(place.data().join("pg_wal/00000002.history"), "1\t0/100000\tno recovery target\n").unwrap();
    let span = beyond(3 * SEGMENT + 10, 5 * SEGMENT);
    let half = place.beside(&format!("lost-7-{:X}", span.end.0));
    fs::create_dir(&half).unwrap();
    fs::write(half.join(segment_name(2, 3, SEGMENT)), "cut short").unwrap();
    assert!(list(&place).is_empty(), "a copy without a description does not count");
    let (dir, record) = keep(&place, &span, KEPT_BYTES_MAX).await.unwrap();
    assert_eq!(record.problem, None);
    assert_eq!(dir, half);
    let names: Vec<String> = [3, 4].map(|n| segment_name(2, n, SEGMENT)).to_vec();
    assert!(names.iter().all(|n| fs::metadata(dir.join(n)).unwrap().len() == SEGMENT));
    assert!(!dir.join(segment_name(2, 5, SEGMENT)).exists() && dir.join("00000002.history").exists());
    fs::remove_dir_all(place.data().join("pg_wal")).unwrap();
    assert_eq!(keep(&place, &span, KEPT_BYTES_MAX).await.unwrap().1, record);
    assert_eq!(record.summary().bytes, 2 * SEGMENT - 10);
    fs::remove_dir_all(root).unwrap();
}

#[tokio::test]
async fn what_is_cut_or_gone_is_said() {
    let (root, place) = root("cut");
    (3..=9).filter(|n| *n != 4).for_each(|number| segment(&place, 2, number));
    let (_, record) = keep(&place, &beyond(3 * SEGMENT, 9 * SEGMENT + 1), 2 * SEGMENT).await.unwrap();
    let problem = record.problem.unwrap();
    assert!(
        problem.contains("only its first 2097152 bytes") && problem.contains("1 of its segments"),
        "{problem}"
    );
    assert_eq!(record.pieces, [Piece { timeline: 2, from: Lsn(3 * SEGMENT), to: Lsn(6 * SEGMENT) }]);
    fs::remove_dir_all(root).unwrap();
}

#[tokio::test]
async fn nothing_may_be_undone_when_it_cannot_be_kept() {
    let (root, place) = root("full");
    segment(&place, 2, 3);
    let span = beyond(3 * SEGMENT, 4 * SEGMENT);
    // A file where the directory should be: stands for every reason why it cannot be written.
    fs::write(place.beside(&format!("lost-7-{:X}", span.end.0)), "").unwrap();
    let refused = keep(&place, &span, KEPT_BYTES_MAX).await.unwrap_err().to_string();
    assert!(refused.contains("nothing is undone"), "{refused}");
    fs::remove_dir_all(root).unwrap();
}

#[tokio::test]
async fn an_analysis_that_fails_says_so_and_is_not_repeated() {
    let (root, place) = root("unreadable");
    segment(&place, 2, 3);
    keep(&place, &beyond(3 * SEGMENT, 4 * SEGMENT), KEPT_BYTES_MAX).await.unwrap();
    let examined = examine_pending(&place).await;
    assert_eq!(examined[0].summary().transactions, None);
    assert!(examined[0].summary().problem.unwrap().contains("pg_waldump"));
    assert!(examine_pending(&place).await.is_empty());
    fs::remove_dir_all(root).unwrap();
}
