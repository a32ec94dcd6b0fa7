//! Rotary embeddings as config.json describes them: the base, and how each way of stretching a model's positions changes
//! the frequencies. Called by `family`. All of it is arithmetic on a few numbers, done once and in float64.
//!
//! Sources: `modeling_rope_utils.py` of Hugging Face's transformers, of which `factors` are the ratios of its
//! `inv_freq` to the unscaled ones; `modeling_qwen.py` of the original Qwen.

use std::f64::consts::TAU;

use super::fields::{Fields, shown};
use crate::error::LoadError;

/// Positions are stretched at most this much.
const MAX_FACTOR: f64 = 1e4;
pub(super) const MAX_POSITIONS: usize = 1 << 24;

/// Rotary position embedding. Dimension `i` pairs with `i + dim / 2`; at position p their angle is
/// `p theta^(-2i / dim) factors[i]`.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Rotated dimensions of a head, even, <= head_dim.
    pub dim: usize,
    pub theta: f64,
    /// Qwen v1 `use_dynamic_ntk`: `Some(seq_length)`.
    pub ntk_seq_length: Option<usize>,
    /// Scaling of type "dynamic".
    pub dynamic_ntk: Option<DynamicNtk>,
    /// Qwen v1 `use_logn_attn`: `Some(seq_length)`.
    pub logn_seq_length: Option<usize>,
    pub scaling: RopeScaling,
}

/// NTK-aware base for sequences beyond the positions that the model was trained with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DynamicNtk {
    pub factor: f64,
    /// Positions up to which the base stays as it is.
    pub positions: usize,
}

/// What is the same for all sequences.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeScaling {
    /// Of each pair's frequency, `[dim / 2]`; empty: unscaled.
    pub factors: Vec<f64>,
    /// Of cosines and sines: YaRN's attention factor.
    pub attention: f64,
}

impl RopeScaling {
    pub const NONE: RopeScaling = RopeScaling { factors: Vec::new(), attention: 1.0 };

    /// Of the `i`-th pair's frequency.
    pub fn factor(&self, i: usize) -> f64 {
        self.factors.get(i).copied().unwrap_or(1.0)
    }
}

impl RopeConfig {
    /// Without any scaling.
    pub fn plain(dim: usize, theta: f64) -> RopeConfig {
        let scaling = RopeScaling::NONE;
        RopeConfig { dim, theta, ntk_seq_length: None, dynamic_ntk: None, logn_seq_length: None, scaling }
    }
}

/// Llama's and its kin's: the embedding, and how many of the model's `positions` it makes.
pub(super) fn of_llama(
    fields: &Fields,
    head_dim: usize,
    positions: usize,
) -> Result<(RopeConfig, usize), LoadError> {
    // Newer files keep base and scaling together under `rope_parameters`.
    let parameters = fields.section("rope_parameters")?;
    let partial = fields.number_or("partial_rotary_factor", 0.0..=1.0, 1.0)?;
    if partial != 1.0 {
        return Err(fields
            .unsupported("partial_rotary_factor", format_args!("{partial} is not supported; expected 1")));
    }
    let base = parameters.clone().filter(|section| section.get("rope_theta").is_some());
    let theta = base_of(base.as_ref().unwrap_or(fields), "rope_theta")?;
    check_dim(fields, head_dim, 2)?;
    let mut rope = RopeConfig::plain(head_dim, theta);
    let mut stretched = positions;
    for (section, name) in
        [(fields.section("rope_scaling")?, "rope_scaling"), (parameters, "rope_parameters")]
    {
        if let Some(section) = section {
            stretched = scaled(&mut rope, (fields, name), &section, positions)?.max(stretched);
        }
    }
    Ok((rope, stretched.min(MAX_POSITIONS)))
}

/// Applies the scaling of `section`; positions of the model that it makes.
fn scaled(
    rope: &mut RopeConfig,
    (fields, name): (&Fields, &str),
    section: &Fields,
    positions: usize,
) -> Result<usize, LoadError> {
    let kind = section.either(["rope_type", "type"])?;
    let stretched = |factor: f64, from: usize| ((from as f64 * factor) as usize).clamp(1, MAX_POSITIONS);
    match kind.map(|(_, value)| value.as_str().unwrap_or_default()) {
        Some("default") => Ok(positions),
        Some("linear") => {
            let factor = factor_of(section)?;
            rope.scaling.factors = vec![1.0 / factor; rope.dim / 2];
            Ok(stretched(factor, positions))
        }
        Some("dynamic") => {
            check_dim(fields, rope.dim, 4)?;
            let factor = factor_of(section)?;
            rope.dynamic_ntk = Some(DynamicNtk { factor, positions });
            Ok(stretched(factor, positions))
        }
        Some("llama3") => {
            rope.scaling.factors = Llama3::read(section)?.factors(rope);
            Ok(positions)
        }
        Some("yarn") => {
            let yarn = Yarn::read(section, positions)?;
            rope.scaling = RopeScaling { factors: yarn.factors(rope), attention: yarn.attention };
            Ok(positions.max(stretched(yarn.factor, yarn.original)))
        }
        _ => {
            let got = kind.map_or_else(|| "a scaling without a type".to_owned(), |(_, value)| shown(value));
            let known = "\"default\", \"linear\", \"dynamic\", \"llama3\" and \"yarn\"";
            Err(fields.unsupported(name, format_args!("{got} is not supported; {known} are")))
        }
    }
}

