//! Where the Hub is, who asks, and whether it may be asked: the environment variables of Python's huggingface_hub.
//!
//! Read once by `launch` and by `download-weights`. The token is never shown and goes to the endpoint's host alone.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::folders::{CacheVariables, HubCache};
use crate::args::Secret;

const ENDPOINT: &str = "https://huggingface.co";
const TOKEN_VARIABLES: [&str; 3] = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN"];
/// A read that brings nothing for so long has failed.
const STALL: Duration = Duration::from_secs(10);

/// Variables that a shard or a router has no use for; the launcher hides them from its children.
pub const SECRET_VARIABLES: [&str; 3] = TOKEN_VARIABLES;

/// How to reach the Hub and where to keep what it sends.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// `HF_ENDPOINT` without a slash at its end.
    pub(super) endpoint: String,
    /// The user's access token.
    pub(super) token: Option<Secret>,
    /// `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`: the network is not to be used.
    pub(super) offline: bool,
    /// The cache on this machine.
    pub(super) cache: HubCache,
    /// Certificates to trust instead of the built-in ones.
    pub(super) ca_bundle: Option<PathBuf>,
    /// The longest that a connection may bring nothing.
    pub(super) stall: Duration,
    /// Whether bars may be drawn on a terminal (`HF_HUB_DISABLE_PROGRESS_BARS` forbids it).
    pub(super) bars: bool,
}

impl HubSettings {
    /// From this process's environment; `cache` is `--huggingface-hub-cache`.
    pub fn from_environment(cache: Option<&Path>) -> Self {
        Self::from_variables(cache, &CacheVariables::from_environment(), |name| std::env::var_os(name))
    }

    /// As [`HubSettings::from_environment`], with `variable` to look a name up.
    fn from_variables(
        cache: Option<&Path>,
        folders: &CacheVariables,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Self {
        let text = |name: &str| {
            let value = variable(name)?.into_string().ok()?;
            Some(value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let is_true = |name: &str| {
            text(name).is_some_and(|value| {
                matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
            })
        };
        let token_file = || {
            let path = text("HF_TOKEN_PATH")
                .map(PathBuf::from)
                .or_else(|| Some(folders.hugging_face()?.join("token")));
            let token = fs::read_to_string(path?).ok()?;
            Some(token.trim().to_owned()).filter(|token| !token.is_empty())
        };
        let token = TOKEN_VARIABLES.into_iter().find_map(text).or_else(token_file);
        let ca_bundle = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"].into_iter().find_map(text);
        let stall =
            text("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|value| value.parse().ok()).map(Duration::from_secs);
        Self {
            endpoint: text("HF_ENDPOINT")
                .map_or(ENDPOINT.to_owned(), |url| url.trim_end_matches('/').to_owned()),
            token: token.map(Secret::new),
            offline: is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE"),
            cache: HubCache::locate(cache, folders),
            ca_bundle: ca_bundle.map(PathBuf::from),
            stall: stall.filter(|stall| !stall.is_zero()).unwrap_or(STALL),
            bars: !is_true("HF_HUB_DISABLE_PROGRESS_BARS"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)], folders: &CacheVariables) -> HubSettings {
        let lookup =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        HubSettings::from_variables(None, folders, lookup)
    }

    #[test]
    fn variables() {
        let none = settings(&[], &CacheVariables::default());
        assert_eq!(
            (none.endpoint.as_str(), none.token.is_none(), none.offline, none.bars),
            (ENDPOINT, true, false, true)
        );
        assert_eq!(none.stall, STALL);
        let set = settings(
            &[
                ("HF_ENDPOINT", "http://127.0.0.1:5/"),
                ("HF_TOKEN", " hf_secret\n"),
                ("TRANSFORMERS_OFFLINE", "yes"),
                ("SSL_CERT_FILE", "/ca.pem"),
                ("HF_HUB_DOWNLOAD_TIMEOUT", "30"),
                ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
            ],
            &CacheVariables::default(),
        );
        assert_eq!((set.endpoint.as_str(), set.offline, set.bars), ("http://127.0.0.1:5", true, false));
        assert_eq!(set.token.as_ref().map(Secret::expose), Some("hf_secret"));
        assert_eq!((set.ca_bundle.as_deref(), set.stall.as_secs()), (Some(Path::new("/ca.pem")), 30));
        assert!(!format!("{set:?}").contains("hf_secret"));
    }

    #[test]
    fn the_token_file_is_read_where_there_is_no_variable() {
        let home = tempfile::tempdir().expect("temporary folder");
        fs::write(home.path().join("token"), "from-file\n").expect("written");
        let folders = CacheVariables { hf_home: Some(home.path().into()), ..Default::default() };
        let exposed = |variables: &[(&str, &str)]| {
            settings(variables, &folders).token.map(|token| token.expose().to_owned())
        };
        assert_eq!(exposed(&[]).as_deref(), Some("from-file"));
        assert_eq!(exposed(&[("HF_TOKEN", "")]).as_deref(), Some("from-file"));
        assert_eq!(exposed(&[("HUGGING_FACE_HUB_TOKEN", "older")]).as_deref(), Some("older"));
        assert_eq!(exposed(&[("HF_TOKEN_PATH", "/no/such/file")]), None);
    }
}
