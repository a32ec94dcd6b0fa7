//! Fields of a flattened struct that keep their names in errors. Used by request types.
//!
//! serde forgets the path where a struct is flattened into another one; without its name a client cannot
//! know which of its fields is meant.

use serde::de::{Deserialize, Deserializer, Error};

/// For `#[serde(flatten, deserialize_with = "named")]`.
pub fn named<'de, D: Deserializer<'de>, T: Deserialize<'de>>(de: D) -> Result<T, D::Error> {
    serde_path_to_error::deserialize(de)
        .map_err(|error| D::Error::custom(format!("{}: {}", error.path(), error.inner())))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::named;

    #[derive(Debug, Deserialize)]
    struct Outer {
        #[serde(flatten, deserialize_with = "named")]
        inner: Inner,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        seed: Option<u64>,
        list: Option<Vec<u32>>,
    }

    #[test]
    fn errors_name_the_field() {
        let read = |json: &str| serde_json::from_str::<Outer>(json).map(|outer| outer.inner);
        let inner = read(r#"{"seed": 3, "list": null, "other": {}}"#).unwrap();
        assert_eq!((inner.seed, inner.list), (Some(3), None));
        for (json, expected) in [
            (r#"{"seed": "x"}"#, "seed: invalid type: string \"x\", expected u64"),
            (r#"{"list": [1, -2]}"#, "list[1]: invalid value: integer `-2`, expected u32"),
        ] {
            assert!(read(json).unwrap_err().to_string().starts_with(expected), "{json}");
        }
    }
}
