//! Settings that are changed in passing, and very often.

use super::*;

#[test]
fn an_application_name_that_a_function_sets_goes_along() {
    let name = |value: &str| message(b'S', format!("application_name\0{value}\0").as_bytes());
    let mut stage = Stage::new();
    stage.client(&query("select set_config('application_name', concat('it', '''s'), false)"));
    stage.server(&[done("SELECT 1"), name("it's"), ready("I")].concat());
    stage.client(&query("begin; set local application_name = x"));
    stage.server(&[done("BEGIN"), done("SET"), name("x"), ready("T")].concat());
    stage.client(&query("rollback"));
    stage.server(&[done("ROLLBACK"), name("it's"), ready("I")].concat());
    assert_eq!(stage.lend(holding()).0, query("SET application_name = 'it''s';"));
    let mut stage = Stage::new();
    stage.client(&query("set application_name = y"));
    stage.server(&[done("SET"), name("y"), ready("I")].concat());
    assert_eq!(stage.lend(holding()).0, query("SET application_name = 'y';"));
    for (sql, tags) in
        [("discard all", done("DISCARD ALL")), ("reset all; x", [done("RESET"), done("X")].concat())]
    {
        let mut stage = Stage::new();
        stage.client(&query("set application_name = y"));
        stage.server(&[done("SET"), name("y"), ready("I")].concat());
        stage.client(&query(sql));
        stage.server(&[tags, name(""), ready("I")].concat());
        assert_eq!(stage.lend(holding()).0, b"", "{sql}");
    }
}

#[test]
fn the_last_change_of_an_application_name_counts() {
    let name = |value: &str| message(b'S', format!("application_name\0{value}\0").as_bytes());
    let run = |stage: &mut Stage, steps: &[(&str, &str, &str, &str)]| {
        for (sql, tag, told, status) in steps {
            stage.client(&query(sql));
            let told = if told.is_empty() { Vec::new() } else { name(told.trim_matches('-')) };
            stage.server(&[done(tag), told, ready(status)].concat());
        }
    };
    let by_function = "select set_config('application_name', x, false) from t";
    for (steps, expected) in [
        (
            &[
                ("begin", "BEGIN", "", "T"),
                ("set application_name = a", "SET", "a", "T"),
                (by_function, "SELECT 1", "b", "T"),
                ("commit", "COMMIT", "", "I"),
            ][..],
            "SET application_name = 'b';",
        ),
        (
            &[
                ("begin", "BEGIN", "", "T"),
                ("set application_name = a", "SET", "a", "T"),
                ("commit and chain", "COMMIT", "", "T"),
                (by_function, "SELECT 1", "b", "T"),
                ("commit", "COMMIT", "", "I"),
            ],
            "SET application_name = 'b';",
        ),
        (
            &[
                ("begin", "BEGIN", "", "T"),
                ("reset application_name", "RESET", "-", "T"),
                ("commit and chain", "COMMIT", "", "T"),
                (by_function, "SELECT 1", "b", "T"),
                ("commit", "COMMIT", "", "I"),
            ],
            "SET application_name = 'b';",
        ),
        // An empty one that was set is none that was reset.
        (
            &[
                ("set application_name = ''", "SET", "-", "I"),
                ("begin", "BEGIN", "", "T"),
                ("set application_name = x", "SET", "x", "T"),
                ("rollback", "ROLLBACK", "-", "I"),
            ],
            "SET application_name = '';",
        ),
    ] {
        let mut stage = Stage::new();
        run(&mut stage, steps);
        assert_eq!(stage.lend(holding()).0, query(expected), "{steps:?}");
    }
}

#[test]
fn many_changes_in_one_transaction_take_bounded_memory() {
    let mut stage = Stage::new();
    stage.query("begin", "BEGIN", "T");
    stage.query("set lock_timeout = 7", "SET", "T");
    for number in 0..5_000 {
        stage.query(&format!("set work_mem = {number}"), "SET", "T");
        assert!(stage.logical.pending_changes() <= 1_000);
    }
    stage.query("reset lock_timeout", "RESET", "T");
    stage.query("commit", "COMMIT", "I");
    assert_eq!(stage.lend(holding()).0, query("set work_mem = 4999;"));
}
