//! The settings of a session, as statements that put them in place.

use super::described::SetBy;
use super::reported::share;
use crate::sql::WITHOUT_MEANING;
use std::rc::Rc;
use std::slice::from_ref;

/// Most settings of one session; more pin the server.
pub const SETTINGS_MAX: usize = 100;

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name, in lower case.
    pub name: Box<str>,
    /// The statement that sets it.
    pub text: Box<[u8]>,
}

/// The statement that sets the application's name.
#[must_use]
pub(super) fn name_statement(name: &[u8]) -> Vec<u8> {
    let mut text = b"SET application_name = '".to_vec();
    name.iter().for_each(|&byte| text.extend_from_slice(if byte == b'\'' { b"''" } else { from_ref(&byte) }));
    text.push(b'\'');
    text
}

/// Settings in the order in which they were set: what a later one needs, an earlier one may have given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(Rc<Vec<Setting>>);

impl Settings {
    /// The application's name as a client gives it when it connects.
    #[must_use]
    pub fn with_application_name(name: &[u8]) -> Settings {
        let mut settings = Settings::default();
        if !name.is_empty() {
            settings.set("application_name", &name_statement(name));
        }
        settings
    }

    /// Takes note of a setting; `false` if there are too many.
    pub fn set(&mut self, name: &str, text: &[u8]) -> bool {
        self.reset(name);
        if self.0.len() >= SETTINGS_MAX {
            return false;
        }
        Rc::make_mut(&mut self.0).push(Setting { name: name.into(), text: text.into() });
        true
    }

    /// Whether a setting was set by this statement.
    pub fn has(&self, name: &str, text: &[u8]) -> bool {
        self.0.iter().any(|setting| &*setting.name == name && *setting.text == *text)
    }

    /// A setting has its first value again.
    pub fn reset(&mut self, name: &str) {
        if self.0.iter().any(|setting| &*setting.name == name) {
            Rc::make_mut(&mut self.0).retain(|setting| &*setting.name != name);
        }
    }

    /// RESET ALL, which leaves the role.
    pub fn reset_all(&mut self) {
        if self.0.iter().any(|setting| &*setting.name != "role") {
            Rc::make_mut(&mut self.0).retain(|setting| &*setting.name == "role");
        }
    }

    /// Takes over one setting of `others`, or all.
    pub fn set_again(&mut self, others: &Settings, name: Option<&str>) {
        for setting in others.0.iter().filter(|setting| name.is_none_or(|name| *setting.name == *name)) {
            self.set(&setting.name, &setting.text);
        }
    }

    /// Their values are not known any more: they equal no other settings.
    pub fn distrust(&mut self) {
        if !self.0.is_empty() {
            Rc::make_mut(&mut self.0).iter_mut().for_each(|setting| setting.text = Box::default());
        }
    }

    /// Names and statements, in order.
    pub(super) fn to_pairs(&self) -> Vec<SetBy> {
        self.0.iter().map(|setting| (setting.name.clone(), setting.text.clone())).collect()
    }

    /// As [`Settings::to_pairs`] gave them; `None` if there are too many.
    pub(super) fn of_pairs(pairs: &[SetBy]) -> Option<Settings> {
        let mut settings = Settings::default();
        pairs.iter().all(|(name, text)| settings.set(name, text)).then_some(settings)
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|setting| &*setting.name)
    }

    /// Whether there are none that change the meaning of statements.
    #[must_use]
    pub fn are_plain(&self) -> bool {
        self.0.iter().all(|setting| WITHOUT_MEANING.contains(&&*setting.name))
    }

    /// Appends statements that make these settings out of `others`; whether there is something to do. If not, they are the
    /// very same afterwards.
    pub fn place_over(&mut self, others: &mut Settings, sql: &mut Vec<u8>) -> bool {
        if Rc::ptr_eq(&self.0, &others.0) {
            return false;
        }
        if self.0 == others.0 {
            share(&mut self.0, &mut others.0);
            return false;
        }
        let has_role = |settings: &Settings| settings.0.iter().any(|setting| &*setting.name == "role");
        // Another role may not be allowed to touch the rest, so what is there is not built upon then.
        let same = if has_role(self) || has_role(others) { 0 } else { self.common_with(others) };
        if has_role(others) {
            sql.extend_from_slice(b"RESET ROLE;");
        }
        for setting in others.0[same..].iter().filter(|setting| &*setting.name != "role") {
            let name = setting.name.replace('"', "\"\"");
            sql.extend_from_slice(format!("RESET \"{name}\";").as_bytes());
        }
        for setting in &self.0[same..] {
            sql.extend_from_slice(&setting.text);
            sql.push(b';');
        }
        true
    }

    fn common_with(&self, others: &Settings) -> usize {
        self.0.iter().zip(others.0.iter()).take_while(|(a, b)| a == b).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let mut settings = Settings::default();
        for (name, text) in pairs {
            assert!(settings.set(name, text.as_bytes()));
        }
        settings
    }

    fn placing(to: &Settings, from: &Settings) -> String {
        let mut sql = Vec::new();
        assert_eq!(to.clone().place_over(&mut from.clone(), &mut sql), !sql.is_empty());
        String::from_utf8(sql).unwrap()
    }

    #[test]
    fn only_what_differs_is_put_in_place() {
        let none = Settings::default();
        let a = settings(&[("a", "SET a=1"), ("b", "SET b=1")]);
        let b = settings(&[("a", "SET a=1"), ("b", "SET b=2"), ("c", "SET c=1")]);
        assert_eq!(placing(&a, &none), "SET a=1;SET b=1;");
        assert_eq!(placing(&a, &a.clone()), "");
        assert_eq!(placing(&b, &a), "RESET \"b\";SET b=2;SET c=1;");
        assert_eq!(placing(&none, &a), "RESET \"a\";RESET \"b\";");
    }

    #[test]
    fn a_role_goes_first_and_comes_in_its_place() {
        let with_role = settings(&[("a", "SET a=1"), ("role", "SET ROLE x"), ("b", "SET b=1")]);
        let plain = settings(&[("a", "SET a=1")]);
        assert_eq!(placing(&plain, &with_role), "RESET ROLE;RESET \"a\";RESET \"b\";SET a=1;");
        assert_eq!(placing(&with_role, &plain), "RESET \"a\";SET a=1;SET ROLE x;SET b=1;");
        let mut reset = with_role.clone();
        reset.reset_all();
        assert_eq!(placing(&reset, &Settings::default()), "SET ROLE x;");
    }

    #[test]
    fn a_setting_that_is_set_again_is_the_last() {
        let mut again = settings(&[("a", "SET a=1"), ("b", "SET b=1")]);
        again.set("a", b"SET a=2");
        assert_eq!(placing(&again, &Settings::default()), "SET b=1;SET a=2;");
        again.reset("b");
        assert_eq!(placing(&again, &Settings::default()), "SET a=2;");
    }

    #[test]
    fn the_application_s_name_is_quoted() {
        let name = Settings::with_application_name(b"it's");
        assert_eq!(placing(&name, &Settings::default()), "SET application_name = 'it''s';");
        assert_eq!(Settings::with_application_name(b""), Settings::default());
    }

    #[test]
    fn too_many_are_refused() {
        let mut many = Settings::default();
        assert!((0..SETTINGS_MAX).all(|n| many.set(&n.to_string(), b"x")));
        assert!(!many.set("one more", b"x"));
        assert!(many.set("7", b"y"));
    }
}
