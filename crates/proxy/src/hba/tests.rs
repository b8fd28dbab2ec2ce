use super::*;

fn address(text: &str) -> Source {
    Source::Address(text.parse().unwrap())
}

fn caller() -> Caller<'static> {
    Caller {
        source: address("10.0.0.7"),
        system_user: None,
        tls: true,
        user: b"ann",
        database: b"shop",
        replicates: false,
        common_name: None,
    }
}

fn rules(hba: &str) -> Rules {
    Rules::parse(hba, "").unwrap()
}

fn told(decision: Result<Way, Refusal>) -> String {
    match decision {
        Ok(way) => format!("{way:?}"),
        Err(Refusal::NotAdmitted { why, .. }) => format!("{why:?}"),
        Err(other) => format!("{other:?}"),
    }
}

#[test]
fn random_files_never_panic() {
    let words = [
        "local",
        "host",
        "hostssl",
        "hostnogssenc",
        "all",
        "sameuser",
        "replication",
        "shop",
        "+ann",
        "\"bob\"",
        "\"",
        "10.0.0.0/8",
        "::1",
        "/33",
        "255.0.0.0",
        "samenet",
        "trust",
        "md5",
        "peer",
        "cert",
        "map=m",
        "clientcert=verify-full",
        "/^(.*)@x$",
        "\\1",
        ",",
        "#",
        "\n",
        "\n",
        "m",
        "=",
        "\u{e9}",
    ];
    let mut random = pgwire::random::Random::new(41);
    let mut text = |most: usize| -> String {
        let mut text = String::new();
        for _ in 0..random.below(most) {
            text += words[random.below(words.len())];
            text += if random.below(8) == 0 { "" } else { " " };
        }
        text
    };
    let mut read = 0;
    for _ in pgwire::random::rounds(20_000) {
        if let Ok(rules) = Rules::parse(&text(40), &text(20)) {
            read += 1;
            let _ = rules.decide(&caller());
        }
    }
    assert!(read > 0, "none of them was ever right");
}

#[test]
fn the_first_line_that_fits_decides() {
    let rules = rules(
        "local all all trust\n\
         hostgssenc all all all trust\n\
         host shop ann 10.0.0.0/24 reject\n\
         host all ann 10.0.0.0/8 scram-sha-256\n\
         hostnossl all bob all reject\n\
         hostssl \"all\",sameuser \"bob\" 0.0.0.0/0 trust\n\
         host replication,wal dan all md5\n",
    );
    let at = |source: &str, tls, user, database, replicates| {
        let source = address(source);
        let caller = Caller { source, tls, user, database, replicates, ..caller() };
        told(rules.decide(&caller))
    };
    assert_eq!(at("10.0.0.7", true, b"ann", b"shop", false), "Rejected");
    assert_eq!(at("10.0.1.7", true, b"ann", b"shop", false), "Scram");
    assert_eq!(at("10.0.0.7", true, b"ann", b"x", false), "Scram");
    assert_eq!(at("11.0.0.7", true, b"ann", b"x", false), "NoRule");
    assert_eq!(at("10.0.0.7", true, b"ann", b"x", true), "NoRule", "all is not replication");
    assert_eq!(at("10.0.0.7", false, b"bob", b"bob", false), "Rejected");
    assert_eq!(at("10.0.0.7", true, b"bob", b"bob", false), "Trust");
    assert_eq!(at("10.0.0.7", true, b"bob", b"all", false), "Trust", "a name, because it is quoted");
    assert_eq!(at("10.0.0.7", true, b"bob", b"shop", false), "NoRule");
    assert_eq!(at("::1", true, b"bob", b"bob", false), "NoRule", "0.0.0.0/0 has no IPv6 addresses");
    assert_eq!(at("::1", true, b"dan", b"dan", true), "Md5");
    assert_eq!(at("::1", true, b"dan", b"replication", false), "NoRule", "no database of this name is meant");
    assert_eq!(at("::1", true, b"dan", b"wal", false), "Md5");
    assert_eq!(at("::1", true, b"\xff", b"wal", false), "NoRule");
    assert_eq!(told(Rules::default().decide(&caller())), "NoRule", "nobody may come without a rule");
}

