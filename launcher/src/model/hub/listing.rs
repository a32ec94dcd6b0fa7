//! What the Hub says a revision holds: its commit and files. Pure: JSON in.
//!
//! Made by `client`. Names, commits and entity tags become paths in the cache, so whatever could lead
//! outside of it is refused here; nothing unchecked leaves this file.

use serde::Deserialize;

use super::error::HubError;

/// Files that a revision may have before the answer is taken for nonsense.
const MAX_FILES: usize = 100_000;
const MAX_NAME_BYTES: usize = 255;

/// A full commit id: 40 (SHA-1) or 64 (SHA-256) lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Commit(String);

impl Commit {
    /// The commit that `text` names, if it is a full one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let is_full = matches!(text.len(), 40 | 64) && is_hex(text);
        is_full.then(|| Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A file's entity tag, which names its blob in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Etag(String);

/// How an entity tag depends on the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Digest {
    /// SHA-256 of the content: files in large file storage.
    Sha256,
    /// SHA-1 of git's blob header and the content: files in git itself.
    GitBlob,
    /// Not derived from the content in a known way (a mirror's own tags).
    Opaque,
}

impl Etag {
    /// From an `ETag` header or a digest: quotes and weakness marks are removed.
    ///
    /// # Errors
    /// [`HubError::Unusable`] for what is no safe file name.
    pub(super) fn parse(text: &str) -> Result<Self, HubError> {
        let tag = text.trim().trim_start_matches("W/").trim_matches('"');
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=');
        let is_name =
            !tag.is_empty() && tag.len() <= 128 && tag.chars().all(allowed) && !tag.starts_with('.');
        if is_name {
            return Ok(Self(tag.to_owned()));
        }
        Err(HubError::Unusable(format!("the Hub sent the entity tag {text:?}, which cannot name a file")))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn digest(&self) -> Digest {
        match self.0.len() {
            64 if is_hex(&self.0) => Digest::Sha256,
            40 if is_hex(&self.0) => Digest::GitBlob,
            _ => Digest::Opaque,
        }
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// One file at the root of a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// A plain file name.
    pub name: String,
    /// Size in bytes and entity tag; `None` where the listing lacks them (some mirrors).
    pub content: Option<Content>,
}

/// What a file's bytes must turn out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    /// Size in bytes.
    pub size: u64,
    /// Names the blob, and mostly digests it.
    pub etag: Etag,
}

/// A revision: its commit, and the files at its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listing {
    pub commit: Commit,
    pub files: Vec<RemoteFile>,
}

/// The answer to `/api/models/ID/revision/REVISION?blobs=true`, as far as it is read.
#[derive(Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Listing {
    /// Reads the Hub's answer; files in subfolders are left out.
    ///
    /// # Errors
    /// [`HubError::Unusable`] for what is no such answer, or names that no repository has.
    pub(super) fn parse(json: &[u8]) -> Result<Self, HubError> {
        let unusable =
            |reason: String| HubError::Unusable(format!("the Hub's answer cannot be used: {reason}"));
        let answer: Answer = serde_json::from_slice(json).map_err(|error| unusable(error.to_string()))?;
        let commit = Commit::parse(&answer.sha)
            .ok_or_else(|| unusable(format!("`sha` is {:?}, expected a full commit id", answer.sha)))?;
        if answer.siblings.len() > MAX_FILES {
            return Err(unusable(format!(
                "it lists {} files, expected at most {MAX_FILES}",
                answer.siblings.len()
            )));
        }
        let mut files = Vec::new();
        for sibling in answer.siblings {
            check_path(&sibling.rfilename)?;
            if !sibling.rfilename.contains('/') {
                files.push(RemoteFile { content: content(&sibling)?, name: sibling.rfilename });
            }
        }
        Ok(Self { commit, files })
    }

    /// The file called `name`.
    pub(super) fn get(&self, name: &str) -> Option<&RemoteFile> {
        self.files.iter().find(|file| file.name == name)
    }
}

