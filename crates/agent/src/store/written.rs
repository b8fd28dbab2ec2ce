//! The record as it is written for others than Raft: in etcd, into a node's own file beside one, and as a sample.
//!
//! A program from before records could move takes a sealed record for one that goes on, as it leaves out what it does not know. So
//! a record that is sealed, or has moved, is written in an envelope that such a program does not understand.

use cluster::state::State;
use serde::{Deserialize, Serialize};

/// What the envelope begins with, as [`Envelope`] is written.
const BEGINS: &[u8] = br#"{"has_moved":"#;

#[derive(Serialize, Deserialize)]
struct Envelope<S> {
    has_moved: S,
}

/// Whether a program from before moves must not read it.
pub(super) fn is_for_later(state: &State) -> bool {
    state.moves > 0 || state.moved.is_some()
}

/// As JSON.
pub(super) fn encode(state: &State) -> serde_json::Result<Vec<u8>> {
    match is_for_later(state) {
        true => serde_json::to_vec(&Envelope { has_moved: state }),
        false => serde_json::to_vec(state),
    }
}

/// From JSON.
pub(super) fn decode(bytes: &[u8]) -> serde_json::Result<State> {
    match bytes.starts_with(BEGINS) {
        true => serde_json::from_slice::<Envelope<State>>(bytes).map(|envelope| envelope.has_moved),
        false => serde_json::from_slice(bytes),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cluster::moving::{Home, Moved};

    #[test]
    fn who_does_not_know_of_moves_cannot_read_what_has_moved() {
        let before = |bytes: &[u8]| serde_json::from_slice::<State>(bytes);
        let plain = State { cluster: "c".into(), revision: 4, ..State::default() };
        let bytes = encode(&plain).unwrap();
        assert_eq!((before(&bytes).unwrap(), decode(&bytes).unwrap()), (plain.clone(), plain.clone()));
        let to = Home::Embedded { voters: Default::default() };
        let moved = Some(Moved { number: 1, to, by: "alice".into(), at: 2 });
        for state in [State { moves: 1, ..plain.clone() }, State { moved, ..plain }] {
            let bytes = encode(&state).unwrap();
            assert!(before(&bytes).is_err());
            assert_eq!(decode(&bytes).unwrap(), state);
        }
    }
}
