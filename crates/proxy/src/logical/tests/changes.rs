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
    assert_eq!(stage.lend(holding()).0, query("set application_name = y;"));
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
