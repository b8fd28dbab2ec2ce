//! Certificates that run out are renewed in time, by whoever can, for as long as they were made.

use crate::{Dir, HOUR, LIMIT, YEAR, greet, line, serve, subject};
use identity::authority::Authority;
use identity::renew::{self, Renewal, Sign, Signer};
use identity::{Acceptor, Caller, Credentials, Folder, Plain, Role, Subject, certificate};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn a_new_certificate_is_taken_while_connections_stay() {
    let dir = Dir::new();
    let authority = dir.authority("shop");
    let n1 = subject("shop", Role::Agent, "n1");
    let folder = dir.issue(&authority, &n1, YEAR);
    fs::copy(dir.0.join("ca-shop/ca.key"), folder.authority_key()).unwrap();
    let credentials = Credentials::load(folder.clone(), Plain::Refused).unwrap();
    let before = fs::read(folder.certificate()).unwrap();
    let (address, _serving) = serve(Acceptor::with(Some(credentials.clone()))).await;
    let caller = Caller::with(Some(dir.credentials("shop", Role::Proxy, "p1")));
    let mut open = caller.connect(&address).await.unwrap();
    assert_eq!(line(&mut open).await.unwrap(), "proxy p1 of shop");
    let keeping = tokio::spawn(renew::keep_current(credentials.clone(), Renewal::Elsewhere));
    renew::renew(&folder, &n1, YEAR * 2).unwrap();
    let until = credentials.current().good.1;
    let taken = async {
        while credentials.current().good.1 == until {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, taken).await.unwrap();
    keeping.abort();
    assert_ne!(fs::read(folder.certificate()).unwrap(), before);
    assert_eq!(line(&mut open).await.unwrap(), "proxy p1 of shop");
    assert_eq!(greet(&caller, &address).await.unwrap(), "proxy p1 of shop");
}

/// A certificate for an hour, of which a few minutes are left.
fn running_out(dir: &Dir, whom: &Subject) -> Folder {
    let folder = dir.issue(&dir.authority(&whom.cluster), whom, HOUR);
    let authority = dir.authority(&whom.cluster);
    let made = certificate::now() - HOUR * 9 / 10;
    folder.write_own(&authority.issue_at(whom, HOUR, made).unwrap()).unwrap();
    folder
}

/// The same when an hour has passed since its end.
fn run_out(dir: &Dir, whom: &Subject) -> Folder {
    let folder = dir.issue(&dir.authority(&whom.cluster), whom, HOUR);
    let authority = dir.authority(&whom.cluster);
    let pair = authority.issue_at(whom, HOUR, certificate::now() - HOUR * 2).unwrap();
    fs::write(folder.certificate(), pair.certificate).unwrap();
    fs::write(folder.key(), pair.key).unwrap();
    folder
}

fn load(folder: Folder) -> Credentials {
    Credentials::load(folder, Plain::Refused).unwrap()
}

fn signer(name: &str, answer: impl Fn(&str) -> Result<String, String> + Send + Sync + 'static) -> Signer {
    let sign: Sign = Arc::new(move |request| {
        let answer = answer(&request);
        Box::pin(async { answer })
    });
    Signer { name: name.to_owned(), sign }
}

async fn until_renewed(credentials: &Credentials, renewal: Renewal) {
    let before = credentials.current().good.1;
    let keeping = tokio::spawn(renew::keep_current(credentials.clone(), renewal));
    let renewed = async {
        while credentials.current().good.1 <= before {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, renewed).await.unwrap();
    keeping.abort();
    assert_eq!(credentials.current().lifetime, HOUR, "as long as the one before");
}

/// Its key stays where it was made. What one host answers, or none, does not keep another from being asked.
#[tokio::test]
async fn one_that_runs_out_is_renewed_by_another_host() {
    let dir = Dir::new();
    let p1 = subject("shop", Role::Proxy, "p1");
    let credentials = load(running_out(&dir, &p1));
    let (good, mistaken) = (dir.authority("shop"), dir.authority("shop"));
    let stranger = Authority::found("shop").unwrap();
    let stranger = Authority::load(&stranger.certificate, &stranger.key).unwrap();
    let (whom, other) = (p1.clone(), subject("shop", Role::Proxy, "p2"));
    let told = |signed: Result<String, identity::authority::CannotSign>| signed.map_err(|e| e.to_string());
    let of_stranger = p1.clone();
    let signers = vec![
        signer("silent", |_| Err("nobody signs".to_owned())),
        signer("babbling", |_| Ok("no certificate".to_owned())),
        signer("stranger", move |request| told(stranger.sign(request, &of_stranger, HOUR))),
        signer("mistaken", move |request| told(mistaken.sign(request, &other, HOUR))),
        signer("good", move |request| told(good.sign(request, &whom, HOUR))),
    ];
    until_renewed(&credentials, Renewal::Here(signers)).await;
    assert_eq!(credentials.current().subject, p1);
}

#[tokio::test]
async fn one_that_runs_out_is_renewed_where_the_authority_is() {
    let dir = Dir::new();
    let folder = running_out(&dir, &subject("shop", Role::Agent, "n1"));
    fs::copy(dir.0.join("ca-shop/ca.key"), folder.authority_key()).unwrap();
    until_renewed(&load(folder), Renewal::Here(Vec::new())).await;
}

/// A key of the authority that is of no use is not the last word.
#[tokio::test]
async fn where_the_key_does_not_fit_another_host_is_asked() {
    let dir = Dir::new();
    let n1 = subject("shop", Role::Agent, "n1");
    let folder = running_out(&dir, &n1);
    folder.write_authority_key(&Authority::found("shop").unwrap().key).unwrap();
    let authority = dir.authority("shop");
    let good = signer("n2", move |request| authority.sign(request, &n1, HOUR).map_err(|e| e.to_string()));
    until_renewed(&load(folder), Renewal::Here(vec![good])).await;
}

#[tokio::test]
async fn who_starts_with_one_that_is_over_starts_and_renews_it_first() {
    let dir = Dir::new();
    let folder = run_out(&dir, &subject("shop", Role::Agent, "n1"));
    let credentials = load(folder.clone());
    assert!(credentials.doubt().is_some());
    renew::begin(&credentials, &Renewal::Here(Vec::new())).await;
    assert!(credentials.doubt().is_some(), "there was no key of the authority");
    fs::copy(dir.0.join("ca-shop/ca.key"), folder.authority_key()).unwrap();
    renew::begin(&credentials, &Renewal::Elsewhere).await;
    assert!(credentials.doubt().is_some(), "it is left to another process");
    renew::begin(&credentials, &Renewal::Here(Vec::new())).await;
    assert_eq!(credentials.doubt(), None);
    assert_eq!(load(folder).current().lifetime, HOUR);
}

#[test]
fn one_that_is_over_replaces_none_that_is_good_but_takes_new_authorities() {
    let dir = Dir::new();
    let n1 = subject("shop", Role::Agent, "n1");
    let over = run_out(&dir, &n1);
    let credentials = load(over.clone());
    let two =
        fs::read_to_string(over.authorities()).unwrap() + &Authority::found("shop").unwrap().certificate;
    over.write_authorities(&two).unwrap();
    credentials.reload().unwrap();

    let (certificate, key) = (fs::read(over.certificate()).unwrap(), fs::read(over.key()).unwrap());
    let folder = dir.issue(&dir.authority("shop"), &n1, YEAR);
    let credentials = load(folder.clone());
    fs::write(folder.certificate(), certificate).unwrap();
    fs::write(folder.key(), key).unwrap();
    assert!(credentials.reload().unwrap_err().to_string().contains("was good until"));
    assert_eq!(credentials.doubt(), None);
}
