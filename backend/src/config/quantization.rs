//! How a checkpoint's linear layers are stored, from `quantization_config` of config.json, quant_config.json (AutoAWQ)
//! or quantize_config.json (AutoGPTQ), and whether that is what `--quantize` asked for.
//!
//! Called by `ModelConfig::from_dir`. Never guesses: a layout that would be misread is refused.

use std::path::Path;

use serde_json::Value;

use super::fields::{Fields, shown};
use super::{AwqLayout, GptqFormat, Quantization};
use crate::error::LoadError;

const GROUP_SIZES: [u64; 3] = [32, 64, 128];
/// Groups of AutoGPTQ are whole groups of the kernels.
const GPTQ_GROUP_MULTIPLE: u64 = 32;
const AWQ_LAYOUTS: [(&str, AwqLayout); 3] =
    [("gemm", AwqLayout::Gemm), ("gemv", AwqLayout::Gemv), ("gemv_fast", AwqLayout::GemvFast)];
/// What writes quantization files of its own, and what method they are of.
const FILES: [(&str, &str); 2] = [("quant_config.json", "awq"), ("quantize_config.json", "gptq")];

/// One file's description, still unchecked, so that two files can be compared first.
struct Described {
    fields: Fields,
    method: String,
    bits: Option<Value>,
    group_size: Option<Value>,
    zero_point: Option<bool>,
    /// AutoAWQ's `version`, AutoGPTQ's `checkpoint_format`; lower case.
    version: Option<String>,
    desc_act: Option<bool>,
    not_converted: Vec<String>,
}

/// The quantization of the checkpoint in `dir`, whose config.json is `config`; `asked` is `--quantize`.
pub(super) fn read(dir: &Path, config: &Fields, asked: Option<&str>) -> Result<Quantization, LoadError> {
    let in_config =
        config.section("quantization_config")?.map(|fields| describe(fields, None)).transpose()?;
    let mut found = in_config;
    for (name, method) in FILES {
        let path = dir.join(name);
        let in_file = path.exists().then(|| describe(Fields::read(&path)?, Some(method))).transpose()?;
        found = match (found, in_file) {
            (Some(first), Some(second)) => Some(merge(first, second)?),
            (first, second) => first.or(second),
        };
    }
    let quantization = found.as_ref().map_or(Ok(Quantization::None), checked)?;
    check_asked(dir, found.as_ref(), asked)?;
    Ok(quantization)
}

fn describe(fields: Fields, default_method: Option<&str>) -> Result<Described, LoadError> {
    let value = |keys| Ok::<_, LoadError>(fields.either(keys)?.map(|(_, value)| value.clone()));
    // A section without a method can only be one's that has a key of its own.
    let implied =
        default_method.or(fields.get("w_bit").map(|_| "awq")).or(fields.get("desc_act").map(|_| "gptq"));
    let method = fields.text("quant_method")?.or(implied);
    let method = method
        .ok_or_else(|| fields.error("quant_method", "missing; expected \"awq\" or \"gptq\""))?
        .to_lowercase();
    let version_keys = if method == "gptq" { ["checkpoint_format", "format"] } else { ["version", "format"] };
    let version_key = fields.either(version_keys)?.map(|(key, _)| key);
    let version = version_key.map(|key| fields.text(key)).transpose()?.flatten();
    Ok(Described {
        method,
        bits: value(["bits", "w_bit"])?,
        group_size: value(["group_size", "q_group_size"])?,
        zero_point: fields.flag("zero_point")?,
        version: version.map(str::to_lowercase),
        desc_act: fields.flag("desc_act")?,
        not_converted: fields.texts("modules_to_not_convert")?,
        fields,
    })
}

