//! Where each tensor of `model.safetensors` lies, known before any data is.
//! Called by whoever streams a checkpoint. Must order and head the file exactly as the safetensors library's own writer does (widest
//! dtype first, then by name), so that a streamed file equals one written at once.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, Metadata, SafeTensorError, TensorInfo};

/// The header of a file and the position of each tensor.
#[derive(Debug)]
pub struct Layout {
    /// Length prefix and JSON, padded to eight bytes.
    pub header: Vec<u8>,
    offsets: HashMap<String, u64>,
    /// Size of the whole file.
    pub n_bytes: u64,
}

/// A tensor to place: name, dtype, shape.
pub type Entry = (String, Dtype, Vec<usize>);

impl Layout {
    /// Places `entries`.
    ///
    /// # Errors
    /// When a shape overflows.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, SafeTensorError> {
        entries.sort_by(|(left_name, left, _), (right_name, right, _)| {
            right.cmp(left).then_with(|| left_name.cmp(right_name))
        });
        let mut end = 0usize;
        let mut infos = Vec::with_capacity(entries.len());
        for (name, dtype, shape) in entries {
            let n_bits = shape.iter().try_fold(dtype.bitsize(), |n, &d| n.checked_mul(d));
            let n_bytes = n_bits.ok_or(SafeTensorError::ValidationOverflow)? / 8;
            let start = end;
            end = start.checked_add(n_bytes).ok_or(SafeTensorError::ValidationOverflow)?;
            infos.push((name, TensorInfo { dtype, shape, data_offsets: (start, end) }));
        }
        let names: Vec<_> = infos.iter().map(|(name, info)| (name.clone(), info.data_offsets.0)).collect();
        let tags = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let mut json = serde_json::to_vec(&Metadata::new(Some(tags), infos)?)?;
        json.resize(json.len().next_multiple_of(8), b' ');
        let data_start = 8 + json.len() as u64;
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.append(&mut json);
        let offsets = names.into_iter().map(|(name, start)| (name, data_start + start as u64)).collect();
        Ok(Self { header, offsets, n_bytes: data_start + end as u64 })
    }

    /// Position in the file of the tensor `name`, which was among the entries.
    ///
    /// # Panics
    /// When it was not.
    pub fn offset(&self, name: &str) -> u64 {
        self.offsets[name]
    }
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::{TensorView, serialize};

    use super::*;

    #[test]
    fn equals_the_librarys_own_file() {
        let entries: Vec<Entry> = vec![
            ("b.scales".into(), Dtype::F16, vec![2, 3]),
            ("b.qweight".into(), Dtype::I32, vec![4, 1]),
            ("a.bias".into(), Dtype::F16, vec![5]),
            ("a.qzeros".into(), Dtype::I32, vec![1, 2]),
        ];
        let zeros = [0; 64];
        let views = entries.iter().map(|(name, dtype, shape)| {
            let n_bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            (name, TensorView::new(*dtype, shape.clone(), &zeros[..n_bytes]).unwrap())
        });
        let tags = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let expected = serialize(views, Some(tags)).unwrap();
        let layout = Layout::new(entries.clone()).unwrap();
        assert_eq!(layout.header, expected[..layout.header.len()]);
        assert_eq!(layout.n_bytes, expected.len() as u64);
        let read = safetensors::SafeTensors::deserialize(&expected).unwrap();
        for (name, ..) in &entries {
            let at = read.tensor(name).unwrap().data().as_ptr() as usize - expected.as_ptr() as usize;
            assert_eq!(layout.offset(name), at as u64, "{name}");
        }
    }
}