fn content(sibling: &Sibling) -> Result<Option<Content>, HubError> {
    let lfs = sibling.lfs.as_ref().and_then(|lfs| Some((lfs.size.or(sibling.size)?, lfs.sha256.as_deref()?)));
    let git = || {
        sibling.lfs.is_none().then_some(()).and_then(|()| Some((sibling.size?, sibling.blob_id.as_deref()?)))
    };
    let Some((size, tag)) = lfs.or_else(git) else { return Ok(None) };
    Ok(Some(Content { size, etag: Etag::parse(tag)? }))
}

/// Refuses paths that could lead out of a folder or cannot be written down.
///
/// # Errors
/// [`HubError::Unusable`] with the path.
pub(super) fn check_path(path: &str) -> Result<(), HubError> {
    let is_part = |part: &str| {
        !matches!(part, "" | "." | "..") && part.len() <= MAX_NAME_BYTES && !part.contains(['\\', '\0', ':'])
    };
    if path.split('/').all(is_part) && !path.chars().any(char::is_control) {
        return Ok(());
    }
    Err(HubError::Unusable(format!(
        "the repository names a file {path:?}, which is no path inside it; refused"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SHA1: &str = "0123456789abcdef0123456789abcdef01234567";
    const SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn an_answer_of_the_hub() {
        let answer = json!({"id": "a/b", "sha": SHA1, "siblings": [
            {"rfilename": "config.json", "size": 12, "blobId": SHA1},
            {"rfilename": "m.safetensors", "size": 99, "blobId": SHA1, "lfs": {"sha256": SHA256, "size": 99, "pointerSize": 1}},
            {"rfilename": "onnx/model.onnx"},
            {"rfilename": "mirror.json"},
        ]});
        let listing = Listing::parse(answer.to_string().as_bytes()).expect("an answer");
        assert_eq!(listing.commit.as_str(), SHA1);
        let names: Vec<&str> = listing.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["config.json", "m.safetensors", "mirror.json"]);
        let digest = |name: &str| {
            let content = listing.get(name).expect("listed").content.as_ref()?;
            Some((content.size, content.etag.digest()))
        };
        assert_eq!(digest("config.json"), Some((12, Digest::GitBlob)));
        assert_eq!(digest("m.safetensors"), Some((99, Digest::Sha256)));
        assert_eq!(digest("mirror.json"), None);
    }

    #[test]
    fn answers_that_are_refused() {
        let named = |name: &str| json!({"sha": SHA1, "siblings": [{"rfilename": name}]}).to_string();
        let tagged = |tag: &str| {
            json!({"sha": SHA1, "siblings": [{"rfilename": "a", "size": 1, "blobId": tag}]}).to_string()
        };
        let cases = [
            ("<html>".to_owned(), "cannot be used"),
            (json!({"sha": "../../etc"}).to_string(), "expected a full commit id"),
            (json!({"sha": SHA1.to_uppercase()}).to_string(), "expected a full commit id"),
            (json!({"siblings": []}).to_string(), "missing field `sha`"),
            (named("../x"), "no path inside it"),
            (named("a/../../x"), "no path inside it"),
            (named("/etc/passwd"), "no path inside it"),
            (named("a\\..\\x"), "no path inside it"),
            (named("a\nb"), "no path inside it"),
            (named(""), "no path inside it"),
            (named(&"x".repeat(300)), "no path inside it"),
            (tagged("../../x"), "cannot name a file"),
            (tagged(".hidden"), "cannot name a file"),
            (tagged(""), "cannot name a file"),
        ];
        for (json, part) in cases {
            let message = Listing::parse(json.as_bytes()).expect_err(part).to_string();
            assert!(message.contains(part), "{json}: {message}");
        }
    }

    #[test]
    fn entity_tags() {
        for (text, expected, digest) in [
            (format!("\"{SHA256}\""), SHA256, Digest::Sha256),
            (format!("W/\"{SHA1}\""), SHA1, Digest::GitBlob),
            ("\"64-abc\"".to_owned(), "64-abc", Digest::Opaque),
        ] {
            let tag = Etag::parse(&text).expect("a tag");
            assert_eq!((tag.as_str(), tag.digest()), (expected, digest));
        }
    }
}
