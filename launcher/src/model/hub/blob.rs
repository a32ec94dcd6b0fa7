//! One file of a repository into the cache: lock, resume, check, appear.
//!
//! Called by `transfer`'s workers. Two processes never fetch the same content at once, and a blob
//! that is there is whole: it was checked before it got its name.

use std::fs::{self, TryLockError};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use tracing::{info, warn};

use super::cache::CachedRepository;
use super::client::Client;
use super::error::HubError;
use super::listing::{Commit, Content};
use super::partial::Partial;
use super::progress::Progress;
use super::retry::{ATTEMPTS, retrying};
use super::stop::Stop;

const LOCK_POLL: Duration = Duration::from_millis(100);
const BUFFER: usize = 256 << 10;

/// What the files of one download have in common.
pub(super) struct Download<'a> {
    pub client: &'a Client<'a>,
    pub cache: &'a CachedRepository,
    pub commit: &'a Commit,
    pub progress: &'a Progress,
    pub stop: &'a Stop,
}

/// Whether the blob at `path` is there in full.
pub(super) fn is_whole(path: &Path, content: &Content) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == content.size)
}

/// Brings the content of `name` into the cache, and the name into the commit's snapshot.
pub(super) fn fetch(download: &Download<'_>, name: &str, content: &Content) -> Result<(), HubError> {
    let blob = download.cache.blob(&content.etag);
    let _lock = lock(download, name, content)?;
    if is_whole(&blob, content) {
        download.progress.advance(name, content.size);
    } else {
        let partial = Partial::open(&download.cache.incomplete(&content.etag), content)?;
        bring(download, name, content, partial)?.publish(&blob)?;
    }
    download.cache.link(download.commit, name, &content.etag).map_err(HubError::disk(&blob))
}

/// The lock on the content, held until it is dropped; waits for another process that holds it.
fn lock(download: &Download<'_>, name: &str, content: &Content) -> Result<fs::File, HubError> {
    let (path, file) = download
        .cache
        .lock_file(&content.etag)
        .map_err(HubError::disk(&download.cache.blob(&content.etag)))?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(HubError::disk(&path)(error)),
            Err(TryLockError::WouldBlock) if !told => {
                told = true;
                info!("Another process is fetching {name}, waiting for it");
            }
            Err(TryLockError::WouldBlock) => (),
        }
        if download.stop.wait(LOCK_POLL) {
            return Err(HubError::Stopped);
        }
    }
}

/// Fetches what is missing of `partial`. What was there before may be of another file: when the whole has
/// another digest, everything is fetched once more.
fn bring<'a>(
    download: &Download<'_>,
    name: &str,
    content: &Content,
    mut partial: Partial<'a>,
) -> Result<Partial<'a>, HubError> {
    let mut was_resumed = partial.length() > 0;
    if was_resumed {
        info!("Resuming {name} at {} of {} bytes", partial.length(), content.size);
    }
    download.progress.advance(name, partial.length());
    loop {
        retrying(name, ATTEMPTS, download.stop, || {
            let result = stream(download, name, content, &mut partial);
            (result, partial.length())
        })?;
        let Err(reason) = partial.check() else { return Ok(partial) };
        if !was_resumed {
            partial.discard()?;
            return Err(HubError::Damaged(format!(
                "{name} is not what the Hub announced: {reason}; it was deleted"
            )));
        }
        download.progress.retreat(name, partial.length());
        partial.restart()?;
        was_resumed = false;
        warn!("{name}: what an earlier download left does not fit ({reason}), fetching all of it again");
    }
}

/// One request for the rest of the file.
fn stream(
    download: &Download<'_>,
    name: &str,
    content: &Content,
    partial: &mut Partial<'_>,
) -> Result<(), HubError> {
    if partial.length() == content.size {
        return Ok(());
    }
    let mut part = download.client.bytes(download.commit, name, content.size, partial.length())?;
    if part.from != partial.length() {
        download.progress.retreat(name, partial.length());
        partial.restart()?;
    }
    let mut buffer = vec![0; BUFFER];
    loop {
        if download.stop.is_set() {
            return Err(HubError::Stopped);
        }
        match part.body.read(&mut buffer) {
            Ok(0) if partial.length() == content.size => return Ok(()),
            Ok(0) => return Err(cut(partial, content, "the connection was closed")),
            Ok(n) => {
                partial.append(&buffer[..n])?;
                download.progress.advance(name, n as u64);
            }
            Err(error) => return Err(cut(partial, content, &error.to_string())),
        }
    }
}

fn cut(partial: &Partial<'_>, content: &Content, reason: &str) -> HubError {
    HubError::transient(format!("cut after {} of {} bytes: {reason}", partial.length(), content.size))
}
