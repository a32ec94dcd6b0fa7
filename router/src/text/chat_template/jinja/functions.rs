//! What chat templates may call beyond Jinja: `raise_exception`, `strftime_now`, `tojson`.
//!
//! Registered by `jinja`. All pure: the time is an argument.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// Wider indents than any template asks for would let one filter write gigabytes.
const MAX_INDENT: usize = 16;

/// The message of a template's `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Raised(String);

/// `raise_exception(message)`: the conversation is not one the model was trained on.
pub fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// `strftime_now(format)`: Python's strftime of `now`, in UTC.
pub fn strftime(format: &str, now: SystemTime) -> Result<String, Error> {
    let bad =
        |e: jiff::Error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {e}"));
    let now = Timestamp::try_from(now).map_err(bad)?.to_zoned(TimeZone::UTC);
    jiff::fmt::strtime::format(format, &now).map_err(bad)
}

/// `tojson(indent=...)`: Python's `json.dumps(ensure_ascii=False)`, not the web-safe form of Jinja.
pub fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // transformers takes these too; non-ASCII stays as it is, order as it came.
    let _: (Option<bool>, Option<bool>) = (options.get("ensure_ascii")?, options.get("sort_keys")?);
    options.assert_all_used()?;
    let text = match indent {
        None => serialise(value, PythonFormatter),
        Some(n) if n <= MAX_INDENT => serialise(value, PrettyFormatter::with_indent(&b" ".repeat(n))),
        Some(n) => {
            let message = format!("tojson: indent {n}, expected at most {MAX_INDENT}");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
    };
    text.map(Value::from_safe_string)
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("tojson: {e}")))
}

/// JSON with the spaces that Python writes, which models know best.
pub fn python_json(value: &serde_json::Value) -> String {
    serialise(value, PythonFormatter).unwrap_or_default() // a JSON value always serialises
}

fn serialise(value: &impl Serialize, formatter: impl Formatter) -> Result<String, serde_json::Error> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Python's separators: `", "` and `": "`.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        self.begin_array_value(w, first)
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        w.write_all(b": ")
    }
}
