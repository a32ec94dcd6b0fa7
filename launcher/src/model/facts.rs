//! The two things that the launcher wants to know of a model's configuration. Pure: JSON in.
//!
//! Made by `folder`, read by `checks::model`. Keys that are absent or of another type are "unknown";
//! to judge the configuration as a whole is the shard's work.

use serde_json::Value;

/// What the configuration says, as far as the launcher's checks need it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelFacts {
    /// How many positions the model was made for.
    pub positions: Option<Positions>,
    /// How the weights are quantised; `None` for plain tensors.
    pub quantization: Option<QuantizationFact>,
}

/// The longest sequence that a model was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Positions {
    /// Number of tokens.
    pub limit: u64,
    /// Key of config.json that says so.
    pub field: &'static str,
    /// Whether `rope_scaling` stretches the positions beyond the limit.
    pub extendable: bool,
}

/// A quantisation method and the file that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantizationFact {
    /// `awq`, `gptq`, ...: lower case.
    pub method: String,
    /// File name, for error texts.
    pub source: String,
}

impl ModelFacts {
    /// From config.json and, where they exist, quant_config.json and quantize_config.json.
    pub fn new(config: &Value, quant_files: &[(&str, Value)]) -> Self {
        let in_config = config.get("quantization_config").and_then(|section| method(section, "config.json"));
        let in_files = || quant_files.iter().find_map(|(name, content)| method(content, name));
        Self { positions: positions(config), quantization: in_config.or_else(in_files) }
    }
}

fn positions(config: &Value) -> Option<Positions> {
    let fields = ["max_position_embeddings", "max_seq_len", "n_positions"];
    let (field, limit) = fields.into_iter().find_map(|field| Some((field, config.get(field)?.as_u64()?)))?;
    // Newer files keep base and scaling together.
    let kind =
        config.get("rope_parameters").and_then(|section| section.get("rope_type")).and_then(Value::as_str);
    let extendable = config.get("rope_scaling").is_some_and(Value::is_object)
        || kind.is_some_and(|kind| kind != "default");
    Some(Positions { limit, field, extendable })
}

/// Method named by `quant_method`, else recognised by AutoAWQ's or AutoGPTQ's own keys.
fn method(section: &Value, source: &str) -> Option<QuantizationFact> {
    let section = section.as_object()?;
    let text = |key: &str| section.get(key).and_then(Value::as_str).map(str::to_ascii_lowercase);
    let is_awq = section.contains_key("zero_point")
        || text("version").is_some_and(|version| version.starts_with("gem"));
    let has_bits = section.contains_key("bits") || section.contains_key("w_bit");
    let method = match text("quant_method") {
        Some(method) => method,
        None if is_awq => "awq".to_owned(),
        None if has_bits => "gptq".to_owned(),
        None => return None,
    };
    Some(QuantizationFact { method, source: source.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantisation_methods() {
        let none: &[(&str, Value)] = &[];
        let awq_file = [(
            "quant_config.json",
            json!({"zero_point": true, "q_group_size": 128, "w_bit": 4, "version": "GEMM"}),
        )];
        let gptq_file = [("quantize_config.json", json!({"bits": 4, "group_size": 128, "desc_act": false}))];
        let cases = [
            (json!({}), none, None),
            (json!({"quantization_config": null}), none, None),
            (json!({"quantization_config": {"quant_method": "awq"}}), none, Some(("awq", "config.json"))),
            (json!({"quantization_config": {"quant_method": "AWQ"}}), none, Some(("awq", "config.json"))),
            (
                json!({"quantization_config": {"quant_method": "gptq"}}),
                &awq_file,
                Some(("gptq", "config.json")),
            ),
            (
                json!({"quantization_config": {"zero_point": true, "bits": 4}}),
                none,
                Some(("awq", "config.json")),
            ),
            (json!({}), &awq_file, Some(("awq", "quant_config.json"))),
            (json!({}), &gptq_file, Some(("gptq", "quantize_config.json"))),
            (json!([]), none, None),
        ];
        for (config, files, expected) in cases {
            let found = ModelFacts::new(&config, files).quantization;
            let found = found.as_ref().map(|fact| (fact.method.as_str(), fact.source.as_str()));
            assert_eq!(found, expected, "{config}");
        }
    }

    #[test]
    fn position_limits() {
        let cases = [
            (json!({"max_position_embeddings": 8192, "rope_scaling": null}), Some((8192, false))),
            (json!({"max_position_embeddings": 8192, "use_dynamic_ntk": true}), Some((8192, false))),
            (
                json!({"max_position_embeddings": 32768, "rope_scaling": {"type": "yarn"}}),
                Some((32768, true)),
            ),
            (
                json!({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "linear", "factor": 2}}),
                Some((4096, true)),
            ),
            (
                json!({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "default"}}),
                Some((4096, false)),
            ),
            (json!({"n_positions": 1024}), Some((1024, false))),
            (json!({"max_position_embeddings": "many"}), None),
            (json!({}), None),
        ];
        for (config, expected) in cases {
            let found = ModelFacts::new(&config, &[]).positions;
            assert_eq!(found.map(|found| (found.limit, found.extendable)), expected, "{config}");
        }
    }
}
