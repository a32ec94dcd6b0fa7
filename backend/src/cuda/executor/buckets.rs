//! Decode steps as captured graphs, one a number of rows: a step with fewer rows runs in the next larger
//! bucket, with padding. Made by `plan`, launched by `step`. Graphs read lengths, tables and tokens from
//! device memory, so one graph serves every step of its bucket.

use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

use crate::cuda::driver::{CudaError, named};
use crate::cuda::ops::CudaOps;
use crate::cuda::step_inputs::Layout;
use crate::error::LoadError;
use crate::model::decoder::{Decoder, Memory};

/// Largest number of rows with a graph. Beyond it launching costs less than the step's arithmetic.
const MAX_ROWS: usize = 256;

/// Numbers of rows that get a graph, up to the first that holds `max_rows`: all small ones, where padding
/// would cost most, then steps of at most a quarter.
pub fn sizes(max_rows: usize) -> Vec<usize> {
    let all = (1..=16).chain([20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, MAX_ROWS]);
    let mut sizes: Vec<usize> = all.take_while(|&rows| rows < max_rows).collect();
    if max_rows <= MAX_ROWS {
        sizes.push(max_rows);
    }
    sizes
}

/// A captured decode step.
pub struct Bucket {
    pub rows: usize,
    pub layout: Layout,
    graph: CudaGraph,
}

impl Bucket {
    /// Runs the step once, so that every kernel is loaded, then captures it. The step's inputs are on the
    /// device by `layout`, all padding.
    pub fn capture(
        decoder: &mut Decoder<CudaOps>,
        memory: &mut Memory<CudaOps>,
        layout: Layout,
    ) -> Result<Bucket, LoadError> {
        decoder.ops_mut().set_layout(&layout, 0);
        super::compute(decoder, memory, layout.shape)?;
        let stream = decoder.ops_mut().gpu.stream.clone();
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        named("begin a graph", stream.begin_capture(mode))?;
        let launched = super::compute(decoder, memory, layout.shape);
        // The capture must end whatever happened.
        let graph = named("make a graph", stream.end_capture(CUgraphInstantiate_flags(0)));
        launched?;
        let Some(graph) = graph? else {
            return Err(LoadError::Device { op: "make a graph", detail: "nothing was captured".to_owned() });
        };
        named("upload a graph", graph.upload())?;
        Ok(Bucket { rows: layout.shape.rows, layout, graph })
    }

    pub fn launch(&self) -> Result<(), CudaError> {
        named("launch a graph", self.graph.launch())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_grow_slowly_and_reach_the_largest_step() {
        for max_rows in [1, 2, 16, 17, 33, 64, 100, 128, 255, 256, 257, 1000] {
            let sizes = sizes(max_rows);
            assert!(sizes.is_sorted_by(|a, b| a < b), "{max_rows}: {sizes:?}");
            assert_eq!(*sizes.last().unwrap(), max_rows.min(MAX_ROWS));
            assert!(sizes.windows(2).all(|pair| pair[1] - pair[0] <= 1.max(pair[0] / 4)), "{sizes:?}");
        }
    }
}
