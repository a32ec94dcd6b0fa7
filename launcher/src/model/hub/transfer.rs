//! Many files at once into the cache, after a look at the disk.
//!
//! Called by `mod` for the small files and again for the weights. The first failure ends the others;
//! what has arrived until then stays for the next start.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::blob::{self, Download};
use super::cache::CachedRepository;
use super::client::Client;
use super::error::HubError;
use super::listing::{Commit, Content};
use super::progress::{Display, Progress, bytes};
use super::stop::Stop;

/// Files fetched at a time; more connections to one host gain nothing.
const MAX_WORKERS: usize = 8;
/// Left free on the disk for everybody else.
const SPARE: u64 = 64 << 20;

/// A file to be had: its name in the snapshot and what it must contain.
pub(super) type Wanted = (String, Content);

/// From where to where.
pub(super) struct Way<'a> {
    pub client: &'a Client<'a>,
    pub cache: &'a CachedRepository,
    /// Whose snapshot the files go to.
    pub commit: &'a Commit,
}

/// Brings all `files` into the snapshot.
pub(super) fn fetch_all(way: &Way<'_>, files: &[Wanted], display: Display) -> Result<(), HubError> {
    let Way { client, cache, commit } = *way;
    let snapshot = cache.snapshot(commit);
    cache.make_folders(commit).map_err(HubError::disk(&snapshot))?;
    let (missing, found) = missing(cache, files);
    check_space(&snapshot, missing)?;
    let n_bytes = files.iter().map(|(_, content)| content.size).fold(0, u64::saturating_add);
    let progress = Progress::new(files.len(), n_bytes, found, display);
    let stop = Stop::default();
    let download = Download { client, cache, commit, progress: &progress, stop: &stop };
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    let work = || {
        while let Some((name, content)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let started = Instant::now();
            progress.begin(name, content.size);
            if let Err(error) = blob::fetch(&download, name, content) {
                // The first one is the cause of all others.
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return stop.set();
            }
            progress.done(name, content.size, started.elapsed());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..files.len().min(MAX_WORKERS) {
            scope.spawn(work);
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Bytes that must still come, and those that an earlier attempt left.
fn missing(cache: &CachedRepository, files: &[Wanted]) -> (u64, u64) {
    let contents: HashMap<&str, &Content> =
        files.iter().map(|(_, content)| (content.etag.as_str(), content)).collect();
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    contents.values().fold((0, 0), |(missing, found): (u64, u64), content| {
        let whole = blob::is_whole(&cache.blob(&content.etag), content);
        let left = length(&cache.incomplete(&content.etag));
        let here = if whole { content.size } else { left.min(content.size) };
        (missing.saturating_add(content.size - here), found.saturating_add(here))
    })
}

/// Refuses a download that cannot fit, before it begins.
fn check_space(folder: &Path, missing: u64) -> Result<(), HubError> {
    let disk = rustix::fs::statvfs(folder).map_err(|error| HubError::disk(folder)(error.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if missing == 0 || missing.saturating_add(SPARE) <= free {
        return Ok(());
    }
    Err(HubError::Disk(format!(
        "{} must still be fetched, but only {} are free on the disk of {}. Free some space, or choose a cache folder on \
         a larger disk with HF_HOME",
        bytes(missing),
        bytes(free),
        folder.display()
    )))
}
