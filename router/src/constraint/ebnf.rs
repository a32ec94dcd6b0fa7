//! EBNF with `::=`, as llama.cpp and vLLM's other backends write grammars, rewritten in Lark's notation. Pure.
//!
//! `root ::= "a" word | [0-9]+` becomes `start: "a" word | /[0-9]/+`. Only the notation changes; what the text
//! means, and whether it means anything, is the compiler's to say.

use std::fmt::Write;

/// Whether a grammar is written with `::=`.
pub fn is_ebnf(text: &str) -> bool {
    text.contains("::=")
}

/// # Errors
/// A string or a character class without an end, or a character that has no place in EBNF.
pub fn to_lark(text: &str) -> Result<String, String> {
    let mut source = Source { text, at: 0 };
    let mut lark = String::with_capacity(text.len());
    while let Some(c) = source.peek() {
        match c {
            '"' => lark += source.quoted('"', '"')?,
            '[' => {
                let class = source.quoted('[', ']')?;
                let _ = write!(lark, "/{}/", class.replace('/', "\\/"));
            }
            '#' => source.skip_while(|c| c != '\n'),
            c if c.is_ascii_alphabetic() || c == '_' => {
                let name = source.take_while(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
                lark += &rule_name(name);
            }
            ':' if source.rest().starts_with("::=") => {
                source.at += 3;
                lark.truncate(lark.trim_end().len());
                lark.push(':');
            }
            '.' => {
                source.at += 1;
                lark += "/[^\\n]/";
            }
            '(' | ')' | '|' | '*' | '+' | '?' | '{' | '}' | ',' | '0'..='9' => {
                source.at += 1;
                lark.push(c);
            }
            c if c.is_whitespace() => {
                source.at += c.len_utf8();
                lark.push(c);
            }
            c => return Err(format!("EBNF: unexpected {c:?} in line {}", source.line())),
        }
    }
    Ok(joined_lines(&lark))
}

/// Lark's rule names have no capitals and no hyphens; the first rule's name there is `start`.
fn rule_name(name: &str) -> String {
    if name == "root" { "start".into() } else { format!("r_{}", name.replace('-', "_").to_lowercase()) }
}

/// A rule's lines that do not begin with `|` or a new rule go on on one line, as Lark wants it.
fn joined_lines(lark: &str) -> String {
    let mut out = String::with_capacity(lark.len());
    for line in lark.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let begins_rule = line
            .split_once(':')
            .is_some_and(|(name, _)| name.trim_end().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        out.push(if begins_rule { '\n' } else { ' ' });
        out += line;
    }
    out
}

struct Source<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Source<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn line(&self) -> usize {
        1 + self.text[..self.at].matches('\n').count()
    }

    fn take_while(&mut self, goes_on: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let n = rest.find(|c| !goes_on(c)).unwrap_or(rest.len());
        self.at += n;
        &rest[..n]
    }

    fn skip_while(&mut self, goes_on: impl Fn(char) -> bool) {
        self.take_while(goes_on);
    }

    /// From `open` to the first `close` that has no backslash before it, both included.
    fn quoted(&mut self, open: char, close: char) -> Result<&'a str, String> {
        let rest = self.rest();
        let mut escaped = false;
        for (i, c) in rest.char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == close => {
                    self.at += i + c.len_utf8();
                    return Ok(&rest[..i + c.len_utf8()]);
                }
                _ => {}
            }
        }
        Err(format!("EBNF: the {open} in line {} has no {close}", self.line()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewrites_the_notation() {
        for (ebnf, lark) in [
            ("root ::= \"a\" word | [0-9]+", "\nstart: \"a\" r_word | /[0-9]/+"),
            ("root ::= a-b # why\na-b ::= \"x\"{2,3}", "\nstart: r_a_b\nr_a_b: \"x\"{2,3}"),
            (
                "root ::= (\"a\"\n  | Word)\n\nWord ::= [^\"/]*",
                "\nstart: (\"a\" | r_word)\nr_word: /[^\"\\/]/*",
            ),
            ("root ::= \"::= \\\"\" .", "\nstart: \"::= \\\"\" /[^\\n]/"),
        ] {
            assert_eq!(to_lark(ebnf).as_deref(), Ok(lark), "{ebnf}");
            assert!(is_ebnf(ebnf));
        }
    }

    #[test]
    fn faults_are_named() {
        for (ebnf, error) in [
            ("root ::= \"a", "EBNF: the \" in line 1 has no \""),
            ("root ::= \"a\"\nb ::= [a", "EBNF: the [ in line 2 has no ]"),
            ("root ::= \"a\" ; b", "EBNF: unexpected ';' in line 1"),
        ] {
            assert_eq!(to_lark(ebnf), Err(error.to_string()), "{ebnf}");
        }
    }
}
