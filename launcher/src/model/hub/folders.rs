//! Which folder is the Hub's cache on this machine, by the variables of Python's huggingface_hub.
//!
//! Called by `settings`, and by `launch` for the user's cache folder. Looks at no file.

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

    /// Hugging Face's own folder, with the cache and the token: `HF_HOME`, else in the user's cache.
    pub fn hugging_face(&self) -> Option<PathBuf> {
        let in_cache = || self.user_cache().map(|cache| cache.join("huggingface"));
        self.hf_home.as_deref().map(|path| self.expanded(path)).or_else(in_cache)
    }

    /// `path` with a leading `~/` replaced: no shell does it for a variable of a container.
    fn expanded(&self, path: &Path) -> PathBuf {
        match (path.strip_prefix("~"), &self.home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => path.to_path_buf(),
        }
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
        let named = flag.or(variables.hf_hub_cache.as_deref()).map(|path| variables.expanded(path));
        let root = named.or_else(|| variables.hugging_face().map(|folder| folder.join("hub")));
        Self { root: root.unwrap_or_else(|| PathBuf::from(".cache/huggingface/hub")) }
    }

    /// The cache folder itself.
    pub fn root(&self) -> &Path {
        &self.root
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
        assert_eq!(root(Some("~/flag"), &variables), "/home/u/flag");
        assert_eq!(root(None, &variables), "/hub-cache");
        variables.hf_hub_cache = None;
        assert_eq!(root(None, &variables), "/hf/hub");
        variables.hf_home = None;
        assert_eq!(root(None, &variables), "/xdg/huggingface/hub");
        variables.xdg_cache_home = None;
        assert_eq!(root(None, &variables), "/home/u/.cache/huggingface/hub");
    }
}
