//! Both sides against each other, without a socket.

use super::*;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};

/// Believes everybody.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// One end, and what it has heard.
struct EndOf {
    channel: Channel,
    heard: Vec<u8>,
    /// Ciphertext on its way to the other end.
    out: Vec<u8>,
}

impl EndOf {
    fn new(channel: Channel) -> EndOf {
        EndOf { channel, heard: Vec::new(), out: Vec::new() }
    }

    fn say(&mut self, say: Say<'_>) -> Result<(), Error> {
        let heard = &mut self.heard;
        let mut plain = |bytes: &[u8]| heard.extend_from_slice(bytes);
        self.channel.say(say, &mut Sinks { plain: &mut plain, sealed: &mut self.out })
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut buffer = [&vec![0; self.channel.partial_len()][..], bytes].concat();
        let heard = &mut self.heard;
        let mut plain = |bytes: &[u8]| heard.extend_from_slice(bytes);
        self.channel.receive(&mut buffer, &mut Sinks { plain: &mut plain, sealed: &mut self.out })
    }
}

struct Pair {
    client: EndOf,
    server: EndOf,
}

impl Pair {
    fn new(version: &'static SupportedProtocolVersion) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["n1".to_owned()]).unwrap().self_signed(&key).unwrap().der().clone();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let secret = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], secret)
            .unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_no_client_auth();
        let name = ServerName::try_from("n1").unwrap();
        let mut client = EndOf::new(Channel::client(Arc::new(client), name).unwrap());
        client.say(Say::Nothing).unwrap();
        Pair { client, server: EndOf::new(Channel::server(Arc::new(server)).unwrap()) }
    }

    /// Carries bytes both ways, cut into pieces, until nobody says anything more.
    fn carry(&mut self, piece_len: usize) {
        while !self.client.out.is_empty() || !self.server.out.is_empty() {
            for piece in std::mem::take(&mut self.client.out).chunks(piece_len) {
                self.server.receive(piece).unwrap();
            }
            for piece in std::mem::take(&mut self.server.out).chunks(piece_len) {
                self.client.receive(piece).unwrap();
            }
        }
    }

    fn connected(version: &'static SupportedProtocolVersion, piece_len: usize) -> Pair {
        let mut pair = Pair::new(version);
        pair.carry(piece_len);
        assert!(!pair.client.channel.facts().is_handshaking(), "{version:?} {piece_len}");
        assert!(!pair.server.channel.facts().is_handshaking(), "{version:?} {piece_len}");
        pair
    }
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

#[test]
fn bytes_arrive_however_the_stream_is_cut() {
    for version in VERSIONS {
        for piece_len in [1, 2, 7, 100, 5_000, 1 << 20] {
            let mut pair = Pair::connected(version, piece_len);
            let long: Vec<u8> = (0..50_000_u32).map(|n| n as u8).collect();
            pair.client.say(Say::Data(b"select 1")).unwrap();
            pair.client.say(Say::Data(&long)).unwrap();
            pair.server.say(Say::Data(&long)).unwrap();
            pair.carry(piece_len);
            assert_eq!(pair.server.heard, [&b"select 1"[..], &long].concat());
            assert_eq!(pair.client.heard, long);
            assert_eq!((pair.client.channel.partial_len(), pair.server.channel.partial_len()), (0, 0));
        }
    }
}

#[test]
fn something_can_be_said_while_a_record_has_come_in_part() {
    for version in VERSIONS {
        let mut pair = Pair::connected(version, 1 << 20);
        pair.client.say(Say::Data(b"select 1")).unwrap();
        let sealed = std::mem::take(&mut pair.client.out);
        for byte in &sealed {
            pair.server.receive(&[*byte]).unwrap();
            pair.server.say(Say::Data(b"a")).unwrap();
        }
        pair.carry(1 << 20);
        assert_eq!((&pair.server.heard[..], pair.client.heard.len()), (&b"select 1"[..], sealed.len()));
    }
}

#[test]
fn who_has_said_goodbye_can_still_be_answered() {
    for version in VERSIONS {
        let mut pair = Pair::connected(version, 1 << 20);
        pair.client.say(Say::Data(b"X")).unwrap();
        pair.client.say(Say::Goodbye).unwrap();
        pair.carry(3);
        assert!(pair.server.channel.peer_has_ended() && pair.server.heard == b"X");
        pair.server.say(Say::Data(b"last words")).unwrap();
        pair.server.say(Say::Goodbye).unwrap();
        pair.carry(3);
        assert!(pair.client.channel.peer_has_ended() && pair.client.heard == b"last words");
    }
}

#[test]
fn nothing_can_be_said_before_hands_are_shaken() {
    let mut pair = Pair::new(&TLS13);
    assert!(pair.client.say(Say::Data(b"secret")).is_err());
    assert!(pair.server.say(Say::Data(b"secret")).is_err());
}

#[test]
fn who_speaks_no_tls_is_told_so_once() {
    for garbage in [&b"select 1; select 2; select 3"[..], &[0; 100], &[0xff; 100], b"\x16\x03\x01\0\x05abcde"]
    {
        let mut server = Pair::new(&TLS13).server;
        assert!(server.receive(garbage).is_err(), "{garbage:?}");
        let alert = std::mem::take(&mut server.out);
        assert!(alert.len() < 50, "{alert:?}");
        assert!(server.receive(garbage).is_err(), "it stays broken");
    }
}

#[test]
fn what_was_changed_on_the_way_ends_the_connection() {
    for version in VERSIONS {
        let mut pair = Pair::connected(version, 1 << 20);
        pair.client.say(Say::Data(b"select 1")).unwrap();
        let mut sealed = std::mem::take(&mut pair.client.out);
        *sealed.last_mut().unwrap() ^= 1;
        assert!(pair.server.receive(&sealed).is_err());
        assert!(!pair.server.out.is_empty(), "an alert");
        assert_eq!(pair.server.heard, b"");
    }
}

#[test]
fn broken_handshakes_never_panic() {
    let mut hello = Vec::new();
    let mut client = Pair::new(&TLS13).client;
    hello.append(&mut client.out);
    for at in 0..hello.len() {
        let mut server = Pair::new(&TLS13).server;
        let mut broken = hello.clone();
        broken[at] ^= 0xff;
        for piece in broken.chunks(100) {
            let _ = server.receive(piece);
        }
        let _ = server.say(Say::Goodbye);
        assert!(server.channel.partial_len() <= broken.len());
    }
}