#[test]
fn a_certificate_is_good_for_the_names_that_it_stands_for() {
    let ident = "staff ann@example ann\nstaff \"root\" all\nother bob ann\n";
    let decide = |line: &str, common_name| {
        let rules = Rules::parse(line, ident).unwrap();
        told(rules.decide(&Caller { common_name, ..caller() }))
    };
    let cert = "hostssl all all all cert";
    assert_eq!(decide(cert, None), "NoClientCertificate");
    assert_eq!(decide(cert, Some("ann")), "Trust");
    assert_eq!(decide(cert, Some("Ann")), "OtherName");
    assert_eq!(decide(cert, Some("")), "OtherName");
    let mapped = "hostssl all all all cert map=staff";
    assert_eq!(decide(mapped, Some("ann@example")), "Trust");
    assert_eq!(decide(mapped, Some("root")), "Trust");
    assert_eq!(decide(mapped, Some("ann")), "OtherName", "the map alone says who");
    assert_eq!(decide(mapped, Some("bob")), "OtherName", "another map");
    let any = "hostssl all all all scram-sha-256 clientcert=verify-ca";
    assert_eq!((decide(any, None), decide(any, Some("x"))), ("NoClientCertificate".into(), "Scram".into()));
    let full = "hostssl all all all scram-sha-256 clientcert=verify-full";
    assert_eq!((decide(full, Some("x")), decide(full, Some("ann"))), ("OtherName".into(), "Scram".into()));
}

#[test]
fn what_cannot_be_kept_is_an_error_of_its_line() {
    for (line, word) in [
        ("host", "ends too early"),
        ("host all all", "ends too early"),
        ("host all all 10.0.0.0/8", "names no method"),
        ("host all all 10.0.0.0 255.0.0.0", "names no method"),
        ("hosts all all all trust", "not a type of connection"),
        ("host,hostssl all all all trust", "has a list"),
        ("host samerole all all trust", "member of which role"),
        ("host all +staff all trust", "member of which role"),
        ("host all @users all trust", "other files"),
        ("host /^shop all all trust", "regular expressions"),
        ("host all all samenet trust", "write the addresses"),
        ("host all all shop.example trust", "names of hosts"),
        ("host all all 10.0.0.0/99 trust", "not a length"),
        ("host all all 10.0.0.0 255.0.255.0 trust", "no mask"),
        ("host all all all ldap", "not a method here"),
        ("host all all all password", "not a method here"),
        ("host all all all cert", "needs hostssl"),
        ("host all all all scram-sha-256 clientcert=verify-ca", "needs hostssl"),
        ("hostssl all all all cert clientcert=verify-ca", "clientcert=verify-ca"),
        ("hostssl all all all trust map=staff", "not an option"),
        ("hostssl all all all cert pamservice=x", "not an option"),
        ("host all \"all all trust", "not closed"),
    ] {
        let (file, wrong) = Rules::parse(line, "").unwrap_err();
        assert_eq!((file, wrong.len(), wrong[0].0), (File::Hba, 1, 1), "{line}");
        assert!(wrong[0].1.contains(word), "{line}: {}", wrong[0].1);
    }
    for line in ["a b", "a b c d", "a /^(.*)$ c", "a b +c", "a,b c d"] {
        assert_eq!(Rules::parse("", line).unwrap_err().0, File::Ident, "{line}");
    }
}

#[test]
fn any_text_is_read_or_refused() {
    let words = [
        "host",
        "hostssl",
        "all",
        "\"",
        ",",
        "#",
        "\\",
        "\n",
        " ",
        "10.0.0.0/8",
        "::/0",
        "trust",
        "cert",
        "map=x",
        "@",
        "\t",
        "ä",
    ];
    let mut state = 1_u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..12 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push_str(words[(state >> 33) as usize % words.len()]);
        }
        if let Ok(rules) = Rules::parse(&text, &text) {
            let _ = rules.decide(&caller());
        }
    }
}

#[test]
fn local_is_for_unix_sockets_and_peer_asks_the_host() {
    let rules = Rules::parse(
        "host all all all reject\n\
         local shop bob scram-sha-256\n\
         local all bob peer map=staff\n\
         local all ann peer\n",
        "staff ann bob\n",
    )
    .unwrap();
    let at = |system_user, user, database| {
        let source = Source::User { uid: 7 };
        told(rules.decide(&Caller { source, system_user, user, database, tls: false, ..caller() }))
    };
    assert_eq!(at(None, b"bob", b"shop"), "Scram", "lines for host are not asked");
    assert_eq!(at(Some("ann"), b"bob", b"x"), "Trust");
    assert_eq!(at(Some("ann"), b"ann", b"x"), "Trust");
    assert_eq!(at(Some("bob"), b"bob", b"x"), "OtherUser", "with a map, only what stands there");
    assert_eq!(at(Some("bob"), b"ann", b"x"), "OtherUser");
    assert_eq!(at(None, b"ann", b"x"), "OtherUser");
    assert_eq!(at(Some("dan"), b"dan", b"x"), "NoRule");
    assert_eq!(told(rules.decide(&caller())), "Rejected");
    for wrong in ["host all all all peer", "local all all", "local all all peer krb=1", "local all all cert"]
    {
        assert!(Rules::parse(wrong, "").is_err(), "{wrong}");
    }
}
