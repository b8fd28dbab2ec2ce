//! Both sides against each other, and against the RFC.

use super::*;
use std::num::NonZeroU32;

const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const SALT: &[u8] =
    &[0x5b, 0x6d, 0x99, 0x68, 0x9d, 0x12, 0x35, 0x8e, 0xec, 0xa0, 0x4b, 0x14, 0x12, 0x36, 0xfa, 0x81];

fn verifier() -> Verifier {
    Verifier::of_password(b"pencil", SALT, ITERATIONS)
}

fn begin(message: &[u8], mechanism: Mechanism, channel: &ServerChannel) -> Result<Begun, ScramError> {
    Server::begin(message, mechanism, channel, verifier(), SERVER_NONCE)
}

/// RFC 7677, chapter 3.
#[test]
fn the_example_of_the_rfc() {
    let first = format!("n,,n=user,r={CLIENT_NONCE}");
    let begun = begin(first.as_bytes(), Mechanism::Plain, &ServerChannel::Open).unwrap();
    let nonce = format!("{CLIENT_NONCE}{SERVER_NONCE}");
    assert_eq!(begun.answer, format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096").as_bytes());
    let last = format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
    let (_, answer) = begun.server.finish(last.as_bytes()).unwrap();
    assert_eq!(answer, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

/// A whole exchange; the client's key if all went well.
fn exchange(client: Client, channel: &ServerChannel) -> Result<ClientKey, ScramError> {
    let begun = begin(&client.first(), client.mechanism(), channel)?;
    let (proving, last) = client.prove(&begun.answer)?;
    let (key, answer) = begun.server.finish(&last)?;
    proving.finish(&answer)?;
    Ok(key)
}

#[test]
fn the_key_that_a_client_shows_logs_in_elsewhere() {
    for hash in [None, Some(&[9_u8; 32][..])] {
        let channel = hash.map_or(ServerChannel::Open, |hash| ServerChannel::Tls(hash.to_vec()));
        let of_client = hash.map_or(ClientChannel::Open, ClientChannel::Tls);
        let by_password = Client::new(Secret::Password(b"pencil".to_vec()), of_client, CLIENT_NONCE);
        let key = exchange(by_password, &channel).unwrap();
        let by_key = Client::new(Secret::Key(key.clone(), verifier()), of_client, CLIENT_NONCE);
        assert_eq!(exchange(by_key, &channel), Ok(key.clone()));
        let changed = Verifier::of_password(b"pencil", &[1; 16], ITERATIONS);
        let outdated = Client::new(Secret::Key(key, changed), of_client, CLIENT_NONCE);
        assert_eq!(exchange(outdated, &channel), Err(ScramError::WrongServer));
    }
}

#[test]
fn a_wrong_password_and_a_wrong_user_are_the_same() {
    let wrong = || Client::new(Secret::Password(b"pen".to_vec()), ClientChannel::Open, CLIENT_NONCE);
    assert_eq!(exchange(wrong(), &ServerChannel::Open), Err(ScramError::WrongProof));
    let nobody = Verifier::mock(b"eve", &[5; KEY_LEN]);
    let client = wrong();
    let begun =
        Server::begin(&client.first(), Mechanism::Plain, &ServerChannel::Open, nobody, SERVER_NONCE).unwrap();
    let (_, last) = client.prove(&begun.answer).unwrap();
    assert_eq!(begun.server.finish(&last), Err(ScramError::WrongProof));
}

#[test]
fn channel_binding_cannot_be_taken_off() {
    let tls = ServerChannel::Tls(vec![9; 32]);
    let downgraded = format!("y,,n=,r={CLIENT_NONCE}");
    assert_eq!(begin(downgraded.as_bytes(), Mechanism::Plain, &tls).unwrap_err(), ScramError::Downgraded);
    let pencil = |channel| Client::new(Secret::Password(b"pencil".to_vec()), channel, CLIENT_NONCE);
    let not_offered = || pencil(ClientChannel::NotOffered);
    assert_eq!(exchange(not_offered(), &tls), Err(ScramError::Downgraded), "somebody took the offer away");
    assert!(
        exchange(not_offered(), &ServerChannel::Open).is_ok(),
        "the server has no TLS: it could not offer it"
    );
    assert!(exchange(pencil(ClientChannel::Open), &tls).is_ok(), "a client that cannot bind need not");
    assert_eq!(exchange(pencil(ClientChannel::Tls(&[8; 32])), &tls), Err(ScramError::OtherChannel));
    for (message, mechanism, channel) in [
        ("p=tls-server-end-point,,", Mechanism::Plain, &tls),
        ("p=tls-unique,,", Mechanism::Plus, &tls),
        ("n,,", Mechanism::Plus, &tls),
        ("p=tls-server-end-point,,", Mechanism::Plus, &ServerChannel::Open),
    ] {
        let message = format!("{message}n=,r={CLIENT_NONCE}");
        let refused = begin(message.as_bytes(), mechanism, channel).unwrap_err();
        assert!(matches!(refused, ScramError::Malformed(_)), "{message} {mechanism:?} {channel:?}");
    }
    // The header that is signed must be the one that was sent.
    let client = Client::new(Secret::Password(b"pencil".to_vec()), ClientChannel::Open, CLIENT_NONCE);
    let begun = begin(&client.first(), Mechanism::Plain, &ServerChannel::Open).unwrap();
    let (_, last) = client.prove(&begun.answer).unwrap();
    let last = String::from_utf8(last).unwrap().replace("c=biws", "c=eSws");
    assert_eq!(begun.server.finish(last.as_bytes()), Err(ScramError::OtherChannel));
}

#[test]
fn a_proof_is_good_once() {
    let client = Client::new(Secret::Password(b"pencil".to_vec()), ClientChannel::Open, CLIENT_NONCE);
    let first = client.first();
    let begun = begin(&first, Mechanism::Plain, &ServerChannel::Open).unwrap();
    let (_, last) = client.prove(&begun.answer).unwrap();
    let other_nonce = "0123456789abcdef01234567";
    let replayed =
        Server::begin(&first, Mechanism::Plain, &ServerChannel::Open, verifier(), other_nonce).unwrap();
    assert!(replayed.server.finish(&last).is_err());
}

#[test]
fn a_server_that_does_not_know_the_verifier_is_not_believed() {
    let client = || Client::new(Secret::Password(b"pencil".to_vec()), ClientChannel::Open, CLIENT_NONCE);
    let begun = begin(&client().first(), Mechanism::Plain, &ServerChannel::Open).unwrap();
    let (proving, _) = client().prove(&begun.answer).unwrap();
    assert_eq!(
        proving.finish(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="),
        Err(ScramError::WrongServer)
    );
    let (proving, _) = client().prove(&begun.answer).unwrap();
    assert_eq!(proving.finish(b"e=no"), Err(ScramError::Refused("no".into())));
    for answer in ["", "r=x,s=AA==,i=1", &format!("r={CLIENT_NONCE},s=AA==,i=4096")] {
        assert!(client().prove(answer.as_bytes()).is_err(), "{answer}");
    }
    let many = format!("r={CLIENT_NONCE}x,s=AA==,i={}", u32::MAX);
    assert!(client().prove(many.as_bytes()).is_err(), "it would compute for hours");
}

#[test]
fn random_verifiers_never_panic() {
    let mut random = crate::random::Random::new(13);
    let some = [
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        "md55f4dcc3b5aa765d61d8327deb882cf99",
    ];
    assert!(Verifier::parse(some[0]).is_ok() && crate::md5::Md5Verifier::parse(some[1]).is_some());
    for _ in crate::random::rounds(5_000) {
        let mut bytes = some[random.below(2)].as_bytes().to_vec();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] = random.bytes(1)[0];
        }
        bytes.truncate(random.below(bytes.len() + 1));
        let text = String::from_utf8_lossy(&bytes);
        let _ = Verifier::parse(&text);
        let _ = crate::md5::Md5Verifier::parse(&text);
        let _ = crate::CancelKey::parse(&bytes);
    }
}

#[test]
fn random_messages_never_panic() {
    let mut random = crate::random::Random::new(11);
    let weak = Verifier::of_password(b"x", SALT, NonZeroU32::MIN);
    let valid = format!("n,,n=user,r={CLIENT_NONCE}");
    for _ in crate::random::rounds(5_000) {
        let mut bytes = valid.clone().into_bytes();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] = random.bytes(1)[0];
        }
        bytes.truncate(random.below(bytes.len() + 1));
        let begun = Server::begin(&bytes, Mechanism::Plain, &ServerChannel::Open, weak.clone(), SERVER_NONCE);
        if let Ok(begun) = begun {
            let len = random.below(100);
            assert!(begun.server.finish(&random.bytes(len)).is_err());
        }
    }
}
