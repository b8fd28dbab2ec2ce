//! Who hears what, and what the server is told.

use super::*;

const ONE: ClientId = ClientId(1);
const TWO: ClientId = ClientId(2);

fn channels(names: &[&str]) -> Vec<Channel> {
    names.iter().map(|name| name.as_bytes().into()).collect()
}

/// On `a`, for the first client; the marker is listened on.
fn of_one() -> Hearing {
    let mut hearing = Hearing::of_server("m", ONE, &channels(&["a"]));
    assert_eq!(hearing.next_statements().as_deref(), Some("LISTEN \"m\";"));
    assert!(hearing.answered().is_empty());
    hearing
}

fn told(hearing: &mut Hearing, client: ClientId) -> Vec<Vec<u8>> {
    let mut told = Vec::new();
    while let Next::Message(message) = hearing.next_for(client) {
        told.push(message.to_vec());
    }
    told
}

#[test]
fn the_first_client_hears_at_once_and_others_from_their_marker_on() {
    let mut hearing = of_one();
    hearing.want(TWO, &channels(&["a", "b"]));
    assert_eq!(hearing.marker_text(TWO), None, "nobody listens on b yet");
    assert_eq!(hearing.next_statements().as_deref(), Some("LISTEN \"b\";"));
    assert_eq!(hearing.next_statements(), None, "it is not answered");
    assert_eq!(hearing.answered(), [TWO]);
    let text = hearing.marker_text(TWO).unwrap().to_owned();
    assert_eq!(hearing.heard(b"a", b"", b"1"), [ONE]);
    assert_eq!(hearing.heard(b"b", b"", b"2"), []);
    assert_eq!(hearing.heard(b"m", b"2_99", b""), []);
    assert_eq!(hearing.heard(b"a", b"", b"3"), [ONE], "it was another marker");
    assert_eq!(hearing.heard(b"m", text.as_bytes(), b""), []);
    assert_eq!(hearing.heard(b"a", b"", b"4"), [ONE, TWO]);
    assert_eq!(hearing.heard(b"b", b"", b"5"), [TWO]);
    assert_eq!(told(&mut hearing, ONE), [b"1", b"3", b"4"]);
    assert_eq!(told(&mut hearing, TWO), [b"4", b"5"]);
}

#[test]
fn a_channel_is_listened_on_as_long_as_somebody_wants_it() {
    let mut hearing = of_one();
    hearing.want(TWO, &channels(&["a"]));
    hearing.leave(ONE);
    assert_eq!(hearing.next_statements(), None);
    hearing.want_no_more(TWO);
    assert_eq!(hearing.next_statements().as_deref(), Some("UNLISTEN \"a\";"));
    // Wanted again before that is answered: it is listened on anew.
    hearing.want(TWO, &channels(&["a"]));
    assert_eq!(hearing.marker_text(TWO), None);
    hearing.answered();
    assert_eq!(hearing.marker_text(TWO), None);
    assert_eq!(hearing.next_statements().as_deref(), Some("LISTEN \"a\";"));
    assert_eq!(hearing.answered(), [TWO]);
    assert!(hearing.marker_text(TWO).is_some() && !hearing.is_deserted());
    hearing.leave(TWO);
    assert!(hearing.is_deserted());
}

#[test]
fn what_is_given_up_is_not_told_even_if_it_waits_or_its_marker_is_to_come() {
    let mut hearing = of_one();
    hearing.want(ONE, &channels(&["b", "c"]));
    hearing.next_statements();
    hearing.answered();
    let text = hearing.marker_text(ONE).unwrap().to_owned();
    hearing.heard(b"a", b"", b"1");
    hearing.give_up(ONE, &channels(&["a", "b"]));
    hearing.heard(b"m", text.as_bytes(), b"");
    assert_eq!(hearing.heard(b"a", b"", b"2"), []);
    assert_eq!(hearing.heard(b"b", b"", b"3"), []);
    assert_eq!(hearing.heard(b"c", b"", b"4"), [ONE]);
    assert_eq!(told(&mut hearing, ONE), [b"4"]);
    let sql = hearing.next_statements().unwrap();
    assert!(sql.contains("UNLISTEN \"a\";") && sql.contains("UNLISTEN \"b\";") && !sql.contains("\"c\""));
}

#[test]
fn who_has_too_much_waiting_is_told_what_was_kept_and_then_that() {
    let mut hearing = of_one();
    let long = vec![b'x'; WAITING_MAX / 2];
    for _ in 0..3 {
        hearing.heard(b"a", b"", &long);
    }
    hearing.heard(b"a", b"", b"short");
    assert_eq!(told(&mut hearing, ONE), [long]);
    assert_eq!(hearing.next_for(ONE), Next::TooMuch);
    hearing.heard(b"a", b"", b"later");
    assert_eq!(hearing.next_for(ONE), Next::TooMuch);
}
