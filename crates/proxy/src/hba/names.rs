//! Names that certificates stand for: the lines of `pg_ident.conf`.

use super::words::Field;

/// That a name stands for a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    map: String,
    name: String,
    role: Role,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    /// As in PostgreSQL 16 and later.
    All,
    Named(String),
}

/// All lines of the file.
#[derive(Debug, Default)]
pub struct Names(Vec<Entry>);

impl Names {
    pub fn new(entries: Vec<Entry>) -> Names {
        Names(entries)
    }

    /// Whether a certificate of this name is good for a role: by a map, or without one if they are the same.
    pub fn stand_for(&self, map: Option<&str>, name: &str, role: &[u8]) -> bool {
        let Some(map) = map else { return name.as_bytes() == role };
        self.0.iter().any(|entry| {
            let is_role = match &entry.role {
                Role::All => true,
                Role::Named(named) => named.as_bytes() == role,
            };
            entry.map == map && entry.name == name && is_role
        })
    }
}

/// One line.
pub fn parse(fields: &[Field]) -> Result<Option<Entry>, String> {
    let [map, name, role] = fields else {
        return Err(format!(
            "has {} fields; a line has three: map, name in the certificate, role",
            fields.len()
        ));
    };
    for field in [map, name, role] {
        if field.len() != 1 {
            return Err("has a list; write a line for each".to_owned());
        }
        if !field[0].is_quoted && field[0].text.starts_with(['/', '+']) {
            let word = &field[0].text;
            return Err(format!("{word}: regular expressions and groups are not known here"));
        }
    }
    let role = if role[0].is("all") { Role::All } else { Role::Named(role[0].text.clone()) };
    Ok(Some(Entry { map: map[0].text.clone(), name: name[0].text.clone(), role }))
}
