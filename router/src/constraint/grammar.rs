//! A specification as a grammar of llguidance. Pure; called by the compiler.

use llguidance::api::TopLevelGrammar;
use llguidance::regex_to_lark;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{ConstraintSpec, ebnf, json_schema};

/// Longest specification, in bytes of its text.
pub const MAX_BYTES: usize = 256 << 10;
/// Most texts to choose from.
const MAX_CHOICES: usize = 10_000;
/// Between two symbols of JSON: nothing, a space, or a new line and an indentation. Without a bound a model
/// may go on with white space for ever.
const JSON_WHITESPACE: &str = r"\x20|\n\x20{0,20}";

/// Names a specification.
pub fn digest(spec: &ConstraintSpec) -> [u8; 32] {
    let (kind, text) = match spec {
        ConstraintSpec::JsonObject => ("object", String::new()),
        ConstraintSpec::JsonSchema(schema) => ("schema", schema.to_string()),
        ConstraintSpec::Regex(regex) => ("regex", regex.clone()),
        ConstraintSpec::Lark(lark) => ("lark", lark.clone()),
        ConstraintSpec::Choice(choices) => ("choice", json!(choices).to_string()),
    };
    Sha256::new().chain_update(kind).chain_update([0]).chain_update(text).finalize().into()
}

/// # Errors
/// What is too long, empty, or no JSON schema.
pub fn grammar(spec: ConstraintSpec) -> Result<TopLevelGrammar, String> {
    match spec {
        ConstraintSpec::JsonObject => schema(json!({"type": "object"})),
        ConstraintSpec::JsonSchema(value) => {
            check_length("JSON schema", value.to_string().len())?;
            schema(value)
        }
        ConstraintSpec::Regex(regex) => {
            check_length("regular expression", regex.len())?;
            Ok(whole(unanchored(&regex)))
        }
        ConstraintSpec::Lark(text) => {
            check_length("grammar", text.len())?;
            let lark = if ebnf::is_ebnf(&text) { ebnf::to_lark(&text)? } else { text };
            Ok(TopLevelGrammar::from_lark(lark))
        }
        ConstraintSpec::Choice(choices) => choice(&choices),
    }
}

fn check_length(what: &str, n_bytes: usize) -> Result<(), String> {
    match n_bytes <= MAX_BYTES {
        true => Ok(()),
        false => Err(format!("a {what} may have at most {MAX_BYTES} bytes. Given: {n_bytes}")),
    }
}

fn schema(mut schema: Value) -> Result<TopLevelGrammar, String> {
    // A schema that is `true` stands for any JSON, as the empty one does.
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    json_schema::close(&mut schema);
    let Some(object) = schema.as_object_mut() else {
        return Err("a JSON schema is an object".into());
    };
    object.entry("x-guidance").or_insert_with(|| json!({"whitespace_pattern": JSON_WHITESPACE}));
    Ok(TopLevelGrammar::from_json_schema(schema))
}

/// A regular expression that the whole text matches. `\d` and `\w` are ASCII's: so are they in all dialects.
fn whole(regex: &str) -> TopLevelGrammar {
    TopLevelGrammar::from_lark(format!("start: /{}/", regex_to_lark(regex, "dw")))
}

/// Without `^` at the beginning and `$` at the end, which say what holds anyway. They stay where they belong
/// to one of several alternatives.
fn unanchored(regex: &str) -> &str {
    let inner = regex.strip_prefix('^').unwrap_or(regex);
    let inner = match inner.strip_suffix('$') {
        Some(rest) if rest.bytes().rev().take_while(|&b| b == b'\\').count() % 2 == 0 => rest,
        _ => inner,
    };
    if has_alternatives(inner) { regex } else { inner }
}

/// Whether there is a `|` outside of all parentheses and classes.
fn has_alternatives(regex: &str) -> bool {
    let (mut depth, mut in_class, mut escaped) = (0i32, false, false);
    for c in regex.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ']' => in_class = false,
            _ if in_class => {}
            '[' => in_class = true,
            '(' => depth += 1,
            ')' => depth -= 1,
            '|' if depth == 0 => return true,
            _ => {}
        }
    }
    false
}

fn choice(choices: &[String]) -> Result<TopLevelGrammar, String> {
    if choices.is_empty() || choices.len() > MAX_CHOICES {
        return Err(format!("a choice has 1 to {MAX_CHOICES} texts. Given: {}", choices.len()));
    }
    check_length("choice", choices.iter().map(String::len).sum())?;
    let escaped: Vec<String> = choices.iter().map(|text| text.chars().map(escape).collect()).collect();
    Ok(whole(&format!("({})", escaped.join("|"))))
}

/// A character as a regular expression for itself.
fn escape(c: char) -> String {
    if c.is_ascii_alphanumeric() || c == ' ' { c.to_string() } else { format!("\\x{{{:x}}}", u32::from(c)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_that_say_nothing_are_dropped() {
        for (regex, expected) in [
            ("^a+$", "a+"),
            ("^(a|b)$", "(a|b)"),
            ("[|]$", "[|]"),
            ("a$", "a"),
            ("^a|b$", "^a|b$"),
            (r"^a\$", r"a\$"),
            (r"^a\\$", r"a\\"),
            ("", ""),
        ] {
            assert_eq!(unanchored(regex), expected, "{regex}");
        }
    }

    #[test]
    fn what_is_not_worth_compiling() {
        let long = "a".repeat(MAX_BYTES + 1);
        for (spec, expected) in [
            (ConstraintSpec::Choice(vec![]), "a choice has 1 to 10000 texts. Given: 0"),
            (
                ConstraintSpec::Choice(vec![String::new(); 10_001]),
                "a choice has 1 to 10000 texts. Given: 10001",
            ),
            (ConstraintSpec::JsonSchema(json!(false)), "a JSON schema is an object"),
            (
                ConstraintSpec::Regex(long.clone()),
                "a regular expression may have at most 262144 bytes. Given: 262145",
            ),
            (ConstraintSpec::Lark(long.clone()), "a grammar may have at most 262144 bytes. Given: 262145"),
            (ConstraintSpec::JsonSchema(json!({"title": long})), "a JSON schema may have at most"),
        ] {
            let error = grammar(spec).expect_err("it is refused");
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
