//! Two processes of a cluster, and all who are none: real connections, real certificates.
#![allow(clippy::unwrap_used)]

mod exchange;
mod renewal;
mod standing;

use identity::authority::{self, Authority};
use identity::{Acceptor, Caller, Credentials, Folder, Plain, Role, Subject, Trouble, Who, certificate};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const YEAR: Duration = Duration::from_secs(365 * 86_400);
const HOUR: Duration = Duration::from_secs(3600);
const LIMIT: Duration = Duration::from_secs(20);

/// A directory of its own for each test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pgkeel-identity-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    fn authority(&self, cluster: &str) -> Authority {
        let folder = Folder::at(&self.0.join(format!("ca-{cluster}")));
        if !folder.has_authority_key() {
            folder.write_authority(&Authority::found(cluster).unwrap()).unwrap();
        }
        folder.authority().unwrap()
    }

    fn issue(&self, authority: &Authority, subject: &Subject, good: Duration) -> Folder {
        let folder =
            Folder::at(&self.0.join(format!("{}-{}-{}", subject.cluster, subject.role, subject.name)));
        folder.write_authorities(authority.certificate()).unwrap();
        folder.write_own(&authority.issue(subject, good).unwrap()).unwrap();
        folder
    }

    fn folder(&self, cluster: &str, role: Role, name: &str) -> Folder {
        self.issue(&self.authority(cluster), &subject(cluster, role, name), YEAR)
    }

    fn credentials(&self, cluster: &str, role: Role, name: &str) -> Credentials {
        Credentials::load(self.folder(cluster, role, name), Plain::Refused).unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn subject(cluster: &str, role: Role, name: &str) -> Subject {
    Subject::new(cluster, role, name).unwrap()
}

/// Answers every connection with its name for who has come, once it has read one byte.
async fn serve(acceptor: Acceptor) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok((mut stream, who)) = acceptor.accept(stream).await else { return };
                while stream.read_exact(&mut [0]).await.is_ok() {
                    let said = match &who {
                        Who::Unasked => "unasked".to_owned(),
                        Who::User(_) => "user".to_owned(),
                        Who::Nameless => "nameless".to_owned(),
                        Who::Known(subject) => subject.to_string(),
                    };
                    let _ = stream.write_all(format!("{said}\n").as_bytes()).await;
                    let _ = stream.flush().await;
                }
            });
        }
    });
    (address, serving)
}

async fn line(stream: &mut identity::Stream) -> io::Result<String> {
    stream.write_all(b"?").await?;
    stream.flush().await?;
    let mut text = Vec::new();
    loop {
        let byte = stream.read_u8().await?;
        if byte == b'\n' {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
        text.push(byte);
    }
}

/// What the other side calls who has come.
async fn greet(caller: &Caller, address: &str) -> io::Result<String> {
    let greeted = async { line(&mut caller.connect(address).await?).await };
    tokio::time::timeout(LIMIT, greeted).await.unwrap()
}

async fn error(caller: &Caller, address: &str) -> String {
    greet(caller, address).await.unwrap_err().to_string()
}

#[tokio::test]
async fn each_side_knows_the_other() {
    let dir = Dir::new();
    let (address, _serving) = serve(Acceptor::with(Some(dir.credentials("shop", Role::Agent, "n1")))).await;
    for role in Role::ALL {
        let caller = Caller::with(Some(dir.credentials("shop", role, "it")));
        assert_eq!(greet(&caller, &address).await.unwrap(), format!("{role} it of shop"));
    }
}

#[tokio::test]
async fn somebody_in_between_is_not_believed() {
    let (ours, theirs) = (Dir::new(), Dir::new());
    let false_one = theirs.credentials("shop", Role::Agent, "n1");
    let (address, _serving) = serve(Acceptor::with(Some(false_one))).await;
    let caller = Caller::with(Some(ours.credentials("shop", Role::Agent, "n2")));
    let said = error(&caller, &address).await;
    assert!(said.contains("not signed by this cluster's authority"), "{said}");
}

#[tokio::test]
async fn nobody_but_an_agent_can_answer_as_one() {
    let dir = Dir::new();
    let (address, _serving) = serve(Acceptor::with(Some(dir.credentials("shop", Role::Admin, "eve")))).await;
    let caller = Caller::with(Some(dir.credentials("shop", Role::Agent, "n2")));
    let said = error(&caller, &address).await;
    assert!(said.contains("not that of an agent") || said.contains("purpose"), "{said}");
}

/// One authority for two clusters does not make them one.
#[tokio::test]
async fn another_cluster_of_the_same_authority_is_another() {
    let dir = Dir::new();
    let authority = dir.authority("shop");
    let load = |cluster, name| {
        let folder = dir.issue(&authority, &subject(cluster, Role::Agent, name), YEAR);
        Credentials::load(folder, Plain::Refused).unwrap()
    };
    let (address, _serving) = serve(Acceptor::with(Some(load("shop", "n1")))).await;
    let said = error(&Caller::with(Some(load("other", "n1"))), &address).await;
    assert!(said.contains("agent n1 of shop, which is no agent of other"), "{said}");
}

#[tokio::test]
async fn who_does_not_speak_tls_is_told_so_on_both_sides() {
    let dir = Dir::new();
    let n1 = dir.credentials("shop", Role::Agent, "n1");
    let (address, _serving) = serve(Acceptor::with(Some(n1.clone()))).await;
    let mut plain = TcpStream::connect(&address).await.unwrap();
    plain.write_all(b"GET /v1/status HTTP/1.1\r\n\r\n").await.unwrap();
    let mut told = String::new();
    plain.read_to_string(&mut told).await.unwrap();
    assert!(told.starts_with("HTTP/1.1 403") && told.contains("speaks TLS only"), "{told}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            let _ = stream.read(&mut [0; 4096]).await;
        }
    });
    let said = error(&Caller::with(Some(n1)), &address).await;
    assert!(said.contains("does not speak TLS"), "{said}");
}

