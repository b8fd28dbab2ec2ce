//! A standby's WAL is a prefix of its primary's, record for record. PostgreSQL compares only timeline numbers and
//! positions, so a standby that follows a primary of another history is corrupted without a word; the rules of
//! `cluster::lineage` must prevent it.

use super::super::node::NodeId;
use super::Checks;

pub(super) fn broken(checks: &mut Checks, node: NodeId, what: &str) {
    checks.fail("prefix", format!("n{}: {what}", node + 1), 0);
}
