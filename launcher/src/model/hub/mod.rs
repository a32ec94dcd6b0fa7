//! From a Hub id to a checked snapshot in Hugging Face's cache, downloading what is missing.
//!
//! Called by `launch` on a blocking thread and by the subcommand `download-weights`. Only files that this server
//! reads are fetched; a pickle or a script never is. A complete snapshot is served even when the Hub
//! cannot be asked.

mod blob;
mod cache;
mod choose;
mod client;
mod error;
mod folders;
mod headers;
mod listing;
mod partial;
mod progress;
mod refusal;
mod retry;
mod settings;
mod stop;
mod transfer;

use std::path::{Path, PathBuf};

use serde_json::Value;
use tracing::{info, warn};

use cache::CachedRepository;
use client::Client;
pub use error::HubError;
pub use folders::{CacheVariables, HubCache};
pub use headers::HeaderFolder;
use listing::{Commit, Listing, RemoteFile};
use progress::Display;
use retry::{ATTEMPTS, retrying};
pub use settings::{HubSettings, SECRET_VARIABLES};
use stop::Stop;
use transfer::{Wanted, Way};

use super::ModelFacts;
use super::folder::{INDEX, Weights, read_folder, read_json};
use crate::error::LauncherError;

/// What a repository means when no revision is given.
const DEFAULT_REVISION: &str = "main";

/// A model to be had.
#[derive(Debug, Clone)]
pub struct HubModel {
    /// `name` or `owner/name`.
    pub id: String,
    /// Branch, tag or commit.
    pub revision: Option<String>,
    /// Whether weights are wanted at all.
    pub weights: Weights,
    /// Whether progress may be drawn on stderr.
    pub on_terminal: bool,
}

/// The folder of the model, complete. `check` judges the configuration before any weight is fetched.
///
/// # Errors
/// [`LauncherError::Download`] with what is wrong and what to do, or what `check` says.
pub fn prepare(
    model: &HubModel,
    settings: &HubSettings,
    check: impl Fn(&ModelFacts) -> Result<(), LauncherError>,
) -> Result<PathBuf, LauncherError> {
    let revision = model.revision.as_deref().unwrap_or(DEFAULT_REVISION);
    let cache = CachedRepository::new(settings.cache.root(), &model.id);
    let cached = cache.snapshot_of(revision);
    let complete = cached.as_deref().map(|folder| read_folder(folder, model.weights));
    let explain =
        |reason: String| LauncherError::Download(format!("{} cannot be loaded: {reason}", model.id));
    match (cached, complete) {
        (Some(folder), Some(Ok(facts))) if settings.offline || Commit::parse(revision).is_some() => {
            info!("Files are already present on the host. Skipping download.");
            check(&facts).map(|()| folder)
        }
        (cached, complete) if settings.offline => {
            Err(explain(offline(cached.as_deref(), complete, revision, settings)))
        }
        (cached, complete) => {
            let repository = Repository { model, settings, revision, cache: &cache };
            let usable = cached.zip(complete.and_then(Result::ok));
            repository.fetch(usable, check).map_err(|error| match error {
                Failure::Hub(error) => explain(error.to_string()),
                Failure::Check(error) => error,
            })
        }
    }
}

/// What `plan` reads of a model.
pub enum Description {
    /// A snapshot in the cache, complete.
    Snapshot(PathBuf),
    Headers(HeaderFolder),
}

impl Description {
    pub fn path(&self) -> &Path {
        match self {
            Self::Snapshot(folder) => folder,
            Self::Headers(folder) => folder.path(),
        }
    }
}

/// Configuration and headers of the model; weights only where the cache has them.
///
/// # Errors
/// [`LauncherError::Download`] with what is wrong and what to do.
pub fn describe(model: &HubModel, settings: &HubSettings) -> Result<Description, LauncherError> {
    let revision = model.revision.as_deref().unwrap_or(DEFAULT_REVISION);
    let cache = CachedRepository::new(settings.cache.root(), &model.id);
    if settings.offline {
        return prepare(model, settings, |_| Ok(())).map(Description::Snapshot);
    }
    let repository = Repository { model, settings, revision, cache: &cache };
    let explain =
        |error: HubError| LauncherError::Download(format!("{} cannot be planned: {error}", model.id));
    repository.headers().map_err(explain)
}

fn offline(
    cached: Option<&Path>,
    complete: Option<Result<ModelFacts, String>>,
    revision: &str,
    settings: &HubSettings,
) -> String {
    let found = match (cached, complete) {
        (Some(_), Some(Err(reason))) => format!("its snapshot in the cache is incomplete: {reason}"),
        _ => format!("revision {revision} is not in the cache {}", settings.cache.root().display()),
    };
    format!(
        "{found}, and HF_HUB_OFFLINE forbids to fetch it. Start once without HF_HUB_OFFLINE, bring the cache from another \
         machine, or pass the path of a local folder as --model-id"
    )
}

/// Why there is no folder.
enum Failure {
    Hub(HubError),
    Check(LauncherError),
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Hub(error)
    }
}

/// One revision of one repository, and where it goes.
struct Repository<'a> {
    model: &'a HubModel,
    settings: &'a HubSettings,
    revision: &'a str,
    cache: &'a CachedRepository,
}

