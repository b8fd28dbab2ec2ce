//! What a certificate is worth on a connection that has lasted longer than it, or than the trust in who has signed it.

use crate::{Dir, HOUR, LIMIT, YEAR, subject};
use identity::authority::Authority;
use identity::{Acceptor, Caller, Credentials, Holder, Plain, Role, Standing, Who, certificate};
use std::time::Duration;
use tokio::net::TcpListener;

/// Who has come, as the acceptor says.
async fn meet(server: &Credentials, caller: Caller) -> Holder {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let calling = tokio::spawn(async move { caller.connect(&address).await });
    let (stream, _) = listener.accept().await.unwrap();
    let met = tokio::time::timeout(LIMIT, Acceptor::with(Some(server.clone())).accept(stream)).await;
    let (_stream, who) = met.unwrap().unwrap();
    calling.await.unwrap().unwrap();
    match who {
        Who::Known(holder) => holder,
        other => unreachable!("{other:?}"),
    }
}

#[tokio::test]
async fn it_ends_with_its_time() {
    let dir = Dir::new();
    let server = dir.credentials("shop", Role::Agent, "n1");
    let folder = dir.issue(&dir.authority("shop"), &subject("shop", Role::Viewer, "alice"), HOUR);
    let caller = Caller::with(Some(Credentials::load(folder, Plain::Refused).unwrap()));
    let holder = meet(&server, caller).await;
    assert_eq!((holder.name.as_str(), holder.lifetime()), ("alice", HOUR));
    let now = certificate::now();
    let at = |moment| holder.standing(&server.current(), moment);
    assert_eq!(at(now), Standing::Good);
    assert_eq!(at(now + HOUR - Duration::from_secs(30)), Standing::Ending);
    assert_eq!(at(now + HOUR + Duration::from_secs(2)), Standing::Over);
    assert_eq!(at(now - HOUR * 25), Standing::Over, "before the authority was made");
}

#[tokio::test]
async fn it_ends_when_its_authority_is_taken_out() {
    let dir = Dir::new();
    let old = dir.authority("shop");
    let server = dir.credentials("shop", Role::Agent, "n1");
    let holder = meet(&server, Caller::with(Some(dir.credentials("shop", Role::Operator, "bob")))).await;
    let standing = || holder.standing(&server.current(), certificate::now());

    let new = Authority::found("shop").unwrap();
    let folder = server.folder();
    folder.write_authorities(&format!("{}{}", old.certificate(), new.certificate)).unwrap();
    server.reload().unwrap();
    assert_eq!(standing(), Standing::Good, "another one beside it");

    let signs = Authority::load(&new.certificate, &new.key).unwrap();
    folder.write_own(&signs.issue(&subject("shop", Role::Agent, "n1"), YEAR).unwrap()).unwrap();
    folder.write_authorities(&new.certificate).unwrap();
    server.reload().unwrap();
    assert_eq!(standing(), Standing::Disowned);
    assert!(standing().refusal().unwrap().contains("not trusted any more"));
}
