//! A linear layer as the decoder sees it: one input, several joined outputs, each part in the form in
//! which it multiplies fastest. Made by `Ops::load_linear`.

use super::CpuOps;
use super::act::CpuAct;
use super::awq::{AwqMatrix, FixedPoint, multiply, row_words, unpacked_lines};
use super::plain::PlainMatrix;
use crate::error::{LoadError, StepError};
use crate::weights::{LinearSource, LinearWeight};

enum Part {
    Awq(AwqMatrix),
    Plain(PlainMatrix),
}

impl Part {
    fn n(&self) -> usize {
        match self {
            Part::Awq(w) => w.n,
            Part::Plain(w) => w.n,
        }
    }
}

/// `y = x W + b` with W `[k, n]`, joined along n.
pub struct CpuLinear {
    k: usize,
    n: usize,
    parts: Vec<Part>,
    /// `[n]`, zeros where a part has none; empty if none has one.
    bias: Vec<f32>,
}

/// Quantisation group; neighbours that share it are packed as one matrix.
fn group(source: &LinearSource) -> Option<usize> {
    match source.weight {
        LinearWeight::Awq { group_size, .. } => Some(group_size),
        LinearWeight::Plain(_) => None,
    }
}

/// Quantised neighbours that share a group size are one matrix.
fn joined(a: &LinearSource, b: &LinearSource) -> bool {
    group(a).is_some() && group(a) == group(b)
}

/// Bytes that `CpuLinear::load` allocates for `sources`; plain weights stay where they are mapped.
pub fn packed_bytes(sources: &[LinearSource]) -> usize {
    let n = |parts: &[LinearSource]| parts.iter().map(|part| part.out_features).sum::<usize>();
    let matrix = |parts: &[LinearSource]| match group(&parts[0]) {
        Some(group) => AwqMatrix::packed_bytes(parts[0].in_features, n(parts), group),
        None => 0,
    };
    let has_bias = sources.iter().any(|source| source.bias.is_some());
    let bias = if has_bias { n(sources) * size_of::<f32>() } else { 0 };
    sources.chunk_by(joined).map(matrix).sum::<usize>() + bias
}

impl CpuLinear {
    pub fn load(cpu: &mut CpuOps, sources: &[LinearSource]) -> Result<Self, LoadError> {
        let Some(first) = sources.first() else {
            return Err(LoadError::Unsupported("a linear layer without parts".into()));
        };
        let k = first.in_features;
        if let Some(other) = sources.iter().find(|s| s.in_features != k) {
            let detail = format!("has {} inputs; expected {k}, as `{}`", other.in_features, first.name);
            return Err(LoadError::Tensor { name: other.name.clone(), detail });
        }
        let mut parts = Vec::new();
        for joined in sources.chunk_by(joined) {
            parts.push(match &joined[0].weight {
                LinearWeight::Awq { group_size, .. } => {
                    let matrix = AwqMatrix::pack(&mut cpu.pool, joined, k, *group_size)?;
                    cpu.reserve_fixed(0, row_words(k, *group_size))?;
                    super::reserve_unpacked(&mut cpu.unpacked, unpacked_lines(k))?;
                    Part::Awq(matrix)
                }
                LinearWeight::Plain(w) => Part::Plain(PlainMatrix::new(w, joined[0].out_features, k)?),
            });
        }
        let n = parts.iter().map(Part::n).sum();
        Ok(CpuLinear { k, n, parts, bias: join_bias(sources, n)? })
    }

    /// Bytes of its own; plain weights are mapped.
    #[cfg(test)]
    pub fn allocated_bytes(&self) -> usize {
        let matrix = |part: &Part| match part {
            Part::Awq(matrix) => matrix.allocated_bytes(),
            Part::Plain(_) => 0,
        };
        self.parts.iter().map(matrix).sum::<usize>() + size_of_val(&*self.bias)
    }

    /// `out = x W + b`; `out` and `x` have the same rows.
    pub fn forward(&self, cpu: &mut CpuOps, x: &CpuAct, out: &mut CpuAct) -> Result<(), StepError> {
        x.expect("linear", x.rows(), self.k)?;
        out.expect("linear", x.rows(), self.n)?;
        let level = cpu.level;
        let mut first = 0;
        for part in &self.parts {
            let to = (out.values_mut(), self.n, first);
            match part {
                Part::Awq(w) => {
                    let words = cpu.fixed.get_mut(..x.rows() * row_words(self.k, w.group));
                    let words = words.ok_or_else(|| too_many_rows(x.rows()))?;
                    let x =
                        FixedPoint::quantize((&mut cpu.pool, level), x.values(), (self.k, w.group), words);
                    multiply((&mut cpu.pool, level, &cpu.unpacked), x, w, to);
                }
                Part::Plain(w) => w.multiply((&mut cpu.pool, level), x.values(), to),
            }
            first += part.n();
        }
        self.add_bias(cpu, out);
        Ok(())
    }

    fn add_bias(&self, cpu: &mut CpuOps, out: &mut CpuAct) {
        if self.bias.is_empty() {
            return;
        }
        super::each_row(&mut cpu.pool, out, |_, row| {
            for (y, b) in row.iter_mut().zip(&self.bias) {
                *y += b;
            }
        });
    }
}

fn too_many_rows(rows: usize) -> StepError {
    StepError::Device {
        op: "linear",
        detail: format!("{rows} rows are more than any buffer made has room for"),
    }
}

fn join_bias(sources: &[LinearSource], n: usize) -> Result<Vec<f32>, LoadError> {
    if sources.iter().all(|s| s.bias.is_none()) {
        return Ok(Vec::new());
    }
    let mut bias = Vec::with_capacity(n);
    for source in sources {
        match &source.bias {
            Some(tensor) => bias.extend(tensor.to_f32()),
            None => bias.resize(bias.len() + source.out_features, 0.0),
        }
    }
    Ok(bias)
}