impl Repository<'_> {
    /// Downloads what is missing; `cached` is a complete snapshot to fall back on.
    fn fetch(
        &self,
        cached: Option<(PathBuf, ModelFacts)>,
        check: impl Fn(&ModelFacts) -> Result<(), LauncherError>,
    ) -> Result<PathBuf, Failure> {
        let client = Client::new(self.settings, &self.model.id, self.revision)?;
        let attempts = if cached.is_some() { 1 } else { ATTEMPTS };
        let asked = retrying(&self.model.id, attempts, &Stop::default(), || (client.listing(), 0));
        let listing = match (asked, cached) {
            (Ok(listing), _) => listing,
            (Err(error), Some((folder, facts))) if !matches!(error, HubError::NoRevision(_)) => {
                warn!("{error}. Serving the snapshot in the cache: {}", folder.display());
                return check(&facts).map(|()| folder).map_err(Failure::Check);
            }
            (Err(error @ HubError::Transient { .. }), _) => {
                return Err(Failure::Hub(self.unreachable(error)));
            }
            (Err(error), _) => return Err(Failure::Hub(error)),
        };
        let folder = self.fetch_description(&client, &listing)?;
        check(&read_folder(&folder, Weights::Dummy).map_err(HubError::Unusable)?).map_err(Failure::Check)?;
        if self.model.weights == Weights::Whole {
            self.fetch_weights(&client, &listing, &folder)?;
        }
        read_folder(&folder, self.model.weights).map_err(HubError::Unusable)?;
        Ok(folder)
    }

    /// The small files, and of the weights what the cache lacks as headers.
    fn headers(&self) -> Result<Description, HubError> {
        let client = Client::new(self.settings, &self.model.id, self.revision)?;
        let asked = retrying(&self.model.id, ATTEMPTS, &Stop::default(), || (client.listing(), 0));
        let listing = asked.map_err(|error| match error {
            HubError::Transient { .. } => self.unreachable(error),
            other => other,
        })?;
        let snapshot = self.fetch_description(&client, &listing)?;
        if self.model.weights == Weights::Dummy {
            return Ok(Description::Snapshot(snapshot));
        }
        let index: Option<Value> = read_json(&snapshot, INDEX).map_err(HubError::Unusable)?;
        let files = self.missing(&client, &listing, choose::weights(&listing, index.as_ref())?)?;
        if files.is_empty() {
            return Ok(Description::Snapshot(snapshot));
        }
        let folder = HeaderFolder::new(&snapshot)?;
        for (name, content) in &files {
            folder.fetch(&client, &listing.commit, (name, content))?;
        }
        Ok(Description::Headers(folder))
    }

    fn unreachable(&self, error: HubError) -> HubError {
        HubError::NoAccess(format!(
            "{error}. It is not in the cache {} either. Check the network, HF_ENDPOINT and HTTPS_PROXY, or pass the path \
             of a local folder as --model-id",
            self.settings.cache.root().display()
        ))
    }

    /// The small files; the snapshot's folder.
    fn fetch_description(&self, client: &Client<'_>, listing: &Listing) -> Result<PathBuf, HubError> {
        let files = self.missing(client, listing, choose::description(listing)?)?;
        if !files.is_empty() {
            transfer::fetch_all(&self.way(client, listing), &files, Display::Quiet)?;
        }
        let noted = self.cache.set_revision(self.revision, &listing.commit);
        // A cache that was filled elsewhere may be read-only.
        let _ = noted.inspect_err(|error| warn!("Revision {} could not be noted: {error}", self.revision));
        Ok(self.cache.snapshot(&listing.commit))
    }

    fn fetch_weights(&self, client: &Client<'_>, listing: &Listing, folder: &Path) -> Result<(), HubError> {
        let index: Option<Value> = read_json(folder, INDEX).map_err(HubError::Unusable)?;
        let files = self.missing(client, listing, choose::weights(listing, index.as_ref())?)?;
        if files.is_empty() {
            info!("Files are already present on the host. Skipping download.");
            return Ok(());
        }
        info!("Downloading {} weight files of {} at {}", files.len(), self.model.id, listing.commit.as_str());
        let display =
            if self.model.on_terminal && self.settings.bars { Display::Bars } else { Display::Lines };
        transfer::fetch_all(&self.way(client, listing), &files, display)
    }

    fn way<'b>(&'b self, client: &'b Client<'b>, listing: &'b Listing) -> Way<'b> {
        Way { client, cache: self.cache, commit: &listing.commit }
    }

    /// Those of `files` that the snapshot lacks, with what they must contain.
    fn missing(
        &self,
        client: &Client<'_>,
        listing: &Listing,
        files: Vec<&RemoteFile>,
    ) -> Result<Vec<Wanted>, HubError> {
        let snapshot = self.cache.snapshot(&listing.commit);
        let mut wanted = Vec::new();
        for file in files {
            let present =
                std::fs::metadata(snapshot.join(&file.name)).ok().filter(|metadata| metadata.is_file());
            let announced = file.content.as_ref().map(|content| content.size);
            if present.is_some_and(|present| announced.is_none_or(|size| size == present.len())) {
                continue;
            }
            let content = match &file.content {
                Some(content) => content.clone(),
                None => retrying(&file.name, ATTEMPTS, &Stop::default(), || {
                    (client.content(&listing.commit, &file.name), 0)
                })?,
            };
            wanted.push((file.name.clone(), content));
        }
        Ok(wanted)
    }
}
