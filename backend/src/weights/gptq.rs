//! AutoGPTQ's layers, 4 and 8 bits, as the 4-bit "gemm" layers that the kernels multiply by. Exact.
//!
//! Opened by `Checkpoint::linear`, converted when an operation takes the layer. With K input and N output features, b bits, p = 32 / b values a word:
//! * `qweight` int32 `[K/p, N]`: rows `p i..p i + p` of a column in one word, lowest first;
//! * `qzeros` int32 `[G, N/p]`, neighbouring columns in a word; one less than the zero point, modulo 2^b, but in
//!   checkpoint format "gptq_v2"; `scales` float16 `[G, N]`;
//! * `g_idx` int32 `[K]`: the group of each row. Without "desc_act" row k is in group `k / group size`.
//!
//! Rows are sorted by group, and the layer's inputs with them. Eight bits are two layers of four that share their
//! inputs: `(16 h + l - (16 y + z)) s = (h - y) 16 s + (l - z) s`.

use std::sync::Arc;

use half::f16;

use super::awq::{self, COLUMNS};
use super::checkpoint::Checkpoint;
use super::linear::{Inputs, Int4Shape, LinearWeight, OtherLayout};
use super::nibbles::{self, NIBBLES};
use super::tensor::{DType, Tensor};
use crate::config::GptqFormat;
use crate::error::LoadError;

/// Group sizes of the kernels, largest first; a stored group is one of them or several.
const GROUP_SIZES: [usize; 3] = [128, 64, 32];

/// Sizes of one layer, checked: whole groups, whole words.
#[derive(Debug, Clone, Copy)]
struct Shape {
    k: usize,
    n: usize,
    bits: usize,
    /// Input features of a stored group.
    stored_group: usize,
    /// Of a group as the kernels take it, which divides `stored_group`.
    group_size: usize,
}

impl Shape {
    fn new(name: &str, (k, n): (usize, usize), format: &GptqFormat) -> Result<Self, LoadError> {
        let bits = format.bits as usize;
        let stored_group = format.group_size.unwrap_or(k);
        let group_size = GROUP_SIZES.into_iter().find(|&size| stored_group.is_multiple_of(size));
        let whole = stored_group > 0 && k.is_multiple_of(stored_group) && n.is_multiple_of(COLUMNS);
        match group_size.filter(|_| whole && k > 0) {
            Some(group_size) => Ok(Shape { k, n, bits, stored_group, group_size }),
            None => Err(LoadError::Tensor {
                name: format!("{name}.qweight"),
                detail: format!(
                    "expected input features in whole groups of a multiple of 32 and output features in multiples of \
                     {COLUMNS}, got {k} in groups of {stored_group}, and {n}"
                ),
            }),
        }
    }

    fn stored_groups(self) -> usize {
        self.k / self.stored_group
    }

    /// Values of a word.
    fn per_word(self) -> usize {
        32 / self.bits
    }

    /// Rows of four bits for a row of the layer.
    fn nibbles_each(self) -> usize {
        self.bits / 4
    }
}

/// A stored layer.
#[derive(Debug)]
struct Gptq {
    name: String,
    shape: Shape,
    zeros_minus_one: bool,
    desc_act: bool,
    qweight: Tensor,
    qzeros: Tensor,
    scales: Tensor,
    g_idx: Option<Tensor>,
}

/// The layer `name` of `sizes` input and output features.
pub(super) fn open(
    checkpoint: &Checkpoint,
    name: &str,
    sizes: (usize, usize),
    format: &GptqFormat,
) -> Result<Arc<dyn OtherLayout>, LoadError> {
    let shape = Shape::new(name, sizes, format)?;
    let Shape { k, n, .. } = shape;
    let (words, groups) = (shape.per_word(), shape.stored_groups());
    let hint = format!(
        "the model's configuration says GPTQ, {} bits, in groups of {}; correct it",
        shape.bits, shape.stored_group
    );
    let stored = |part: &str, shape: &[usize], dtype| {
        checkpoint.typed_tensor(&format!("{name}.{part}"), shape, &[dtype], &hint)
    };
    let has_order = format.desc_act || checkpoint.has(&format!("{name}.g_idx"));
    Ok(Arc::new(Gptq {
        name: name.to_owned(),
        shape,
        zeros_minus_one: format.zeros_minus_one,
        desc_act: format.desc_act,
        qweight: stored("qweight", &[k / words, n], DType::I32)?,
        qzeros: stored("qzeros", &[groups, n / words], DType::I32)?,
        scales: stored("scales", &[groups, n], DType::F16)?,
        g_idx: has_order.then(|| stored("g_idx", &[k], DType::I32)).transpose()?,
    }))
}

impl OtherLayout for Gptq {
    fn shape(&self) -> Int4Shape {
        let Shape { k, group_size, .. } = self.shape;
        let each = self.shape.nibbles_each();
        Int4Shape { rows: k * each, group_size, gathers: self.desc_act || each > 1, own_order: self.desc_act }
    }

