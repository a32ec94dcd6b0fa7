//! JSON that may be one value or a list of them. Used by request types.

use serde::{Deserialize, Deserializer};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Type};
use utoipa::openapi::{RefOr, Schema};

/// `"a"`, `["a", "b"]` or `null` (nothing).
pub fn one_or_many<'de, D: Deserializer<'de>>(de: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a string or a list of strings")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Option::deserialize(de)? {
        None => Vec::new(),
        Some(OneOrMany::One(text)) => vec![text],
        Some(OneOrMany::Many(texts)) => texts,
    })
}

/// What `one_or_many` reads, for /openapi.json.
pub fn one_or_many_schema() -> RefOr<Schema> {
    let string = || ObjectBuilder::new().schema_type(Type::String);
    let either = OneOfBuilder::new().item(string()).item(ArrayBuilder::new().items(string()));
    either.item(ObjectBuilder::new().schema_type(Type::Null)).into()
}
