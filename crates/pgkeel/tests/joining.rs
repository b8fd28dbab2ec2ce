//! Joining, towards agents that are not what they should be: who stands in between learns nothing, and no answer is used that does
//! not fit. And what the commands say when something is in their way, before anything is written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agent::messages::{AuthorityAnswer, JoinAnswer, JoinAsked};
use cluster::membership::TokenRole;
use cluster::state::{Replication, Settings};
use identity::authority::GOOD_DEFAULT;
use identity::invitation::fingerprint_of;
use identity::{Acceptor, Authority, Credentials, Folder, Invitation, Plain, Role, Subject};
use pgkeel::setup::meeting::{Got, meet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A directory of one test, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("pgkeel-joining-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a scratch directory");
        Scratch(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A host n1 of a cluster with an authority of its own.
    fn host(&self, name: &str) -> Folder {
        let folder = Folder::at(&self.path(name));
        folder.write_authority(&Authority::found("shop").expect("an authority")).expect("written");
        let n1 = Subject::new("shop", Role::Agent, "n1").expect("a name");
        let own = folder.authority().expect("it").issue(&n1, GOOD_DEFAULT).expect("a certificate");
        folder.write_own(&own).expect("written");
        folder
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Something that answers as an agent would: with the certificate of `own`, with `authorities` to whoever asks for them, and to who
/// wants to join as `answer` says. Returns its address and how many wanted to join.
async fn something(
    own: &Folder,
    authorities: String,
    answer: impl Fn(JoinAsked) -> JoinAnswer + Send + 'static,
) -> (String, Arc<AtomicUsize>) {
    let credentials = Credentials::load(own.clone(), Plain::Refused).expect("credentials");
    let acceptor = Acceptor::with(Some(credentials));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let joined = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&joined);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok((mut stream, _)) = acceptor.accept(stream).await else { continue };
            let mut request = Vec::new();
            let mut part = [0; 4096];
            let text = loop {
                let length = stream.read(&mut part).await.unwrap_or(0);
                request.extend_from_slice(&part[..length]);
                let text = String::from_utf8_lossy(&request).into_owned();
                let whole = text.starts_with("GET") || text.ends_with('}');
                if length == 0 || whole {
                    break text;
                }
            };
            let body = if text.starts_with("GET /v1/authority ") {
                serde_json::to_string(&AuthorityAnswer { authorities: authorities.clone() })
            } else {
                count.fetch_add(1, Ordering::SeqCst);
                let asked = text.split("\r\n\r\n").nth(1).expect("a body");
                serde_json::to_string(&answer(serde_json::from_str(asked).expect("a request")))
            };
            let body = body.expect("JSON");
            let all = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(all.as_bytes()).await;
            let _ = stream.flush().await;
        }
    });
    (address, joined)
}

fn pem(folder: &Folder) -> String {
    fs::read_to_string(folder.authorities()).expect("the authority")
}

/// What an honest agent answers.
fn honest(folder: &Folder, asked: &JoinAsked) -> JoinAnswer {
    let subject = Subject::new("shop", Role::Agent, asked.node.as_str()).expect("a name");
    let authority = folder.authority().expect("the authority");
    JoinAnswer {
        cluster: "shop".to_owned(),
        certificate: authority.sign(&asked.request, &subject, GOOD_DEFAULT).expect("a certificate"),
        authorities: pem(folder),
        authority_key: None,
        agents: [("n1".parse().expect("a name"), "127.0.0.1:1".to_owned())].into(),
        settings: Settings {
            replication: Replication::Async { max_loss_bytes: 1, loss_bound_bytes: None },
            detect_ms: 1500,
            drift_ppm: 20_000,
        },
        configuration: Default::default(),
        postgres_port: None,
    }
}

async fn join(address: &str, invitation: &Invitation) -> Result<Got, String> {
    let met = meet(address, invitation).await?;
    met.join(TokenRole::Data, &"n2".parse().expect("a name"), None).await
}

fn invitation(folder: &Folder) -> Invitation {
    Invitation::make(&fingerprint_of(folder).expect("a fingerprint")).expect("an invitation")
}

#[tokio::test]
async fn an_honest_agent_lets_in() {
    let scratch = Scratch::new("honest");
    let n1 = scratch.host("n1");
    let from = n1.clone();
    let invited = invitation(&n1);
    let secret = invited.secret.clone();
    let (address, joined) = something(&n1, pem(&n1), move |asked| {
        assert_eq!(asked.secret, secret);
        honest(&from, &asked)
    })
    .await;
    let got = join(&address, &invited).await.map_err(|said| panic!("{said}")).expect("let in");
    let n2 = Folder::at(&scratch.path("n2"));
    got.write(&n2).expect("written");
    let credentials = Credentials::load(n2.clone(), Plain::Refused).expect("good ones");
    assert_eq!(credentials.current().subject.to_string(), "agent n2 of shop");
    assert_eq!((joined.load(Ordering::SeqCst), n2.has_authority_key()), (1, false));
}

