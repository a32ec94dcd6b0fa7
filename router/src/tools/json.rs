//! Where one JSON value ends in streamed text, character by character, without building the value. Pure.
//!
//! Used by the tool parsers, which send arguments on while the model still writes them. Looks at strings
//! and brackets only: what stands between them is the client's to judge, as OpenAI leaves it.

/// What a character did to a value under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// It belongs to the value, and more may follow.
    Inside,
    /// It is the value's last character.
    Last,
    /// The value ended before it: a number or word has no last character of its own.
    After,
    /// No value has this character here.
    Bad,
}

/// One value under way.
#[derive(Debug, Default)]
pub struct ValueScanner {
    kind: Kind,
    /// Closing brackets that are due, innermost last.
    closers: Vec<char>,
    in_string: bool,
    escaped: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Kind {
    #[default]
    Unknown,
    /// An object, an array or a string.
    Enclosed,
    /// A number, `true`, `false` or `null`.
    Word,
}

impl ValueScanner {
    /// Takes the next character; the first must not be white space. Not to be called after the value's end.
    pub fn push(&mut self, c: char) -> Scan {
        match self.kind {
            Kind::Unknown => self.begin(c),
            Kind::Enclosed => self.inside(c),
            Kind::Word if is_word(c) => Scan::Inside,
            Kind::Word => Scan::After,
        }
    }

    fn begin(&mut self, c: char) -> Scan {
        self.kind = if is_word(c) { Kind::Word } else { Kind::Enclosed };
        match c {
            '{' => self.closers.push('}'),
            '[' => self.closers.push(']'),
            '"' => self.in_string = true,
            _ if is_word(c) => {}
            _ => return Scan::Bad,
        }
        Scan::Inside
    }

    fn inside(&mut self, c: char) -> Scan {
        if self.in_string {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => self.in_string = false,
                _ => {}
            }
            return if self.in_string { Scan::Inside } else { self.state() };
        }
        match c {
            '"' => self.in_string = true,
            '{' => self.closers.push('}'),
            '[' => self.closers.push(']'),
            '}' | ']' if self.closers.pop() != Some(c) => return Scan::Bad,
            _ => {}
        }
        self.state()
    }

    fn state(&self) -> Scan {
        if self.closers.is_empty() && !self.in_string { Scan::Last } else { Scan::Inside }
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The value at the start of `text`: its end and whether the scanner says so with the last character.
    fn end_of(text: &str) -> Result<usize, Scan> {
        let mut scanner = ValueScanner::default();
        for (at, c) in text.char_indices() {
            match scanner.push(c) {
                Scan::Inside => {}
                Scan::Last => return Ok(at + c.len_utf8()),
                Scan::After => return Ok(at),
                Scan::Bad => return Err(Scan::Bad),
            }
        }
        Err(Scan::Inside)
    }

    #[test]
    fn ends() {
        let check = |text: &str, expected| assert_eq!(end_of(text), expected, "{text}");
        check("{}", Ok(2));
        check(r#"{"a": [1, {"b": "}]"}]} tail"#, Ok(23));
        check(r#""a\"b\\" "#, Ok(8));
        check("-1.5e+3,", Ok(7));
        check("null}", Ok(4));
        check("é", Err(Scan::Bad));
        check("}", Err(Scan::Bad));
        check("{]", Err(Scan::Bad));
        check(r#"{"a": "é"#, Err(Scan::Inside));
    }

    proptest! {
        /// Whatever serde_json writes ends where it ends.
        #[test]
        fn agrees_with_serde_json(texts in prop::collection::vec(".{0,6}", 0..4), n in any::<i64>()) {
            let value = serde_json::json!({"k\"{": texts, "n": [n, null, {"deep": [texts]}]});
            for json in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                prop_assert_eq!(end_of(&format!("{json}}} tail")), Ok(json.len()));
            }
        }
    }
}
