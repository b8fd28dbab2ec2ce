//! How many clients each user and each database has, in all workers. Its lock is taken when a client comes and when it goes.

use crate::error::Refusal;
use crate::settings::ClientLimits;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// See the module.
#[derive(Debug, Default)]
pub struct Crowd(Mutex<Tallies>);

#[derive(Debug, Default)]
struct Tallies {
    of_users: HashMap<Box<[u8]>, usize>,
    of_databases: HashMap<Box<[u8]>, usize>,
}

/// A client that is counted; dropping it counts it out.
#[derive(Debug)]
pub struct Place<'a> {
    crowd: &'a Crowd,
    user: Box<[u8]>,
    database: Box<[u8]>,
}

impl Crowd {
    /// Counts a client that was let in; nothing is counted without a limit.
    ///
    /// # Errors
    /// Whose maximum is reached.
    pub fn enter(
        &self,
        user: &[u8],
        database: &[u8],
        limits: &ClientLimits,
    ) -> Result<Option<Place<'_>>, Refusal> {
        if limits.per_user_max.is_none() && limits.per_database_max.is_none() {
            return Ok(None);
        }
        let mut tallies = self.lock();
        let checks = [
            ("user", user, tallies.of_users.get(user), limits.per_user_max),
            ("database", database, tallies.of_databases.get(database), limits.per_database_max),
        ];
        for (what, name, count, max) in checks {
            if let Some(max) = max.filter(|max| count.is_some_and(|count| count >= max)) {
                return Err(Refusal::Crowded { what, name: String::from_utf8_lossy(name).into_owned(), max });
            }
        }
        *tallies.of_users.entry(user.into()).or_default() += 1;
        *tallies.of_databases.entry(database.into()).or_default() += 1;
        Ok(Some(Place { crowd: self, user: user.into(), database: database.into() }))
    }

    fn lock(&self) -> MutexGuard<'_, Tallies> {
        // Each change is one statement, so a panic elsewhere spoils nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count_out(counts: &mut HashMap<Box<[u8]>, usize>, name: &[u8]) {
    if let Some(count) = counts.get_mut(name) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(name);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut tallies = self.crowd.lock();
        count_out(&mut tallies.of_users, &self.user);
        count_out(&mut tallies.of_databases, &self.database);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_holds_by_itself_and_who_goes_makes_room() {
        let crowd = Crowd::default();
        let limits =
            ClientLimits { per_user_max: Some(2), per_database_max: Some(3), ..ClientLimits::default() };
        let enter = |user: &str, database: &str| crowd.enter(user.as_bytes(), database.as_bytes(), &limits);
        let one = enter("ann", "shop").unwrap();
        let _two = enter("ann", "shop").unwrap();
        let crowded = |what, name: &str, max| Refusal::Crowded { what, name: name.into(), max };
        assert_eq!(enter("ann", "other").unwrap_err(), crowded("user", "ann", 2));
        let _three = enter("bob", "shop").unwrap();
        assert_eq!(enter("eve", "shop").unwrap_err(), crowded("database", "shop", 3));
        drop(one);
        assert!(enter("eve", "shop").is_ok());
        assert!(enter("ann", "other").is_ok());
        assert!(crowd.enter(b"ann", b"shop", &ClientLimits::default()).unwrap().is_none());
    }

    #[test]
    fn nobody_is_remembered_who_is_gone() {
        let crowd = Crowd::default();
        let limits = ClientLimits { per_user_max: Some(1), ..ClientLimits::default() };
        for number in 0..100 {
            drop(crowd.enter(format!("{number}").as_bytes(), b"shop", &limits).unwrap());
        }
        assert!(crowd.lock().of_users.is_empty() && crowd.lock().of_databases.is_empty());
    }
}