    fn convert(&self) -> Result<LinearWeight, LoadError> {
        awq::check_scales(&self.scales)?;
        let Shape { k, n, group_size, .. } = self.shape;
        let (n_words, each) = (n / COLUMNS, self.shape.nibbles_each());
        let order = self.order()?;
        let words = self.qweight.elements::<u32>();
        let rows = nibbles::rows(k * each / NIBBLES, n, |block, column| words[block * n + column]);
        let (rows, inputs) = match OtherLayout::shape(self).gathers {
            false => (rows, None),
            true => {
                let (sources, order) = halved(&order, self.shape);
                let inputs = Inputs { order: order.into(), is_own: self.desc_act };
                (nibbles::reordered(&rows, n_words, &sources), Some(Box::new(inputs)))
            }
        };
        let (zeros, halves) = self.levels();
        let part = |part| format!("{}.{part}", self.name);
        let groups = k * each / group_size;
        Ok(LinearWeight::Awq {
            qweight: nibbles::tensor(part("qweight"), DType::I32, [k * each, n_words], rows),
            qzeros: nibbles::tensor(part("qzeros"), DType::I32, [groups, n_words], zeros),
            scales: nibbles::tensor(part("scales"), DType::F16, [groups, n], halves),
            group_size,
            inputs,
        })
    }

    fn release(&self) {
        [&self.qweight, &self.qzeros, &self.scales].into_iter().chain(&self.g_idx).for_each(Tensor::release);
    }
}

impl Gptq {
    /// The rows sorted by group, each group's in ascending order.
    fn order(&self) -> Result<Vec<u32>, LoadError> {
        let Shape { k, stored_group, .. } = self.shape;
        let Some(g_idx) = &self.g_idx else { return Ok((0..k as u32).collect()) };
        let error = |detail: String| Err(LoadError::Tensor { name: g_idx.name.clone(), detail });
        let groups = self.shape.stored_groups();
        let mut members = vec![Vec::with_capacity(stored_group); groups];
        for (k, &group) in g_idx.elements::<i32>().iter().enumerate() {
            match usize::try_from(group).ok().and_then(|group| members.get_mut(group)) {
                Some(members) => members.push(k as u32),
                None => return error(format!("expected groups below {groups}, got {group} at element {k}")),
            }
        }
        if let Some((group, members)) = members.iter().enumerate().find(|(_, m)| m.len() != stored_group) {
            let n = members.len();
            return error(format!(
                "expected {stored_group} input features in each group, got {n} in group {group}"
            ));
        }
        let order = members.concat();
        match self.desc_act || order.is_sorted() {
            true => Ok(order),
            false => error(
                "the groups are out of order, but the configuration says \"desc_act\": false".to_owned(),
            ),
        }
    }

    /// Zero points as words and scales, a row for every group of `halved` rows.
    fn levels(&self) -> (Vec<u32>, Vec<f16>) {
        let Shape { n, bits, stored_group, group_size, .. } = self.shape;
        let (stored, scales) = (self.qzeros.elements::<u32>(), self.scales.elements::<f16>());
        let (per_word, most) = (self.shape.per_word(), (1u32 << bits) - 1);
        let zero = |group: usize, column: usize| {
            let word = stored[group * (n / per_word) + column / per_word];
            let zero = word >> (bits * (column % per_word)) & most;
            if self.zeros_minus_one { (zero + 1) & most } else { zero }
        };
        let (mut words, mut halves) = (Vec::new(), Vec::new());
        for group in 0..self.shape.stored_groups() {
            for half in (0..stored_group / group_size).flat_map(|_| (0..self.shape.nibbles_each()).rev()) {
                let nibble = |column: usize| (zero(group, column) >> (4 * half) & 15) as u8;
                let packed = |c: usize| awq::pack(std::array::from_fn(|i| nibble(c + i)));
                words.extend((0..n).step_by(COLUMNS).map(packed));
                let unit = [1.0, 16.0][half];
                halves.extend(
                    scales[group * n..][..n].iter().map(|scale| f16::from_f32(scale.to_f32() * unit)),
                );
            }
        }
        (words, halves)
    }
}

/// For every group of rows in `order`, the upper halves of all and then the lower ones: their rows among the unpacked
/// ones, where the lower half comes first, and their input features.
fn halved(order: &[u32], shape: Shape) -> (Vec<u32>, Vec<u32>) {
    let each = shape.nibbles_each() as u32;
    let of_group = |rows: &[u32]| {
        let halves = (0..each).rev().flat_map(|half| rows.iter().map(move |&row| (row * each + half, row)));
        halves.collect::<Vec<_>>()
    };
    order.chunks(shape.group_size).flat_map(of_group).unzip()
}