#[tokio::test]
async fn who_stands_in_between_learns_nothing() {
    let scratch = Scratch::new("between");
    let (n1, impostor) = (scratch.host("n1"), scratch.host("impostor"));
    let invited = invitation(&n1);
    // With an authority of its own, and with the true one, which is public.
    for (shown, said) in
        [(&impostor, "somebody in between"), (&n1, "was not signed by this cluster's authority")]
    {
        let from = impostor.clone();
        let (address, joined) = something(&impostor, pem(shown), move |asked| honest(&from, &asked)).await;
        let refused = join(&address, &invited).await.err().expect("a refusal");
        assert!(refused.contains(said), "{refused}");
        assert!(!refused.contains(&invited.secret), "{refused}");
        assert_eq!(joined.load(Ordering::SeqCst), 0, "it was told the secret");
    }
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_not_used() {
    let scratch = Scratch::new("unfit");
    let (n1, other) = (scratch.host("n1"), scratch.host("other"));
    type Spoil = fn(JoinAnswer, &Folder, &Folder) -> JoinAnswer;
    let spoils: [(Spoil, &str); 4] = [
        (|answer, _, _| JoinAnswer { cluster: "shed".to_owned(), ..answer }, "is of cluster shed"),
        (|answer, _, other| JoinAnswer { authorities: pem(other), ..answer }, "not among those"),
        (
            |answer, n1, _| JoinAnswer {
                certificate: fs::read_to_string(n1.certificate()).expect("a certificate"),
                ..answer
            },
            "is for agent n1 of shop, not for agent n2 of shop",
        ),
        (|answer, _, _| JoinAnswer { certificate: "rubbish".to_owned(), ..answer }, "not for whom"),
    ];
    for (spoil, said) in spoils {
        let (from, second) = (n1.clone(), other.clone());
        let (address, _) =
            something(&n1, pem(&n1), move |asked| spoil(honest(&from, &asked), &from, &second)).await;
        let refused = join(&address, &invitation(&n1)).await.err().expect("a refusal");
        assert!(refused.contains(said), "{refused}");
    }
    // For another key: found when it is to be written, and what was there stays.
    let from = n1.clone();
    let (address, _) = something(&n1, pem(&n1), move |asked| {
        let (_, request) = identity::authority::request().expect("a key");
        honest(&from, &JoinAsked { request, ..asked })
    })
    .await;
    let got = join(&address, &invitation(&n1)).await.map_err(|said| panic!("{said}")).expect("an answer");
    let n2 = Folder::at(&scratch.path("n2"));
    assert!(got.write(&n2).unwrap_err().contains("is not the key"));
    assert!(!n2.certificate().exists() && !n2.key().exists());
}

fn pgkeel(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pgkeel")).args(args).output().expect("pgkeel")
}

/// Runs it, with all places in a directory where nothing may appear.
fn refused(dir: &Path, args: &[&str]) -> String {
    let place = |name: &str| dir.join(name).display().to_string();
    let places = [place("x.toml"), place("tls"), place("dir")];
    let more = ["--config", &places[0], "--tls", &places[1], "--dir", &places[2]];
    let output = pgkeel(&[args, &more].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    assert!(places.iter().all(|place| !Path::new(place).exists()), "{args:?} wrote something");
    said
}

#[test]
fn what_is_in_the_way_is_said_before_anything_is_written() {
    let scratch = Scratch::new("way");
    let dir = &scratch.0;
    let data = dir.join("data");
    fs::create_dir(&data).expect("a directory");
    fs::write(data.join("PG_VERSION"), "15\n").expect("a file");
    let data = data.display().to_string();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port();
    let at = format!("127.0.0.1:{port}");
    let word = format!("pgkeel1-00000000-{}-{}", "0".repeat(32), "0".repeat(64));
    let cases: [(&[&str], &str); 6] = [
        (&["create", "--name", "1shop", "--listen", "127.0.0.1:7400"], "cluster: \"1shop\" is not a name"),
        (&["join", "127.0.0.1:1", "--token", "hello"], "this is no invitation"),
        (&["join", "127.0.0.1:1", "--token", "pgkeel1-12"], "not whole"),
        (
            &["join", "127.0.0.1:1", "--listen", "127.0.0.1:7400", "--token", &word],
            "127.0.0.1:1 cannot be reached",
        ),
        (&["add-proxy", "127.0.0.1:1", "--token", &word], "127.0.0.1:1 cannot be reached"),
        (&["add-proxy", "127.0.0.1:1", "--token", "pgkeel9-12"], "of a form that this version does not know"),
    ];
    for (args, wanted) in cases {
        let said = refused(dir, args);
        assert!(said.contains(wanted) && !said.contains(&word), "{args:?}: {said}");
    }
    // What follows is found by looking at this host, which must be one that could run a server.
    let probe = refused(dir, &["create", "--name", "shop", "--listen", &at, "--data", "/dev/null/x"]);
    if probe.contains("postgres.bin_dir") {
        return;
    }
    let said = refused(dir, &["create", "--name", "shop", "--listen", &at, "--data", &format!("{data}/new")]);
    assert!(said.contains("is taken by another program"), "{said}");
    let said = refused(
        dir,
        &["create", "--name", "shop", "--listen", "192.0.2.254:7400", "--data", &format!("{data}/new")],
    );
    assert!(said.contains("is no address of this host"), "{said}");
}

#[test]
fn a_host_that_belongs_to_a_cluster_is_left_alone() {
    let scratch = Scratch::new("belongs");
    let file = scratch.path("x.toml");
    let text =
        "cluster = \"shop\"\nnode = { name = \"n1\", joined = true }\nmembers = { n1 = \"127.0.0.1:1\" }\n";
    fs::write(&file, text).expect("a file");
    let file = file.display().to_string();
    let said = |args: &[&str]| {
        let output = pgkeel(&[args, &["--config", file.as_str()]].concat());
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let other = said(&["create", "--name", "shed"]);
    assert!(other.contains("this host is n1 of cluster shop already"), "{other}");
    let other = said(&["join", "127.0.0.1:1", "--node", "n2", "--token", "x"]);
    assert!(other.contains("was not written for a node n2"), "{other}");
    let other = said(&["add-proxy", "127.0.0.1:1", "--token", "x"]);
    assert!(other.contains("a node runs on this host"), "{other}");
    assert_eq!(fs::read_to_string(&file).expect("the file"), text);
}
