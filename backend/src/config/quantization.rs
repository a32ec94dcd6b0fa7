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
    bits: Option<(&'static str, Value)>,
    group_size: Option<(&'static str, Value)>,
    zero_point: bool,
    /// Lower case; `gemm` if not given, as AutoAWQ does.
    version: String,
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
    if let (Some(first), Some(second)) = (&in_config, &in_file) {
        check_agreement(first, second)?;
    }
    let found = match (in_config, in_file) {
        (Some(mut first), second) => {
            if first.not_converted.is_empty() {
                first.not_converted = second.map(|file| file.not_converted).unwrap_or_default();
            }
            Some(first)
        }
        (None, second) => second,
    };
    check_asked(dir, found.as_ref(), asked)?;
    found.map_or(Ok(Quantization::None), |described| checked(&described))
}

fn describe(fields: Fields, default_method: Option<&str>) -> Result<Described, LoadError> {
    let owned = |found: Option<(&'static str, &Value)>| found.map(|(key, value)| (key, value.clone()));
    let version_key = fields.either(["version", "format"])?.map(|(key, _)| key);
    let version = version_key.map(|key| fields.text(key)).transpose()?.flatten().map(str::to_lowercase);
    // A section without a method can only be AutoAWQ's if it has AutoAWQ's own key.
    let implied = default_method.or(fields.get("w_bit").map(|_| "awq"));
    let method = fields.text("quant_method")?.or(implied).map(str::to_lowercase);
    let method = method.ok_or_else(|| fields.error("quant_method", "missing; expected \"awq\""))?;
    Ok(Described {
        method,
        bits: owned(fields.either(["bits", "w_bit"])?),
        group_size: owned(fields.either(["group_size", "q_group_size"])?),
        zero_point: fields.flag_or("zero_point", true)?,
        version: version.unwrap_or_else(|| "gemm".to_owned()),
        not_converted: fields.texts("modules_to_not_convert")?,
        fields,
    })
}

/// Compares what config.json (`first`) and quant_config.json (`second`) say.
fn check_agreement(first: &Described, second: &Described) -> Result<(), LoadError> {
    let number = |found: &Option<(&'static str, Value)>| {
        found.as_ref().map_or_else(|| "nothing".to_owned(), |(_, value)| shown(value))
    };
    let lists = |described: &Described| format!("{:?}", described.not_converted);
    let one_list = first.not_converted.is_empty() || second.not_converted.is_empty();
    let facts = [
        ("method", first.method.clone(), second.method.clone()),
        ("bits", number(&first.bits), number(&second.bits)),
        ("group size", number(&first.group_size), number(&second.group_size)),
        ("zero_point", first.zero_point.to_string(), second.zero_point.to_string()),
        ("version", first.version.clone(), second.version.clone()),
        ("modules_to_not_convert", lists(first), if one_list { lists(first) } else { lists(second) }),
    ];
    match facts.into_iter().find(|(_, one, other)| one != other) {
        None => Ok(()),
        Some((what, one, other)) => Err(second.fields.error(
            what,
            format_args!("{other} contradicts `quantization_config` of config.json, which says {one}; correct one of them"),
        )),
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

fn checked(described: &Described) -> Result<Quantization, LoadError> {
    let Described { fields, method, version, .. } = described;
    if method != "awq" {
        let detail = format!(
            "{method:?} is not supported; give an AWQ (\"awq\", 4 bits) or an unquantized checkpoint"
        );
        return Err(fields.unsupported("quant_method", detail));
    }
    if version != "gemm" {
        let detail = format!("{version:?} is not supported; only the layout \"gemm\" is, requantize with it");
        return Err(fields.unsupported("version", detail));
    }
    if !described.zero_point {
        return Err(fields.unsupported("zero_point", "false is not supported; expected true"));
    }
    one_of(fields, "bits", described.bits.as_ref(), &[4])?;
    let group_size = one_of(fields, "group_size", described.group_size.as_ref(), &GROUP_SIZES)?;
    Ok(Quantization::Awq { group_size: group_size as usize, not_converted: described.not_converted.clone() })
}

fn one_of(
    fields: &Fields,
    name: &'static str,
    found: Option<&(&'static str, Value)>,
    allowed: &[u64],
) -> Result<u64, LoadError> {
    let Some((key, value)) = found else {
        return Err(fields.error(name, format_args!("missing; expected one of {allowed:?}")));
    };
    value.as_u64().filter(|number| allowed.contains(number)).ok_or_else(|| {
        fields.unsupported(key, format_args!("expected one of {allowed:?}, got {}", shown(value)))
    })
}
