//! How far a download is: bars on a terminal, a line every few seconds in a log.
//!
//! Shared by the workers of `transfer`. Never fails, never blocks them for long.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing::info;

const LINE_EVERY: Duration = Duration::from_secs(5);
const FILE_BAR: &str = "{prefix:>40!} {wide_bar} {bytes:>10}/{total_bytes:>10}";
const TOTAL_BAR: &str =
    "{prefix:>40!} {wide_bar} {bytes:>10}/{total_bytes:>10} {bytes_per_sec:>12} ETA {eta}";

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Display {
    /// Not at all: for a few small files.
    Quiet,
    /// As lines of the log.
    Lines,
    /// As bars on the terminal behind stderr.
    Bars,
}

/// The state of one download.
pub(super) struct Progress {
    n_files: usize,
    n_bytes: u64,
    started: Instant,
    files_done: AtomicUsize,
    bytes_done: AtomicU64,
    /// Of `bytes_done`, what was there before this process began: it says nothing of the speed.
    bytes_found: u64,
    next_line: Mutex<Instant>,
    lines: bool,
    bars: Option<Bars>,
}

struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    files: Mutex<HashMap<String, ProgressBar>>,
}

impl Progress {
    /// For `n_files` files of `n_bytes` bytes together, `bytes_found` of which an earlier attempt left.
    pub(super) fn new(n_files: usize, n_bytes: u64, bytes_found: u64, display: Display) -> Self {
        let bars = (display == Display::Bars).then(|| {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
            let total = all.add(bar(n_bytes, TOTAL_BAR, &format!("{n_files} files")));
            Bars { all, total, files: Mutex::default() }
        });
        let started = Instant::now();
        Self {
            n_files,
            n_bytes,
            started,
            files_done: AtomicUsize::new(0),
            bytes_done: AtomicU64::new(0),
            bytes_found,
            next_line: Mutex::new(started + LINE_EVERY),
            lines: display == Display::Lines,
            bars,
        }
    }

    /// A file of `size` bytes is begun.
    pub(super) fn begin(&self, name: &str, size: u64) {
        if let Some(bars) = &self.bars {
            let file = bars.all.insert_before(&bars.total, bar(size, FILE_BAR, name));
            bars.files.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), file);
        }
    }

    /// `n` more bytes of the file are there.
    pub(super) fn advance(&self, name: &str, n: u64) {
        self.bytes_done.fetch_add(n, Ordering::Relaxed);
        match &self.bars {
            Some(bars) => bars.each(name, |bar| bar.inc(n)),
            None if self.lines => self.line_if_due(),
            None => (),
        }
    }

    /// `n` bytes of the file were thrown away.
    pub(super) fn retreat(&self, name: &str, n: u64) {
        self.bytes_done.fetch_sub(n, Ordering::Relaxed);
        if let Some(bars) = &self.bars {
            bars.each(name, |bar| bar.dec(n));
        }
    }

    /// A file is whole.
    pub(super) fn done(&self, name: &str, size: u64, took: Duration) {
        let n = self.files_done.fetch_add(1, Ordering::Relaxed) + 1;
        match &self.bars {
            Some(bars) => {
                if let Some(bar) = bars.files.lock().unwrap_or_else(PoisonError::into_inner).remove(name) {
                    bar.finish_and_clear();
                }
                if n == self.n_files {
                    bars.total.finish();
                }
            }
            None if self.lines => {
                info!("Downloaded {name} ({}) in {}", bytes(size), clock(took));
                info!("{}", self.line());
            }
            None => (),
        }
    }

    fn line_if_due(&self) {
        let now = Instant::now();
        // Whoever finds it taken leaves the line to the one who has it.
        let Ok(mut next) = self.next_line.try_lock() else { return };
        if now >= *next {
            *next = now + LINE_EVERY;
            info!("{}", self.line());
        }
    }

    fn line(&self) -> String {
        let done = self.bytes_done.load(Ordering::Relaxed);
        let fetched = done.saturating_sub(self.bytes_found);
        let speed = fetched as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        line((self.files_done.load(Ordering::Relaxed), self.n_files), (done, self.n_bytes), speed)
    }
}

impl Bars {
    fn each(&self, name: &str, change: impl Fn(&ProgressBar)) {
        change(&self.total);
        if let Some(file) = self.files.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            change(file);
        }
    }
}

fn bar(size: u64, template: &str, prefix: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::hidden())
        .with_style(style)
        .with_prefix(prefix.to_owned())
}

/// `Download: [1/3] 1.2 GB of 9.7 GB, 87.3 MB/s -- ETA: 0:01:38`: its beginning and end are TGI's.
fn line((n_done, n_files): (usize, usize), (done, all): (u64, u64), speed: f64) -> String {
    let eta = if done >= all {
        "0".to_owned()
    } else if speed < 1.0 {
        "unknown".to_owned()
    } else {
        clock(Duration::from_secs_f64(((all - done) as f64 / speed).min(1e9)))
    };
    let speed = bytes(speed as u64);
    format!("Download: [{n_done}/{n_files}] {} of {}, {speed}/s -- ETA: {eta}", bytes(done), bytes(all))
}

/// `1:02:03`
fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// `1.5 GB`, in powers of ten as disks and the Hub's pages count.
pub(super) fn bytes(n: u64) -> String {
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let unit = units.into_iter().find(|(size, _)| n as f64 >= *size);
    unit.map_or(format!("{n} B"), |(size, name)| format!("{:.1} {name}", n as f64 / size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let cases = [
            ((0, 3), (0, 9_700_000_000), 0.0, "Download: [0/3] 0 B of 9.7 GB, 0 B/s -- ETA: unknown"),
            (
                (1, 3),
                (1_200_000_000, 9_700_000_000),
                87e6,
                "Download: [1/3] 1.2 GB of 9.7 GB, 87.0 MB/s -- ETA: 0:01:37",
            ),
            ((3, 3), (5, 5), 1500.0, "Download: [3/3] 5 B of 5 B, 1.5 kB/s -- ETA: 0"),
        ];
        for (files, done, speed, expected) in cases {
            assert_eq!(line(files, done, speed), expected);
        }
        assert_eq!(clock(Duration::from_secs(36_61)), "1:01:01");
    }

    #[test]
    fn the_templates_are_valid_and_counting_goes_both_ways() {
        for template in [FILE_BAR, TOTAL_BAR] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
        for display in [Display::Quiet, Display::Lines, Display::Bars] {
            let progress = Progress::new(1, 10, 0, display);
            progress.begin("a", 10);
            progress.advance("a", 7);
            progress.retreat("a", 7);
            progress.advance("a", 10);
            progress.done("a", 10, Duration::ZERO);
            assert!(progress.line().starts_with("Download: [1/1] 10 B of 10 B"), "{}", progress.line());
        }
    }
}
