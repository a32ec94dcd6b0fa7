//! A linear layer as the decoder sees it: one input, several joined outputs, each part in the form in
//! which it multiplies fastest. Made by `Ops::load_linear`.

use super::act::CpuAct;
use super::awq::{AwqMatrix, FixedPoint, multiply, row_words, unpacked_lines};
use super::grid::Cuts;
use super::plain::PlainMatrix;
use super::pool::Pool;
use super::{CpuOps, TASK_ELEMENTS};
use crate::error::{LoadError, StepError};
use crate::weights::{LinearSource, LinearWeight};
use std::sync::Arc;

enum Part {
    /// With the input feature of each row, where they are not in order.
    Awq(AwqMatrix, Option<Arc<[u32]>>),
    Plain(PlainMatrix),
}

impl Part {
    /// Packs neighbours that are `joined`.
    fn load(cpu: &mut CpuOps, sources: &[LinearSource], k: usize) -> Result<Part, LoadError> {
        let sources = sources.iter().map(LinearSource::converted).collect::<Result<Vec<_>, _>>()?;
        let Some(shape) = sources[0].int4() else {
            let source = &sources[0];
            let LinearWeight::Plain(weight) = &source.weight else {
                let detail = "is in a layout that cannot be read".to_owned();
                return Err(LoadError::Tensor { name: source.name.clone(), detail });
            };
            return Ok(Part::Plain(PlainMatrix::new(weight, source.out_features, k)?));
        };
        let inputs = inputs(&sources[0])?;
        let matrix = AwqMatrix::pack(&mut cpu.pool, &sources, shape.rows, shape.group_size)?;
        let words = row_words(shape.rows, shape.group_size);
        cpu.reserve_rows(0, words, inputs.as_ref().map_or(0, |_| shape.rows))?;
        super::reserve_unpacked(&mut cpu.unpacked, unpacked_lines(shape.rows))?;
        Ok(Part::Awq(matrix, inputs))
    }

    fn n(&self) -> usize {
        match self {
            Part::Awq(w, _) => w.n,
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

/// Whether two neighbours are packed as one matrix: both 4-bit, in the same groups of the same inputs.
fn joined(a: &LinearSource, b: &LinearSource) -> bool {
    a.int4().is_some_and(|shape| !shape.own_order && b.int4() == Some(shape))
}

/// Bytes that `CpuLinear::load` allocates for `sources`; plain weights stay where they are mapped.
pub fn packed_bytes(sources: &[LinearSource]) -> usize {
    let n = |parts: &[LinearSource]| parts.iter().map(|part| part.out_features).sum::<usize>();
    let matrix = |parts: &[LinearSource]| match parts[0].int4() {
        Some(shape) => AwqMatrix::packed_bytes(shape.rows, n(parts), shape.group_size),
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
            parts.push(Part::load(cpu, joined, k)?);
        }
        let n = parts.iter().map(Part::n).sum();
        Ok(CpuLinear { k, n, parts, bias: join_bias(sources, n)? })
    }

    /// Bytes of its own; plain weights are mapped.
    #[cfg(test)]
    pub fn allocated_bytes(&self) -> usize {
        let matrix = |part: &Part| match part {
            Part::Awq(matrix, _) => matrix.allocated_bytes(),
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
                Part::Awq(w, inputs) => {
                    let words = cpu.fixed.get_mut(..x.rows() * row_words(w.k, w.group));
                    let words = words.ok_or_else(|| too_many_rows(x.rows()))?;
                    let values = match inputs {
                        None => x.values(),
                        Some(inputs) => {
                            let gathered = cpu.gathered.get_mut(..x.rows() * w.k);
                            let gathered = gathered.ok_or_else(|| too_many_rows(x.rows()))?;
                            gather(&mut cpu.pool, x, inputs, gathered);
                            gathered
                        }
                    };
                    let x = FixedPoint::quantize((&mut cpu.pool, level), values, (w.k, w.group), words);
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

/// The input feature of each row of a converted layer, checked.
fn inputs(source: &LinearSource) -> Result<Option<Arc<[u32]>>, LoadError> {
    let LinearWeight::Awq { inputs: Some(inputs), .. } = &source.weight else { return Ok(None) };
    let k = source.in_features;
    match inputs.order.iter().find(|&&input| input as usize >= k) {
        None => Ok(Some(Arc::clone(&inputs.order))),
        Some(input) => {
            let detail = format!("a row is of input feature {input}, expected one below {k}");
            Err(LoadError::Tensor { name: source.name.clone(), detail })
        }
    }
}

/// Each row's features `inputs`, `[rows, inputs]`.
fn gather(pool: &mut Pool, x: &CpuAct, inputs: &[u32], out: &mut [f32]) {
    let width = inputs.len();
    let rows = (Cuts::Every((TASK_ELEMENTS / width.max(1)).max(1)), Cuts::Every(width));
    pool.grid(out, width, rows, |_, mut rect| {
        for r in rect.rows() {
            let from = x.row(r);
            for (to, &input) in rect.row(r).iter_mut().zip(inputs) {
                *to = from[input as usize];
            }
        }
    });
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
