//! Sessions that go on in another process, where no statement is known and every server is another one.

use super::*;
use crate::takeover::Session;

/// The same session elsewhere, over the bytes that would go there.
fn elsewhere(stage: &Stage) -> Stage {
    let logical = stage.logical.described().expect("an idle session");
    let session = Session { logical, ..Session::default() };
    let session = Session::parse(&session.encode()).unwrap();
    let mut texts = Texts::new(9);
    let logical = Logical::restored(&session.logical, Owner(7), &mut texts).unwrap();
    assert_eq!(sorted(logical.described().unwrap()), sorted(session.logical));
    Stage { logical, holding: holding(), texts }
}

fn sorted(mut described: Described) -> Described {
    described.statements.sort_by(|a, b| a.name.cmp(&b.name));
    described
}

fn prepare(stage: &mut Stage, name: &str, sql: &str) {
    stage.client(&[parse(name, sql), sync()].concat());
    stage.server(&[message(b'1', b""), ready("I")].concat());
}

#[test]
fn a_session_goes_on_as_if_it_had_not_moved() {
    let mut stage = Stage::new();
    stage.query("set work_mem = '7MB'", "SET", "I");
    prepare(&mut stage, "own", "select 1");
    stage.query("set timezone = 'UTC'", "SET", "I");
    prepare(&mut stage, "later", "select 3");
    prepare(&mut stage, "", "select 2");
    let mut other = elsewhere(&stage);
    // On servers that know nothing of it, both do the same.
    let here = stage.lend(holding());
    assert_eq!(other.lend(holding()), here);
    assert!(!here.0.is_empty(), "its settings are put in place");
    let settled = [done("SET"), done("SET"), ready("I")].concat();
    assert_eq!(other.server(&settled), stage.server(&settled));
    for name in ["own", "later", "", "unknown"] {
        let bytes = [bind(name), execute(), sync()].concat();
        let (here, there) = (stage.client(&bytes), other.client(&bytes));
        // Numbers of statements are given anew.
        let neutral = |bytes: &[u8]| -> Vec<u8> {
            bytes.iter().filter(|byte| !byte.is_ascii_digit()).copied().collect()
        };
        assert_eq!(neutral(&there), neutral(&here), "{name}");
        let answer = match here[0] {
            b'P' => [message(b'1', b""), message(b'2', b""), done("SELECT 1"), ready("I")].concat(),
            _ => [error(), ready("I")].concat(),
        };
        assert_eq!(other.server(&answer), stage.server(&answer), "{name}");
        assert_eq!(name == "unknown", here[0] != b'P', "{name}");
        assert!(stage.may_leave() && other.may_leave(), "{name}");
    }
}

#[test]
fn what_is_under_way_or_keeps_its_server_is_not_described() {
    let mut stage = Stage::new();
    stage.query("begin", "BEGIN", "T");
    assert_eq!(stage.logical.described(), None);
    stage.query("commit", "COMMIT", "I");
    assert!(stage.logical.described().is_some());
    stage.client(&query("select 1"));
    assert_eq!(stage.logical.described(), None);
    stage.server(&[done("SELECT 1"), ready("I")].concat());
    stage.client(&parse("s", "select 1"));
    stage.server(&message(b'1', b""));
    assert_eq!(stage.logical.described(), None, "no Sync has come");
    stage.client(&sync());
    stage.server(&ready("I"));
    assert!(stage.logical.described().is_some());
    stage.query("create temp table t ()", "CREATE TABLE", "I");
    assert_eq!(stage.logical.described(), None);
}

#[test]
fn a_session_larger_than_any_is_not_restored() {
    let name = |number: usize| Box::from(format!("a{number}"));
    let settings = (0..=settings::SETTINGS_MAX).map(|number| (name(number), Box::default())).collect();
    let described = Described { settings, ..Described::default() };
    assert!(Logical::restored(&described, Owner(1), &mut Texts::new(0)).is_none());
    let twice = Statement { name: Box::from(*b"a"), body: Box::from(*b"select 1\0\0\0"), is_shared: true };
    let described = Described { statements: vec![twice.clone(), twice], ..Described::default() };
    assert!(Logical::restored(&described, Owner(1), &mut Texts::new(0)).is_none());
}
