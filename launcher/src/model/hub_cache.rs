//! Where huggingface_hub keeps what it downloaded, and which snapshot a revision means there.
//!
//! Called by `find_snapshot`. Only looks: it writes nothing and knows no network. The layout is
//! `models--OWNER--NAME/{refs/REVISION, snapshots/COMMIT/FILES}`.

use std::fs;
use std::path::{Path, PathBuf};

/// The environment variables that decide where the cache is.
#[derive(Debug, Clone, Default)]
pub struct CacheVariables {
    /// `HF_HUB_CACHE`
    pub hf_hub_cache: Option<PathBuf>,
    /// `HF_HOME`
    pub hf_home: Option<PathBuf>,
    /// `XDG_CACHE_HOME`
    pub xdg_cache_home: Option<PathBuf>,
    /// `HOME`
    pub home: Option<PathBuf>,
}

impl CacheVariables {
    /// The variables of this process; empty ones count as absent.
    pub fn from_environment() -> Self {
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            hf_hub_cache: path("HF_HUB_CACHE"),
            hf_home: path("HF_HOME"),
            xdg_cache_home: path("XDG_CACHE_HOME"),
            home: path("HOME"),
        }
    }

    /// The user's cache folder: `XDG_CACHE_HOME`, else `~/.cache`.
    pub fn user_cache(&self) -> Option<PathBuf> {
        self.xdg_cache_home.clone().or_else(|| Some(self.home.as_ref()?.join(".cache")))
    }
}

/// The Hub's cache on this machine.
#[derive(Debug, Clone)]
pub struct HubCache {
    root: PathBuf,
}

impl HubCache {
    /// In huggingface_hub's order: the flag (or `HUGGINGFACE_HUB_CACHE`), `HF_HUB_CACHE`, `HF_HOME/hub`,
    /// the user's cache.
    pub fn locate(flag: Option<&Path>, variables: &CacheVariables) -> Self {
        let in_home = || variables.hf_home.as_ref().map(|home| home.join("hub"));
        let in_cache = || variables.user_cache().map(|cache| cache.join("huggingface").join("hub"));
        let root = flag.map(Path::to_path_buf).or_else(|| variables.hf_hub_cache.clone()).or_else(in_home);
        Self { root: root.or_else(in_cache).unwrap_or_else(|| PathBuf::from(".cache/huggingface/hub")) }
    }

    /// The cache folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a revision: a branch or tag through `refs`, or a commit by its own name.
    pub fn snapshot(&self, id: &str, revision: &str) -> Option<PathBuf> {
        let is_plain =
            |name: &str| !name.is_empty() && name.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !is_plain(revision) {
            return None;
        }
        let repository = self.root.join(format!("models--{}", id.replace('/', "--")));
        let commit = fs::read_to_string(repository.join("refs").join(revision)).ok();
        let name = commit.as_deref().map_or(revision, str::trim);
        let folder = repository.join("snapshots").join(name);
        (is_plain(name) && folder.is_dir()).then_some(folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_the_variables() {
        let path = |text: &str| Some(PathBuf::from(text));
        let mut variables = CacheVariables {
            hf_hub_cache: path("/hub-cache"),
            hf_home: path("/hf"),
            xdg_cache_home: path("/xdg"),
            home: path("/home/u"),
        };
        let root = |flag: Option<&str>, variables: &CacheVariables| {
            HubCache::locate(flag.map(Path::new), variables).root().display().to_string()
        };
        assert_eq!(root(Some("/flag"), &variables), "/flag");
        assert_eq!(root(None, &variables), "/hub-cache");
        variables.hf_hub_cache = None;
        assert_eq!(root(None, &variables), "/hf/hub");
        variables.hf_home = None;
        assert_eq!(root(None, &variables), "/xdg/huggingface/hub");
        variables.xdg_cache_home = None;
        assert_eq!(root(None, &variables), "/home/u/.cache/huggingface/hub");
    }

    #[test]
    fn revisions() {
        let root = tempfile::tempdir().expect("temporary folder");
        let repository = root.path().join("models--owner--name");
        fs::create_dir_all(repository.join("snapshots/c0ffee")).expect("made");
        fs::create_dir_all(repository.join("refs/refs/pr")).expect("made");
        for (reference, commit) in
            [("main", "c0ffee\n"), ("refs/pr/1", "c0ffee"), ("gone", "dead"), ("evil", "../..")]
        {
            fs::write(repository.join("refs").join(reference), commit).expect("written");
        }
        let cache = HubCache::locate(Some(root.path()), &CacheVariables::default());
        let snapshot = repository.join("snapshots/c0ffee");
        let cases = [
            ("owner/name", "main", true),
            ("owner/name", "refs/pr/1", true),
            ("owner/name", "c0ffee", true),
            ("owner/name", "gone", false),
            ("owner/name", "evil", false),
            ("owner/name", "../snapshots", false),
            ("owner/other", "main", false),
        ];
        for (id, revision, found) in cases {
            assert_eq!(cache.snapshot(id, revision), found.then(|| snapshot.clone()), "{id} {revision}");
        }
    }
}
