//! Looks for one word in a text that comes in pieces, without holding the text.

/// A function that sets what no catalog shows: settings whose name has a dot.
const WORD: [u8; 10] = *b"set_config";

/// Whether the word has been seen, in capitals or not. Once it has, nothing is looked at any more.
#[derive(Debug, Default)]
pub(crate) struct Mention {
    matched: usize,
}

impl Mention {
    /// Reads a piece. The word's first letter is in it only once, so a mismatch never needs to go back.
    pub(crate) fn read(&mut self, piece: &[u8]) {
        for &byte in piece {
            if self.matched == WORD.len() {
                return;
            }
            let byte = byte.to_ascii_lowercase();
            let next =
                if byte == WORD[self.matched] { self.matched + 1 } else { usize::from(byte == WORD[0]) };
            self.matched = next;
        }
    }

    /// A text ends: a word does not span two.
    pub(crate) fn text_ends(&mut self) {
        if self.matched < WORD.len() {
            self.matched = 0;
        }
    }

    pub(crate) fn is_seen(&self) -> bool {
        self.matched == WORD.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(pieces: &[&[u8]]) -> bool {
        let mut mention = Mention::default();
        pieces.iter().for_each(|piece| mention.read(piece));
        mention.text_ends();
        mention.is_seen()
    }

    #[test]
    fn the_word_is_found_wherever_it_is_and_however_it_is_cut() {
        assert!(seen(&[b"select SET_config('a.b', 'c', false)"]));
        assert!(seen(&[b"select sset_con", b"fig("]));
        assert!(!seen(&[b"update t set config = 1"]));
        let mut two_texts = Mention::default();
        two_texts.read(b"set_");
        two_texts.text_ends();
        two_texts.read(b"config");
        assert!(!two_texts.is_seen());
    }
}
