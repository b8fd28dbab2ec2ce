//! MD5 passwords as PostgreSQL has them (src/common/md5_common.c, src/backend/libpq/crypt.c): of old roles, which have no
//! verifier of SCRAM.
//!
//! MD5 is broken, and what a server keeps of such a password is as good as the password itself. So it is only used where
//! somebody has asked for it.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use md5::{Digest, Md5};

/// By which an answer is made to one connection only.
pub type Salt = [u8; 4];

/// `MD5_PASSWD_LEN`, src/include/common/md5.h: `md5` and 32 digits.
const TEXT_LEN: usize = 35;

/// What a server keeps of a password: `md5` and the hash of password and role in digits, in pg_authid.rolpassword.
#[derive(Clone, PartialEq, Eq)]
pub struct Md5Verifier {
    digits: [u8; 32],
}

impl std::fmt::Debug for Md5Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Md5Verifier(secret)")
    }
}

impl Md5Verifier {
    /// Reads rolpassword; `None`: another kind of password, or none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Md5Verifier> {
        let digits: [u8; 32] = text.strip_prefix("md5")?.as_bytes().try_into().ok()?;
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        digits.iter().all(is_digit).then_some(Md5Verifier { digits })
    }

    /// For a user that has none: no password fits. `secret` is the proxy's own.
    #[must_use]
    pub fn mock(user: &[u8], secret: &[u8]) -> Md5Verifier {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), user);
        Md5Verifier { digits: digits_of(&[tag.as_ref()]) }
    }

    /// What the client says, or a server is told, with this salt; without the closing zero byte.
    #[must_use]
    pub fn answer(&self, salt: Salt) -> [u8; TEXT_LEN] {
        let mut answer = [0; TEXT_LEN];
        answer[..3].copy_from_slice(b"md5");
        answer[3..].copy_from_slice(&digits_of(&[&self.digits, &salt]));
        answer
    }

    /// Whether that is the answer of who knows the password.
    #[must_use]
    pub fn is_shown_by(&self, answer: &[u8], salt: Salt) -> bool {
        verify_slices_are_equal(&self.answer(salt), answer).is_ok()
    }
}

fn digits_of(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Md5::new();
    parts.iter().for_each(|part| hash.update(part));
    let hash = hash.finalize();
    std::array::from_fn(|at| {
        let half = if at % 2 == 0 { hash[at / 2] >> 4 } else { hash[at / 2] & 15 };
        b"0123456789abcdef"[usize::from(half)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_postgresql_s() {
        // SELECT 'md5' || md5('pencil' || 'ann')
        let text = "md528754acffc5400623f44a44d30b50393";
        assert_eq!(text.as_bytes()[3..], digits_of(&[b"pencil", b"ann"]));
        let verifier = Md5Verifier::parse(text).unwrap();
        let shown = verifier.answer([1, 2, 3, 4]);
        assert!(shown.starts_with(b"md5") && shown != text.as_bytes());
        assert!(verifier.is_shown_by(&shown, [1, 2, 3, 4]));
        assert!(!verifier.is_shown_by(&shown, [1, 2, 3, 5]));
        assert!(!verifier.is_shown_by(text.as_bytes(), [1, 2, 3, 4]), "what is kept is not what is shown");
        assert!(
            !verifier.is_shown_by(&shown[..34], [1, 2, 3, 4]) && !verifier.is_shown_by(b"", [1, 2, 3, 4])
        );
        // RFC 1321, A.5.
        assert_eq!(&digits_of(&[b"message ", b"digest"]), b"f96b697d7cb7938d525a2f31aaf161d0");
    }

    #[test]
    fn what_is_none_is_not_taken_for_one() {
        let right = "md5a3556571e93b0d20722ba62be61e8c2d";
        assert!(Md5Verifier::parse(right).is_some());
        for cut in 0..right.len() {
            assert_eq!(Md5Verifier::parse(&right[..cut]), None);
        }
        for wrong in [
            "md5A3556571e93b0d20722ba62be61e8c2d",
            "SCRAM-SHA-256$4096:a$b:c",
            "MD5a3556571e93b0d20722ba62be61e8c2d",
        ] {
            assert_eq!(Md5Verifier::parse(wrong), None, "{wrong}");
        }
        assert_ne!(Md5Verifier::mock(b"eve", &[1]), Md5Verifier::mock(b"eve", &[2]));
    }
}