#[tokio::test]
async fn while_hosts_go_over_both_are_understood() {
    let dir = Dir::new();
    let allow =
        |name: &str| Credentials::load(dir.folder("shop", Role::Agent, name), Plain::Allowed).unwrap();
    let (new, _serving) = serve(Acceptor::with(Some(allow("n1")))).await;
    let caller = Caller::with(Some(allow("n2")));
    assert_eq!(greet(&caller, &new).await.unwrap(), "agent n2 of shop");
    assert_eq!(greet(&Caller::plain(), &new).await.unwrap(), "unasked");
    // An old one takes the handshake for a bad request.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let old = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer: &[u8] = match stream.read_u8().await {
                Ok(b'?') => b"old\n",
                _ => b"HTTP/1.1 400 Bad Request\r\n\r\n",
            };
            let _ = stream.write_all(answer).await;
            let _ = stream.read(&mut [0; 4096]).await;
        }
    });
    assert_eq!(greet(&caller, &old).await.unwrap(), "old");
}

#[test]
fn a_request_gets_the_name_it_is_given_and_no_other() {
    let dir = Dir::new();
    let authority = dir.authority("shop");
    let viewer = subject("shop", Role::Viewer, "alice");
    let (_, request) = authority::request().unwrap();
    let signed = authority.sign(&request, &viewer, YEAR).unwrap();
    let folder = Folder::at(&dir.0.join("signed"));
    fs::create_dir_all(folder.dir()).unwrap();
    fs::write(folder.certificate(), &signed).unwrap();
    let chain = identity::files::certificates("x", &folder.certificate()).unwrap();
    assert_eq!(Subject::of_certificate(&chain[0]), Some(viewer.clone()));
    for wrong in
        ["", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", &signed]
    {
        assert!(authority.sign(wrong, &viewer, YEAR).is_err());
    }
}

#[test]
fn what_others_would_refuse_is_refused_at_once() {
    let dir = Dir::new();
    let authority = dir.authority("shop");
    let n1 = subject("shop", Role::Agent, "n1");
    let load = |folder: &Folder| Credentials::load(folder.clone(), Plain::Refused);
    let said = |outcome: Result<Credentials, Trouble>| outcome.map(|_| ()).unwrap_err().to_string();

    let folder = dir.issue(&authority, &n1, YEAR);
    assert!(load(&folder).is_ok());
    assert_eq!(fs::metadata(folder.key()).unwrap().mode() & 0o777, 0o600);
    fs::set_permissions(folder.key(), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(said(load(&folder)).contains("can be read by others"));

    let folder = dir.issue(&authority, &n1, YEAR);
    folder.write_authorities(&Authority::found("shop").unwrap().certificate).unwrap();
    assert!(said(load(&folder)).contains("do not vouch for it"));

    let folder = dir.issue(&authority, &n1, YEAR);
    fs::write(folder.key(), authority.issue(&n1, YEAR).unwrap().key).unwrap();
    assert!(said(load(&folder)).contains("is not the key of the certificate"));

    let folder = dir.issue(&authority, &n1, YEAR);
    let expired = authority.issue_at(&n1, Duration::from_secs(60), certificate::now() - HOUR).unwrap();
    assert!(folder.write_own(&expired).is_err());
    assert!(load(&folder).is_ok(), "a good one is not replaced by one that is not");
    fs::write(folder.certificate(), expired.certificate).unwrap();
    fs::write(folder.key(), expired.key).unwrap();
    let doubt = load(&folder).unwrap().doubt().unwrap().to_string();
    assert!(doubt.contains("was good until") && doubt.contains("clock"), "{doubt}");

    let folder = dir.issue(&authority, &n1, YEAR);
    fs::write(folder.certificate(), authority.certificate()).unwrap();
    assert!(said(load(&folder)).contains("does not say for whom it is"));

    let folder = dir.issue(&authority, &n1, YEAR);
    let credentials = load(&folder).unwrap();
    assert!(credentials.must_be(|it| it.name == "n1", "agent n1 of shop").is_ok());
    let other = credentials.must_be(|it| it.name == "n2", "agent n2 of shop").unwrap_err().to_string();
    assert!(other.contains("is for agent n1 of shop, but this is agent n2 of shop"), "{other}");
    dir.issue(&authority, &n1, YEAR);
    assert!(credentials.reload().is_ok());
    let eve = authority.issue(&subject("shop", Role::Agent, "n9"), YEAR).unwrap();
    folder.write_own(&eve).unwrap();
    assert!(credentials.reload().is_err(), "a running process does not become another one");
    assert_eq!(credentials.current().subject.name, "n1");
}

#[test]
fn an_authority_is_not_replaced() {
    let dir = Dir::new();
    let folder = Folder::at(&dir.0.join("ca"));
    folder.write_authority(&Authority::found("shop").unwrap()).unwrap();
    let key = fs::read(folder.authority_key()).unwrap();
    let again = folder.write_authority(&Authority::found("shop").unwrap());
    assert!(again.unwrap_err().to_string().contains("there is an authority already"));
    assert_eq!(fs::read(folder.authority_key()).unwrap(), key);
    assert_eq!(fs::metadata(folder.authority_key()).unwrap().mode() & 0o777, 0o600);
}