fn factor_of(section: &Fields) -> Result<f64, LoadError> {
    match section.get("factor") {
        Some(_) => section.number_or("factor", 1.0..=MAX_FACTOR, 1.0),
        None => {
            Err(section.error("factor", format_args!("missing; expected a number from 1 to {MAX_FACTOR:e}")))
        }
    }
}

/// Wavelength in positions of each pair.
fn wavelengths(rope: &RopeConfig) -> impl Iterator<Item = f64> {
    let (theta, dim) = (rope.theta, rope.dim as f64);
    (0..rope.dim / 2).map(move |i| TAU * theta.powf(2.0 * i as f64 / dim))
}

/// Llama 3: long wavelengths are stretched, short ones stay, those between go from one to the other.
struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    original: f64,
}

impl Llama3 {
    fn read(section: &Fields) -> Result<Llama3, LoadError> {
        let low = section.number_or("low_freq_factor", 1e-3..=1e6, 1.0)?;
        let high = section.number_or("high_freq_factor", 1e-3..=1e6, 4.0)?;
        if high <= low {
            let detail = format!("expected more than low_freq_factor ({low}), got {high}");
            return Err(section.error("high_freq_factor", detail));
        }
        let original = section.size("original_max_position_embeddings", MAX_POSITIONS)? as f64;
        Ok(Llama3 { factor: factor_of(section)?, low, high, original })
    }

