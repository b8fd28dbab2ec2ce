//! Lines of both files as fields of words (src/backend/libpq/hba.c, `next_token`, `next_field_expand`).

use std::iter::Peekable;
use std::str::Chars;

/// One word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Without its quotation marks.
    pub text: String,
    /// It began with one: then it is a name, whatever it says.
    pub is_quoted: bool,
}

impl Word {
    /// Whether it is this word and not a name of the same letters.
    pub fn is(&self, keyword: &str) -> bool {
        !self.is_quoted && self.text == keyword
    }
}

/// Words that commas hold together; never empty.
pub type Field = Vec<Word>;

/// Every line of a file that says something, as `parse` reads it; `None` of it is a line that never fits. A line that ends
/// with a backslash goes on in the next one.
///
/// # Errors
/// All lines that are wrong, by their numbers from 1.
pub fn lines<T>(
    text: &str,
    parse: impl Fn(&[Field]) -> Result<Option<T>, String>,
) -> Result<Vec<T>, Vec<(usize, String)>> {
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    let mut numbered = text.lines().enumerate();
    while let Some((at, line)) = numbered.next() {
        let mut whole = line.to_owned();
        while whole.ends_with('\\') {
            whole.pop();
            whole.push_str(numbered.next().map_or("", |(_, next)| next));
        }
        match fields(&whole).and_then(|fields| if fields.is_empty() { Ok(None) } else { parse(&fields) }) {
            Ok(Some(one)) => found.push(one),
            Ok(None) => {}
            Err(why) => wrong.push((at + 1, why)),
        }
    }
    if wrong.is_empty() { Ok(found) } else { Err(wrong) }
}

fn fields(line: &str) -> Result<Vec<Field>, String> {
    let mut rest = line.chars().peekable();
    let (mut fields, mut field) = (Vec::new(), Field::new());
    loop {
        while rest.next_if(|c| is_blank(*c) || *c == ',').is_some() {}
        if matches!(rest.peek(), None | Some('#')) {
            fields.extend((!field.is_empty()).then_some(field));
            return Ok(fields);
        }
        let (word, goes_on) = word(&mut rest)?;
        field.push(word);
        if !goes_on {
            fields.push(std::mem::take(&mut field));
        }
    }
}

/// One word, and whether a comma follows it.
fn word(rest: &mut Peekable<Chars<'_>>) -> Result<(Word, bool), String> {
    let mut word = Word { text: String::new(), is_quoted: rest.peek() == Some(&'"') };
    let mut inside = false;
    while let Some(c) = rest.next_if(|c| inside || !(is_blank(*c) || *c == '#')) {
        match c {
            '"' if inside && rest.next_if_eq(&'"').is_some() => word.text.push('"'),
            '"' => inside = !inside,
            ',' if !inside => return Ok((word, true)),
            c => word.text.push(c),
        }
    }
    if inside { Err("a quotation mark is not closed".to_owned()) } else { Ok((word, false)) }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<String, String> {
        let words = |field: &Field| {
            let word = |word: &Word| format!("{}{}", if word.is_quoted { "=" } else { "" }, word.text);
            field.iter().map(word).collect::<Vec<_>>().join("+")
        };
        Ok(fields(line)?.iter().map(words).collect::<Vec<_>>().join("|"))
    }

    #[test]
    fn words_are_told_apart_as_postgresql_does() {
        for (line, expected) in [
            ("", ""),
            ("  # nothing", ""),
            ("host all all 0.0.0.0/0 trust # why", "host|all|all|0.0.0.0/0|trust"),
            ("a,b, c d\t\"all\" \"with \"\"x\"\" # y\"", "a+b+c|d|=all|=with \"x\" # y"),
            ("a ,b", "a|b"),
            ("\"\"", "="),
            ("a,", "a"),
        ] {
            assert_eq!(read(line).unwrap(), expected, "{line}");
        }
        assert!(read("\"a").is_err());
    }

    #[test]
    fn lines_go_on_and_wrong_ones_are_all_told() {
        let parse = |fields: &[Field]| match fields {
            [one, two] => Ok(Some(format!("{}{}", one[0].text, two[0].text))),
            _ => Err(format!("{} fields", fields.len())),
        };
        assert_eq!(lines("a b\n\n# x\nc \\\nd\n", parse).unwrap(), ["ab", "cd"]);
        let wrong = lines("a\nb c\nd \\\n\\\ne f\ng\\", parse).unwrap_err();
        assert_eq!(wrong, [(1, "1 fields".into()), (3, "3 fields".into()), (6, "1 fields".into())]);
    }
}
