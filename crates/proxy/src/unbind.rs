//! Takes the offer of channel binding out of a server's first answer. Pure.
//!
//! In the session mode the server checks its clients itself, through the proxy. If it has TLS towards the proxy, it offers
//! SCRAM-SHA-256-PLUS, which binds the login to that connection. A client of the proxy is on another one, and could not even
//! be offered it: libpq refuses such an offer where it has no TLS itself.

use pgwire::message::put;
use pgwire::scram::Mechanism;
use pgwire::{FrameHeader, HEADER_LEN};

/// AuthenticationSASL: the list of mechanisms follows.
const SASL: [u8; 4] = [0, 0, 0, 10];

/// What a server's first bytes are without the offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unbound {
    /// The message in question has not come whole.
    Incomplete,
    /// They make no such offer.
    AsTheyAre,
    /// These.
    Without(Vec<u8>),
}

/// See the module.
pub fn unbind(bytes: &[u8]) -> Unbound {
    let mut at = 0;
    loop {
        let Some(header) = bytes[at..].first_chunk::<HEADER_LEN>() else { return Unbound::Incomplete };
        let Ok(header) = FrameHeader::parse(*header) else { return Unbound::AsTheyAre };
        if !matches!(header.kind, b'R' | b'N' | b'v') {
            return Unbound::AsTheyAre;
        }
        let (begin, end) = (at + HEADER_LEN, at + HEADER_LEN + header.body_len);
        let Some(body) = bytes.get(begin..end) else { return Unbound::Incomplete };
        if header.kind != b'R' {
            // NegotiateProtocolVersion and notices come before it.
            at = end;
            continue;
        }
        let plus = Mechanism::Plus.name().as_bytes();
        let Some(list) = body.strip_prefix(&SASL) else { return Unbound::AsTheyAre };
        if !list.split(|&byte| byte == 0).any(|name| name == plus) {
            return Unbound::AsTheyAre;
        }
        let mut kept = Vec::new();
        for name in list.split(|&byte| byte == 0).filter(|name| !name.is_empty() && *name != plus) {
            kept.extend_from_slice(name);
            kept.push(0);
        }
        let mut without = bytes[..at].to_vec();
        put(b'R', &[&SASL, &kept, b"\0"], &mut without);
        without.extend_from_slice(&bytes[end..]);
        return Unbound::Without(without);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &[u8] = b"R\0\0\0\x2a\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
    const PLAIN: &[u8] = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";

    #[test]
    fn the_offer_is_taken_out_once_it_has_come_whole() {
        let notice = b"N\0\0\0\x05\0";
        let bytes = [&notice[..], OFFER].concat();
        for cut in 0..bytes.len() {
            assert_eq!(unbind(&bytes[..cut]), Unbound::Incomplete, "{cut}");
        }
        assert_eq!(unbind(&bytes), Unbound::Without([&notice[..], PLAIN].concat()));
        assert_eq!(unbind(&[OFFER, notice].concat()), Unbound::Without([PLAIN, notice].concat()));
    }

    #[test]
    fn other_answers_stay_as_they_are() {
        for answer in [PLAIN, b"R\0\0\0\x08\0\0\0\0", b"E\0\0\0\x05\0", b"R\0\0\0\x0c\0\0\0\x05salt", &[0; 9]]
        {
            assert_eq!(unbind(answer), Unbound::AsTheyAre, "{answer:?}");
        }
    }
}