    fn factors(&self, rope: &RopeConfig) -> Vec<f64> {
        let factor = |wavelength: f64| {
            let turns = self.original / wavelength;
            let kept = ((turns - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
            (1.0 - kept) / self.factor + kept
        };
        wavelengths(rope).map(factor).collect()
    }
}

/// YaRN (Peng et al., 2023): pairs that turn often within the original positions stay, slow ones are stretched.
struct Yarn {
    factor: f64,
    original: usize,
    fast: f64,
    slow: f64,
    truncate: bool,
    attention: f64,
}

impl Yarn {
    fn read(section: &Fields, positions: usize) -> Result<Yarn, LoadError> {
        let original = section.optional_size("original_max_position_embeddings", MAX_POSITIONS)?;
        let factor = match (section.get("factor"), original) {
            (None, Some(original)) if positions > original => positions as f64 / original as f64,
            _ => factor_of(section)?,
        };
        let (fast, slow) = (
            section.number_or("beta_fast", 1e-3..=1e6, 32.0)?,
            section.number_or("beta_slow", 1e-3..=1e6, 1.0)?,
        );
        if fast < slow {
            return Err(
                section.error("beta_fast", format_args!("expected at least beta_slow ({slow}), got {fast}"))
            );
        }
        Ok(Yarn {
            factor,
            original: original.unwrap_or(positions),
            fast,
            slow,
            truncate: section.flag_or("truncate", true)?,
            attention: attention(section, factor)?,
        })
    }

    fn factors(&self, rope: &RopeConfig) -> Vec<f64> {
        let dim = rope.dim as f64;
        // The pair that makes this many turns within the original positions.
        let pair_of = |turns: f64| {
            // With a base of 1 all pairs turn alike; HF divides by zero there.
            let logarithm = rope.theta.ln().max(f64::MIN_POSITIVE);
            (dim * (self.original as f64 / (turns * TAU)).ln() / (2.0 * logarithm)).clamp(-1e6, 1e6)
        };
        let (mut low, mut high) = (pair_of(self.fast), pair_of(self.slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        let factor = |i: usize| {
            let stretched = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            stretched / self.factor + (1.0 - stretched)
        };
        (0..rope.dim / 2).map(factor).collect()
    }
}

/// YaRN's factor of cosines and sines.
fn attention(section: &Fields, factor: f64) -> Result<f64, LoadError> {
    let scale = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    let number = |key| section.number_or(key, 0.0..=1e3, 0.0);
    let default = match (number("mscale")?, number("mscale_all_dim")?) {
        (mscale, all) if mscale > 0.0 && all > 0.0 => scale(mscale) / scale(all),
        _ => scale(1.0),
    };
    section.number_or("attention_factor", 1e-3..=1e3, default)
}

/// The original Qwen's.
pub(super) fn of_qwen(fields: &Fields, head_dim: usize) -> Result<RopeConfig, LoadError> {
    if !fields.flag_or("scale_attn_weights", true)? {
        return Err(fields.unsupported("scale_attn_weights", "false is not supported; expected true"));
    }
    let dynamic_ntk = fields.flag_or("use_dynamic_ntk", true)?;
    let logn = fields.flag_or("use_logn_attn", true)?;
    let share = fields.number_or("rotary_pct", 0.0..=1.0, 1.0)?;
    let dim = (head_dim as f64 * share) as usize;
    // The NTK exponent is dim / (dim - 2).
    check_dim(fields, dim, if dynamic_ntk { 4 } else { 2 })?;
    let seq_length = match dynamic_ntk || logn {
        true => fields.size("seq_length", MAX_POSITIONS)?,
        false => 0,
    };
    if logn && seq_length == 1 {
        return Err(fields.error("seq_length", "expected at least 2 with use_logn_attn, got 1"));
    }
    Ok(RopeConfig {
        ntk_seq_length: dynamic_ntk.then_some(seq_length),
        logn_seq_length: logn.then_some(seq_length),
        ..RopeConfig::plain(dim, base_of(fields, "rotary_emb_base")?)
    })
}

fn base_of(fields: &Fields, key: &str) -> Result<f64, LoadError> {
    fields.number_or(key, 1.0..=1e12, 10_000.0)
}

fn check_dim(fields: &Fields, dim: usize, least: usize) -> Result<(), LoadError> {
    match dim.is_multiple_of(2) && dim >= least {
        true => Ok(()),
        false => {
            let detail =
                format!("rotates {dim} dimensions of a head; expected an even number, at least {least}");
            Err(fields.error("rotary embedding", detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::path::Path;

    /// Llama 3.1's dimensions with this scaling.
    fn of(scaling: Value) -> (RopeConfig, usize) {
        let json = json!({"rope_theta": 500_000.0, "rope_scaling": scaling}).to_string();
        let fields = Fields::parse(Path::new("config.json"), json.as_bytes()).unwrap();
        of_llama(&fields, 128, 8192).unwrap()
    }

    #[test]
    fn each_scaling_stretches_its_frequencies() {
        let near = |got: f64, expected: f64| {
            assert!((got / expected - 1.0).abs() < 1e-9, "{got}, expected {expected}")
        };
        let (plain, positions) = of(Value::Null);
        assert_eq!((plain, positions), (RopeConfig::plain(128, 5e5), 8192));
        let (linear, positions) = of(json!({"type": "linear", "factor": 4.0}));
        assert_eq!((linear.scaling.factors, positions), (vec![0.25; 64], 32_768));
        let (dynamic, positions) = of(json!({"type": "dynamic", "factor": 2.0}));
        assert_eq!(dynamic.dynamic_ntk, Some(DynamicNtk { factor: 2.0, positions: 8192 }));
        assert_eq!((dynamic.scaling, positions), (RopeScaling::NONE, 16_384));

        let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                            "original_max_position_embeddings": 8192});
        let (rope, positions) = of(llama3);
        let factors = &rope.scaling.factors;
        assert_eq!((factors.len(), positions, rope.scaling.attention), (64, 8192, 1.0));
        // Wavelengths below 8192 / 4 positions stay, above 8192 they are stretched by 8.
        assert!(factors[..=28].iter().all(|&factor| factor == 1.0) && factors[29] < 1.0, "{factors:?}");
        assert!(factors[35..].iter().all(|&factor| factor == 0.125) && factors[34] > 0.125, "{factors:?}");
        assert!(factors.is_sorted_by(|a, b| a >= b));
        let turns = 8192.0 / (TAU * 5e5f64.powf(60.0 / 128.0));
        near(factors[30], (1.0 - (turns - 1.0) / 3.0) / 8.0 + (turns - 1.0) / 3.0);

        let yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768});
        let (rope, positions) = of(yarn);
        assert_eq!(positions, 131_072);
        near(rope.scaling.attention, 0.1 * 4f64.ln() + 1.0);
        let pair = |turns: f64| 64.0 * (32_768.0 / (turns * TAU)).ln() / 5e5f64.ln();
        let (low, high) = (pair(32.0).floor(), pair(1.0).ceil());
        for (i, &factor) in rope.scaling.factors.iter().enumerate() {
            let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            near(factor, ramp / 4.0 + 1.0 - ramp);
        }
    }

    #[test]
    fn yarn_takes_what_is_left_out_from_the_positions() {
        let (rope, positions) = of(json!({"type": "yarn", "original_max_position_embeddings": 4096}));
        assert_eq!((positions, rope.scaling.factors.last().copied()), (8192, Some(0.5)));
        let given = of(json!({"type": "yarn", "factor": 2, "attention_factor": 1.5})).0.scaling.attention;
        assert_eq!(given, 1.5);
        let both = json!({"type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0});
        assert_eq!(of(both).0.scaling.attention, 1.0);
    }
}
