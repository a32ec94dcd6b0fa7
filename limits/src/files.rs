//! How large the files may be that a model's folder describes itself with. Pure.
//!
//! Called by the launcher, the shard and the router on bytes that nobody has vouched for, before those are parsed: a parsed
//! JSON value takes up to forty times the bytes that it is written in, so a limit of bytes alone does not bound memory.

/// Room for the names of some hundred thousand tensors; the safetensors format itself would allow 100 MB.
pub const MAX_HEADER_BYTES: usize = 32 << 20;
/// An index of 100,000 tensors takes about 10 MB.
pub const MAX_JSON_BYTES: usize = 64 << 20;
/// Of a JSON file or a header, in [`json_values`]; a tensor of a header takes eight. Each takes at most 200 bytes.
pub const MAX_JSON_VALUES: usize = 1 << 20;

/// A JSON file with more values than any of its kind has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected at most {max} JSON values, found {found}; this is no file of a model")]
pub struct TooManyValues {
    pub found: usize,
    pub max: usize,
}

/// At least as many values as `json` has: what begins a list, an object or the next of their members. Those inside of strings
/// count, too.
pub fn json_values(json: &[u8]) -> usize {
    json.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count()
}

/// Refuses `json` with more than `max` values.
///
/// # Errors
/// [`TooManyValues`].
pub fn check_json_values(json: &[u8], max: usize) -> Result<(), TooManyValues> {
    match json_values(json) {
        found if found > max => Err(TooManyValues { found, max }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_before_they_are_parsed() {
        let cases: [(&str, usize); 6] = [
            ("", 0),
            ("7", 0),
            ("[]", 1),
            ("[1,2,3]", 3),
            (r#"{"a":[1,{"b":2}],"c":"x,y"}"#, 6),
            ("[[[[", 4),
        ];
        for (json, values) in cases {
            assert_eq!(json_values(json.as_bytes()), values, "{json}");
            assert_eq!(check_json_values(json.as_bytes(), values), Ok(()), "{json}");
        }
        let error = check_json_values(b"[1,2,3]", 2).unwrap_err();
        assert_eq!(error.to_string(), "expected at most 2 JSON values, found 3; this is no file of a model");
    }
}
