//! `logit_bias`: token ids and what is added to their logits, as JSON has it.
//!
//! Read by request types; ranges are checked by `validation`, which knows the vocabulary.

use std::collections::BTreeMap;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// `{"50256": -100}`, by ascending id. TGI's clients send a list of numbers, which TGI never read: here, too,
/// it changes nothing.
pub fn logit_bias<'de, D: Deserializer<'de>>(de: D) -> Result<Vec<(u32, f32)>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "an object of token ids and numbers")]
    enum Bias {
        ByToken(BTreeMap<String, f32>),
        Unused(#[allow(dead_code)] Vec<f32>),
    }
    let Some(Bias::ByToken(map)) = Option::deserialize(de)? else { return Ok(Vec::new()) };
    let entry = |(id, bias): (String, f32)| match id.parse() {
        Ok(id) => Ok((id, bias)),
        Err(_) => Err(D::Error::custom(format!("`logit_bias` keys must be token ids. Given: {id:?}"))),
    };
    let mut biases = map.into_iter().map(entry).collect::<Result<Vec<(u32, f32)>, _>>()?;
    biases.sort_unstable_by_key(|(id, _)| *id);
    Ok(biases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Outer {
        #[serde(flatten)]
        inner: Inner,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        #[serde(default, deserialize_with = "logit_bias")]
        logit_bias: Vec<(u32, f32)>,
    }

    #[test]
    fn an_object_by_token_id() {
        let read = |json: &str| serde_json::from_str::<Outer>(json).map(|outer| outer.inner.logit_bias);
        for (json, expected) in [
            ("{}", vec![]),
            (r#"{"logit_bias": null}"#, vec![]),
            (r#"{"logit_bias": {}}"#, vec![]),
            (r#"{"logit_bias": {"10": -100, "9": 0.5}}"#, vec![(9, 0.5), (10, -100.0)]),
            (r#"{"logit_bias": []}"#, vec![]),
            (r#"{"logit_bias": [0.5, 1]}"#, vec![]),
        ] {
            assert_eq!(read(json).unwrap(), expected, "{json}");
        }
        for (json, expected) in [
            (r#"{"logit_bias": {"the": 1}}"#, "`logit_bias` keys must be token ids. Given: \"the\""),
            (r#"{"logit_bias": {"-1": 1}}"#, "`logit_bias` keys must be token ids. Given: \"-1\""),
            (r#"{"logit_bias": {"1": "x"}}"#, "an object of token ids and numbers"),
            (r#"{"logit_bias": 3}"#, "an object of token ids and numbers"),
        ] {
            let error = read(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
