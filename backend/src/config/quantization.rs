//! How a checkpoint's linear layers are stored, from `quantization_config` of config.json or from
//! quant_config.json, and whether that is what `--quantize` asked for.
//!
//! Called by `ModelConfig::from_dir`. Never guesses: a layout that would be misread is refused.

use std::path::Path;

use serde_json::Value;

use super::Quantization;
use super::fields::{Fields, shown};
use crate::error::LoadError;

const GROUP_SIZES: [u64; 3] = [32, 64, 128];

/// One file's description, still unchecked, so that two files can be compared first.
struct Described {
    fields: Fields,
    method: String,
    bits: Option<Value>,
    group_size: Option<Value>,
    zero_point: Option<bool>,
    /// Lower case.
    version: Option<String>,
    not_converted: Vec<String>,
}

/// The quantization of the checkpoint in `dir`, whose config.json is `config`; `asked` is `--quantize`.
pub(super) fn read(dir: &Path, config: &Fields, asked: Option<&str>) -> Result<Quantization, LoadError> {
    let in_config =
        config.section("quantization_config")?.map(|fields| describe(fields, None)).transpose()?;
    let path = dir.join("quant_config.json");
    let in_file = match path.exists() {
        true => Some(describe(Fields::read(&path)?, Some("awq"))?),
        false => None,
    };
    let found = match (in_config, in_file) {
        (Some(first), Some(second)) => Some(merge(first, second)?),
        (first, second) => first.or(second),
    };
    let quantization = found.as_ref().map_or(Ok(Quantization::None), checked)?;
    check_asked(dir, found.as_ref(), asked)?;
    Ok(quantization)
}

fn describe(fields: Fields, default_method: Option<&str>) -> Result<Described, LoadError> {
    let value = |keys| Ok::<_, LoadError>(fields.either(keys)?.map(|(_, value)| value.clone()));
    let version_key = fields.either(["version", "format"])?.map(|(key, _)| key);
    let version = version_key.map(|key| fields.text(key)).transpose()?.flatten();
    // A section without a method can only be AutoAWQ's if it has AutoAWQ's own key.
    let implied = default_method.or(fields.get("w_bit").map(|_| "awq"));
    let method = fields.text("quant_method")?.or(implied);
    Ok(Described {
        method: method
            .ok_or_else(|| fields.error("quant_method", "missing; expected \"awq\""))?
            .to_lowercase(),
        bits: value(["bits", "w_bit"])?,
        group_size: value(["group_size", "q_group_size"])?,
        zero_point: fields.flag("zero_point")?,
        version: version.map(str::to_lowercase),
        not_converted: fields.texts("modules_to_not_convert")?,
        fields,
    })
}

/// Joins what config.json (`first`) and quant_config.json (`second`) say, each of which may be silent.
fn merge(first: Described, second: Described) -> Result<Described, LoadError> {
    let from = &second.fields;
    let lists =
        [first.not_converted, second.not_converted].map(|list| Some(list).filter(|list| !list.is_empty()));
    let [first_list, second_list] = lists;
    agreed(from, "quant_method", Some(&first.method), Some(&second.method))?;
    Ok(Described {
        method: first.method,
        bits: agreed(from, "bits", first.bits, second.bits)?,
        group_size: agreed(from, "group_size", first.group_size, second.group_size)?,
        zero_point: agreed(from, "zero_point", first.zero_point, second.zero_point)?,
        version: agreed(from, "version", first.version, second.version)?,
        not_converted: agreed(from, "modules_to_not_convert", first_list, second_list)?.unwrap_or_default(),
        fields: first.fields,
    })
}

/// The one value that either file gives; `from` is the second.
fn agreed<T: PartialEq + serde::Serialize>(
    from: &Fields,
    key: &str,
    first: Option<T>,
    second: Option<T>,
) -> Result<Option<T>, LoadError> {
    match (first, second) {
        (Some(first), Some(second)) if first != second => {
            let [first, second] = [first, second].map(|value| shown(&serde_json::json!(value)));
            Err(from.error(
                key,
                format_args!(
                    "{second} contradicts `quantization_config` of config.json, which says {first}; correct one"
                ),
            ))
        }
        (first, second) => Ok(first.or(second)),
    }
}

/// `--quantize` may only confirm what the checkpoint is.
fn check_asked(dir: &Path, found: Option<&Described>, asked: Option<&str>) -> Result<(), LoadError> {
    let Some(asked) = asked else { return Ok(()) };
    let dir = dir.display();
    let message = match found {
        Some(described) if described.method == asked => return Ok(()),
        Some(Described { method, fields, .. }) => format!(
            "{dir}: --quantize {asked} was asked for, but the checkpoint is {method} ({}); \
             leave --quantize out or pass --quantize {method}",
            fields.file_name()
        ),
        None if asked == "awq" => format!(
            "{dir}: --quantize awq was asked for, but the checkpoint is not quantized (neither \
             `quantization_config` in config.json nor quant_config.json); leave --quantize out to serve it \
             as it is, or give an AWQ checkpoint"
        ),
        None => format!(
            "{dir}: --quantize {asked} was asked for, but the checkpoint is not quantized, and only awq \
             checkpoints are served; leave --quantize out"
        ),
    };
    Err(LoadError::Unsupported(message))
}

/// Refuses everything but 4-bit AWQ "gemm" with zero points. Where a file is silent about the version
/// or zero points, AutoAWQ's defaults hold.
fn checked(described: &Described) -> Result<Quantization, LoadError> {
    let Described { fields, method, .. } = described;
    if method != "awq" {
        let detail = format!(
            "{method:?} is not supported; give an AWQ (\"awq\", 4 bits) or an unquantized checkpoint"
        );
        return Err(fields.unsupported("quant_method", detail));
    }
    if let Some(version) = described.version.as_ref().filter(|version| *version != "gemm") {
        let detail = format!("{version:?} is not supported; only the layout \"gemm\" is, requantize with it");
        return Err(fields.unsupported("version", detail));
    }
    if described.zero_point == Some(false) {
        return Err(fields.unsupported("zero_point", "false is not supported; expected true"));
    }
    one_of(fields, "bits", described.bits.as_ref(), &[4])?;
    let group_size = one_of(fields, "group_size", described.group_size.as_ref(), &GROUP_SIZES)?;
    Ok(Quantization::Awq { group_size: group_size as usize, not_converted: described.not_converted.clone() })
}

fn one_of(fields: &Fields, key: &str, found: Option<&Value>, allowed: &[u64]) -> Result<u64, LoadError> {
    let Some(value) = found else {
        return Err(fields.error(key, format_args!("missing; expected one of {allowed:?}")));
    };
    let number = value.as_u64().filter(|number| allowed.contains(number));
    number.ok_or_else(|| {
        fields.unsupported(key, format_args!("expected one of {allowed:?}, got {}", shown(value)))
    })
}
