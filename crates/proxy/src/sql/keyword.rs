//! A word in lower case, without an allocation: every query's text is read.

/// Longer words are no keywords of any statement that is told apart. Bytes.
const LEN_MAX: usize = 32;

/// See the module. Of a longer word, its beginning.
#[derive(Clone, Copy, Debug)]
pub struct Keyword {
    bytes: [u8; LEN_MAX],
    len: usize,
}

impl Keyword {
    /// A word as it is written.
    #[must_use]
    pub fn of(word: &[u8]) -> Keyword {
        let word = &word[..word.len().min(LEN_MAX)];
        let mut bytes = [0; LEN_MAX];
        bytes[..word.len()].copy_from_slice(word);
        bytes[..word.len()].make_ascii_lowercase();
        Keyword { bytes, len: word.len() }
    }

    /// In lower case.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_in_lower_case_and_cut() {
        assert_eq!(Keyword::of(b"SeLeCt_1").as_slice(), b"select_1");
        assert_eq!(Keyword::of(b"").as_slice(), b"");
        assert_eq!(Keyword::of(&[b'A'; 100]).as_slice(), [b'a'; LEN_MAX]);
    }
}
