//! Reads the JSON of one tag, or of an answer without tags: `{"name": ..., "arguments": {...}}`, or a list of such, as it
//! is written. Pure.
//!
//! Used by `hermes`. Arguments are sent on as they come once the name is known; `parameters` is another name
//! of theirs. A name that is no function's, or arguments that are no object, make it no call.

use super::json::{Scan, ValueScanner};
use super::sink::Sink;

/// After one more character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    More,
    /// All is read; what follows is outside.
    Ended,
    /// This is no call. What was sent of it stays sent.
    Broken,
}

/// Reader of what follows one opening tag, or of a call without one.
#[derive(Debug, Default)]
pub struct CallReader {
    raw: String,
    /// No tag says that this is a call: every key and the arguments must.
    bare: bool,
    in_list: bool,
    n_begun: usize,
    place: Place,
    name: Option<String>,
    /// Arguments that came before the name.
    arguments: Option<String>,
    /// This object's call was sent.
    begun: bool,
}

#[derive(Debug, Default)]
enum Place {
    /// Before the object, or before the list.
    #[default]
    Start,
    /// Before a key or the object's end.
    Member,
    Key(Value),
    Colon(Key),
    BeforeValue(Key),
    Value(Key, Value),
    AfterValue,
    /// In a list, after an object.
    AfterObject,
}

/// A key or value under way.
#[derive(Debug, Default)]
struct Value {
    scanner: ValueScanner,
    text: String,
    /// Its characters are sent on and not kept.
    streamed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Name,
    Arguments,
    Other,
}

impl CallReader {
    /// A reader of a call without tags.
    pub fn bare() -> Self {
        Self { bare: true, ..Self::default() }
    }

    pub fn is_bare(&self) -> bool {
        self.bare
    }

    /// Everything read so far.
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// How many calls were sent, the unfinished one included.
    pub fn n_begun(&self) -> usize {
        self.n_begun
    }

    /// Takes the next character; not to be called after `Ended` or `Broken`.
    pub fn push(&mut self, c: char, names: &[String], sink: &mut Sink) -> Progress {
        if self.n_begun == 0 {
            self.raw.push(c);
        }
        self.step(c, names, sink).unwrap_or(Progress::Broken)
    }

    /// `None`: broken.
    fn step(&mut self, c: char, names: &[String], sink: &mut Sink) -> Option<Progress> {
        if let Place::Key(_) | Place::Value(..) = self.place {
            return self.value(c, names, sink);
        }
        if c.is_whitespace() {
            return Some(Progress::More);
        }
        self.place = match (&self.place, c) {
            (Place::Start, '[') if !self.in_list => {
                self.in_list = true;
                Place::Start
            }
            (Place::Start, '{') => Place::Member,
            (Place::Member, '"') => {
                self.place = Place::Key(Value::default());
                return self.value(c, names, sink);
            }
            (Place::Colon(key), ':') => Place::BeforeValue(*key),
            (Place::BeforeValue(key), _) => {
                self.place = Place::Value(*key, self.begin_value(*key, c, sink));
                return self.value(c, names, sink);
            }
            (Place::AfterValue, ',') => Place::Member,
            (Place::Member | Place::AfterValue, '}') => return self.end_object(sink),
            (Place::AfterObject, ',') => Place::Start,
            (Place::AfterObject, ']') => return Some(Progress::Ended),
            _ => return None,
        };
        Some(Progress::More)
    }

    /// A value whose first character is `c`: arguments of a known function are streamed.
    fn begin_value(&mut self, key: Key, c: char, sink: &mut Sink) -> Value {
        let streamed = key == Key::Arguments && c == '{' && self.name.is_some() && !self.begun;
        if streamed {
            self.begin_call(sink);
        }
        Value { streamed, ..Value::default() }
    }

    fn value(&mut self, c: char, names: &[String], sink: &mut Sink) -> Option<Progress> {
        let (Place::Key(value) | Place::Value(_, value)) = &mut self.place else { return None };
        let scan = value.scanner.push(c);
        if matches!(scan, Scan::Inside | Scan::Last) {
            match value.streamed {
                true => sink.arguments(c.encode_utf8(&mut [0; 4])),
                false => value.text.push(c),
            }
        }
        match scan {
            Scan::Inside => return Some(Progress::More),
            Scan::Bad => return None,
            Scan::Last | Scan::After => {}
        }
        self.place = match std::mem::take(&mut self.place) {
            Place::Key(value) => Place::Colon(Key::of(&value.text, self.bare)?),
            Place::Value(key, value) => {
                self.end_value(key, &value, names, sink)?;
                Place::AfterValue
            }
            _ => return None,
        };
        if scan == Scan::After { self.step(c, names, sink) } else { Some(Progress::More) }
    }

    fn end_value(&mut self, key: Key, value: &Value, names: &[String], sink: &mut Sink) -> Option<()> {
        if self.begun {
            return Some(());
        }
        match key {
            Key::Other => return Some(()),
            Key::Arguments => self.arguments = Some(object_text(&value.text)?),
            Key::Name => {
                let name: String = serde_json::from_str(&value.text).ok()?;
                self.name = Some(names.iter().find(|known| **known == name)?.clone());
            }
        }
        if self.name.is_some() && self.arguments.is_some() {
            self.begin_call(sink);
        }
        Some(())
    }

    /// Sends the name, and the arguments if they are there already.
    fn begin_call(&mut self, sink: &mut Sink) {
        self.begun = true;
        self.n_begun += 1;
        sink.call(self.name.as_deref().unwrap_or_default());
        sink.arguments(&self.arguments.take().unwrap_or_default());
    }

    /// A tagged call without arguments has none: `{}`.
    fn end_object(&mut self, sink: &mut Sink) -> Option<Progress> {
        if !self.begun {
            self.name.as_ref().filter(|_| !self.bare)?;
            self.arguments = Some("{}".into());
            self.begin_call(sink);
        }
        (self.name, self.arguments, self.begun) = (None, None, false);
        self.place = Place::AfterObject;
        Some(if self.in_list { Progress::More } else { Progress::Ended })
    }
}

impl Key {
    /// `None`: no call has it. Without tags that is every key which calls do not usually have.
    fn of(text: &str, bare: bool) -> Option<Self> {
        let key: String = serde_json::from_str(text).ok()?;
        match key.as_str() {
            "name" => Some(Self::Name),
            "arguments" | "parameters" => Some(Self::Arguments),
            "id" | "type" => Some(Self::Other),
            _ => (!bare).then_some(Self::Other),
        }
    }
}

/// Arguments as an object: one written into a string is taken out of it, `null` is the empty one.
fn object_text(text: &str) -> Option<String> {
    let inner: String = match text.chars().next()? {
        '{' => return Some(text.to_string()),
        '"' => serde_json::from_str(text).ok()?,
        _ if text == "null" => return Some("{}".into()),
        _ => return None,
    };
    let inner = inner.trim();
    serde_json::from_str::<serde_json::Map<_, _>>(inner).ok()?;
    Some(inner.to_string())
}
