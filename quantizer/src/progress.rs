//! How far a quantisation is: a bar on a terminal, a line a block in a log. Called by `run`. Never fails.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use tracing::info;

const TEMPLATE: &str = "{msg} {wide_bar} {pos}/{len} blocks ETA {eta}";

/// Counts finished blocks.
pub(crate) struct Progress {
    n_blocks: usize,
    /// Blocks that an earlier run finished: they say nothing of the speed.
    n_found: usize,
    n_done: usize,
    started: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// For `n_blocks` blocks, `n_found` of which are there.
    pub(crate) fn new(n_blocks: usize, n_found: usize, json: bool) -> Self {
        let bar = (!json && std::io::stderr().is_terminal()).then(|| {
            let style =
                ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(n_blocks as u64).with_style(style).with_message("Quantising")
        });
        Self { n_blocks, n_found, n_done: 0, started: Instant::now(), bar }
    }

    /// One more block is there.
    pub(crate) fn done(&mut self) {
        self.n_done += 1;
        match &self.bar {
            Some(bar) => bar.set_position(self.n_done as u64),
            None => info!("{}", self.line()),
        }
    }

    fn line(&self) -> String {
        let Self { n_done, n_blocks, n_found, .. } = *self;
        let made = n_done.saturating_sub(n_found).max(1);
        let left = self.started.elapsed().mul_f64((n_blocks - n_done) as f64 / made as f64);
        format!("Quantised: [{n_done}/{n_blocks}] -- ETA: {} s", left.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let mut progress = Progress::new(3, 1, true);
        progress.done();
        assert!(progress.line().starts_with("Quantised: [1/3] -- ETA: "));
        progress.done();
        progress.done();
        assert_eq!(progress.line(), "Quantised: [3/3] -- ETA: 0 s");
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