/// Joins what config.json (`first`) and a file beside it (`second`) say, each of which may be silent.
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
        desc_act: agreed(from, "desc_act", first.desc_act, second.desc_act)?,
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
        None if ["awq", "gptq"].contains(&asked) => format!(
            "{dir}: --quantize {asked} was asked for, but the checkpoint is not quantized (neither \
             `quantization_config` in config.json nor quant_config.json nor quantize_config.json); leave \
             --quantize out to serve it as it is, or give a quantized checkpoint"
        ),
        None => format!(
            "{dir}: --quantize {asked} was asked for, but the checkpoint is not quantized, and only awq \
             and gptq checkpoints are served; leave --quantize out"
        ),
    };
    Err(LoadError::Unsupported(message))
}

/// Refuses everything that the weights' readers do not know.
fn checked(described: &Described) -> Result<Quantization, LoadError> {
    match described.method.as_str() {
        "awq" => awq(described),
        "gptq" => gptq(described).map(Quantization::Gptq),
        other => {
            let detail = format!(
                "{other:?} is not supported; give an AWQ (\"awq\"), a GPTQ (\"gptq\") or an unquantized checkpoint"
            );
            Err(described.fields.unsupported("quant_method", detail))
        }
    }
}

/// 4 bits with zero points. Where a file is silent about the version or zero points, AutoAWQ's defaults hold.
fn awq(described: &Described) -> Result<Quantization, LoadError> {
    let fields = &described.fields;
    let version = described.version.as_deref().unwrap_or("gemm");
    let Some((_, layout)) = AWQ_LAYOUTS.into_iter().find(|(name, _)| *name == version) else {
        let names = AWQ_LAYOUTS.map(|(name, _)| name);
        return Err(fields.unsupported("version", format!("expected one of {names:?}, got {version:?}")));
    };
    if described.zero_point == Some(false) {
        return Err(fields.unsupported("zero_point", "false is not supported; expected true"));
    }
    one_of(fields, "bits", described.bits.as_ref(), &[4])?;
    let group_size = one_of(fields, "group_size", described.group_size.as_ref(), &GROUP_SIZES)? as usize;
    Ok(Quantization::Awq { layout, group_size, not_converted: described.not_converted.clone() })
}

/// Symmetric or not: zero points are stored either way. Where a file is silent, AutoGPTQ's defaults hold.
fn gptq(described: &Described) -> Result<GptqFormat, LoadError> {
    let fields = &described.fields;
    let zeros_minus_one = match described.version.as_deref() {
        None | Some("gptq") => true,
        Some("gptq_v2") => false,
        Some(other) => {
            let detail = format!("expected \"gptq\" or \"gptq_v2\", got {other:?}");
            return Err(fields.unsupported("checkpoint_format", detail));
        }
    };
    if fields.flag_or("is_marlin_format", false)? {
        return Err(fields.unsupported("is_marlin_format", "true is not supported; expected false"));
    }
    let bits = one_of(fields, "bits", described.bits.as_ref(), &[4, 8])? as u8;
    Ok(GptqFormat {
        bits,
        group_size: gptq_group(fields, described.group_size.as_ref())?,
        desc_act: described.desc_act.unwrap_or(false),
        zeros_minus_one,
        not_converted: described.not_converted.clone(),
    })
}

/// A number of input features, or `None` for -1: all of them.
fn gptq_group(fields: &Fields, found: Option<&Value>) -> Result<Option<usize>, LoadError> {
    let expected = format!("expected -1 or a multiple of {GPTQ_GROUP_MULTIPLE}");
    let Some(value) = found else {
        return Err(fields.error("group_size", format_args!("missing; {expected}")));
    };
    if value.as_i64() == Some(-1) {
        return Ok(None);
    }
    let size = value.as_u64().filter(|size| *size > 0 && size.is_multiple_of(GPTQ_GROUP_MULTIPLE));
    let size = size.and_then(|size| usize::try_from(size).ok());
    size.map(Some)
        .ok_or_else(|| fields.unsupported("group_size", format_args!("{expected}, got {}", shown(value))))
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
