//! The requests to the Hub: a revision's listing, a file's size and tag, a file's bytes from an offset on.
//!
//! Called by `mod` and `blob`. One attempt each: when to try again is `retry`'s. The token is sent to the
//! endpoint's host alone, and bodies are never decompressed, so that offsets and sizes are the file's own.

use std::fs;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::time::Duration;

use ureq::config::{AutoHeaderValue, RedirectAuthHeaders};
use ureq::http::{Response, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::error::HubError;
use super::listing::{Commit, Content, Etag, Listing};
use super::refusal::{Question, Refusal};
use super::settings::HubSettings;

const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);
const MAX_LISTING_BYTES: u64 = 64 << 20;
const MAX_REDIRECTS: u32 = 10;
const USER_AGENT: &str = concat!("quern/", env!("CARGO_PKG_VERSION"));

/// A connection pool for one repository.
pub(super) struct Client<'a> {
    agent: Agent,
    settings: &'a HubSettings,
    id: &'a str,
    revision: &'a str,
}

/// An answer with content: the offset it begins at, and its bytes.
pub(super) struct Part {
    pub from: u64,
    pub body: Box<dyn Read>,
}

impl<'a> Client<'a> {
    /// For `revision` of the repository `id`.
    ///
    /// # Errors
    /// [`HubError::Disk`] when the certificates to trust cannot be read.
    pub(super) fn new(settings: &'a HubSettings, id: &'a str, revision: &'a str) -> Result<Self, HubError> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(MAX_REDIRECTS)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(USER_AGENT)
            .accept_encoding(AutoHeaderValue::None)
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER.max(settings.stall)))
            .timeout_per_read(Some(settings.stall));
        if let Some(roots) = roots(settings)? {
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Ok(Self { agent: config.build().new_agent(), settings, id, revision })
    }

    /// The revision's commit and files.
    pub(super) fn listing(&self) -> Result<Listing, HubError> {
        let Self { settings: HubSettings { endpoint, .. }, id, revision, .. } = self;
        let url = format!("{endpoint}/api/models/{id}/revision/{}?blobs=true", quoted(revision));
        let answer = self.accepted(self.request(self.agent.get(&url)).call(), None)?;
        let mut json = Vec::new();
        let read = answer.into_body().into_reader().take(MAX_LISTING_BYTES + 1).read_to_end(&mut json);
        read.map_err(|error| HubError::transient(format!("{endpoint}: {error}")))?;
        if json.len() as u64 > MAX_LISTING_BYTES {
            return Err(HubError::Unusable(format!(
                "the Hub's list of files is over {MAX_LISTING_BYTES} bytes"
            )));
        }
        Listing::parse(&json)
    }

    /// Size and entity tag of a file, for mirrors whose listings lack them.
    pub(super) fn content(&self, commit: &Commit, file: &str) -> Result<Content, HubError> {
        let mut url = self.file_url(commit, file);
        for _ in 0..MAX_REDIRECTS {
            // The last answer before the redirect to the storage has the tag of the content.
            let request = self.request(self.agent.head(&url)).config();
            let request = request.max_redirects(0).max_redirects_will_error(false).build();
            let answer = self.accepted(request.call(), Some(file))?;
            let header =
                |names: &[&str]| names.iter().find_map(|name| answer.headers().get(*name)?.to_str().ok());
            let location = header(&["location"]).filter(|_| answer.status().is_redirection());
            if let Some(path) =
                location.filter(|location| location.starts_with('/') && !location.starts_with("//"))
            {
                url = format!("{}{path}", self.settings.endpoint);
                continue;
            }
            let size_names: &[&str] =
                if location.is_some() { &["x-linked-size"] } else { &["x-linked-size", "content-length"] };
            let size = header(size_names).and_then(|size| size.parse().ok());
            return match (size, header(&["x-linked-etag", "etag"])) {
                (Some(size), Some(tag)) => Ok(Content { size, etag: Etag::parse(tag)? }),
                _ => Err(HubError::Unusable(format!(
                    "{} does not say size and entity tag of {file}, so it cannot be checked; set another HF_ENDPOINT",
                    self.settings.endpoint
                ))),
            };
        }
        Err(HubError::Unusable(format!("{} sends {file} round in circles", self.settings.endpoint)))
    }

    /// The bytes of a file from `from` on, or from its beginning when the Hub cannot start elsewhere.
    pub(super) fn bytes(&self, commit: &Commit, file: &str, size: u64, from: u64) -> Result<Part, HubError> {
        let mut request = self.request(self.agent.get(self.file_url(commit, file)));
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let answer = self.accepted(request.call(), Some(file))?;
        let text =
            |name: header::HeaderName| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let (begins, total) = if answer.status() == 206 {
            let range = text(header::CONTENT_RANGE).and_then(content_range);
            range.ok_or_else(|| HubError::transient(format!("{file}: a part came without its place")))?
        } else {
            (0, text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok()).unwrap_or(size))
        };
        if total != size {
            return Err(HubError::Damaged(format!("{file} has {total} bytes, the Hub announced {size}")));
        }
        if begins != from && begins != 0 {
            return Err(HubError::transient(format!(
                "{file}: asked for bytes from {from} on, got them from {begins} on"
            )));
        }
        Ok(Part { from: begins, body: Box::new(answer.into_body().into_reader()) })
    }

    /// The `bytes` of a file, and no more of it than that even from a Hub that sends all.
    pub(super) fn range(&self, commit: &Commit, file: &str, bytes: Range<u64>) -> Result<Vec<u8>, HubError> {
        let request = self.request(self.agent.get(self.file_url(commit, file)));
        let wanted = format!("bytes={}-{}", bytes.start, bytes.end - 1);
        let answer = self.accepted(request.header(header::RANGE, wanted).call(), Some(file))?;
        let place = answer.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let begins = if answer.status() == 206 {
            place.and_then(content_range).map(|(begins, _)| begins)
        } else {
            Some(0)
        };
        let skipped = begins.and_then(|begins| bytes.start.checked_sub(begins));
        let skipped =
            skipped.ok_or_else(|| HubError::transient(format!("{file}: a part came without its place")))?;
        let cut = |error| HubError::transient(format!("{file}: cut: {error}"));
        let mut body = answer.into_body().into_reader();
        std::io::copy(&mut (&mut body).take(skipped), &mut std::io::sink()).map_err(cut)?;
        let mut part = Vec::new();
        body.take(bytes.end - bytes.start).read_to_end(&mut part).map_err(cut)?;
        match part.len() as u64 == bytes.end - bytes.start {
            true => Ok(part),
            false => Err(HubError::transient(format!(
                "{file}: {} bytes came of {wanted_bytes}",
                part.len(),
                wanted_bytes = bytes.end - bytes.start
            ))),
        }
    }

    fn file_url(&self, commit: &Commit, file: &str) -> String {
        format!("{}/{}/resolve/{}/{}", self.settings.endpoint, self.id, commit.as_str(), quoted(file))
    }

    fn request<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        let request = request.header(header::ACCEPT_ENCODING, "identity");
        match &self.settings.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose())),
            None => request,
        }
    }

    /// The answer, if it is content or a redirect.
    fn accepted(
        &self,
        answer: Result<Response<Body>, ureq::Error>,
        file: Option<&str>,
    ) -> Result<Response<Body>, HubError> {
        let answer = answer.map_err(|error| self.unreachable(&error))?;
        if answer.status().is_success() || answer.status().is_redirection() {
            return Ok(answer);
        }
        let text = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let refusal = Refusal {
            status: answer.status().as_u16(),
            code: text("x-error-code").map(str::to_owned),
            message: text("x-error-message").map(str::to_owned),
            retry_after: Refusal::wish(text("retry-after"), text("ratelimit")),
        };
        let HubSettings { endpoint, token, .. } = self.settings;
        let has_token = token.is_some();
        Err(refusal.explain(&Question { endpoint, id: self.id, revision: self.revision, file, has_token }))
    }

    fn unreachable(&self, error: &ureq::Error) -> HubError {
        let reason = format!("{} cannot be reached: {error}", self.settings.endpoint);
        match error {
            _ if is_untrusted(error) => HubError::NoAccess(format!(
                "{reason}. Behind a proxy with its own certificates set SSL_CERT_FILE"
            )),
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                HubError::NoAccess(format!("{reason}. Check HF_ENDPOINT"))
            }
            ureq::Error::InvalidProxyUrl => {
                HubError::NoAccess(format!("{reason}. Check HTTPS_PROXY and ALL_PROXY"))
            }
            ureq::Error::TooManyRedirects | ureq::Error::RedirectFailed => HubError::NoAccess(reason),
            _ => HubError::transient(reason),
        }
    }
}

/// Whether TLS was refused, as for a certificate that is not trusted: that does not pass by waiting.
fn is_untrusted(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => true,
        // What a handshake refuses arrives in this guise.
        ureq::Error::Io(error) => error.kind() == ErrorKind::InvalidData,
        _ => false,
    }
}

fn roots(settings: &HubSettings) -> Result<Option<RootCerts>, HubError> {
    let Some(path) = &settings.ca_bundle else { return Ok(None) };
    let pem = fs::read(path).map_err(HubError::disk(path))?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(HubError::Disk(format!("{} (SSL_CERT_FILE) holds no certificate", path.display())));
    }
    Ok(Some(RootCerts::new_with_certs(&certificates)))
}

/// Offset and total of `bytes 5-9/10`.
fn content_range(value: &str) -> Option<(u64, u64)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.trim().parse().ok()?, total.trim().parse().ok()?))
}

/// `text` as one path segment of a URL.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_and_ranges() {
        assert_eq!(quoted("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(quoted("model-00001.safetensors"), "model-00001.safetensors");
        assert_eq!(quoted("a b?c#é"), "a%20b%3Fc%23%C3%A9");
        let cases = [
            ("bytes 5-9/10", Some((5, 10))),
            ("bytes 0-0/1", Some((0, 1))),
            ("bytes */10", None),
            ("bytes 5-9/*", None),
            ("items 5-9/10", None),
            ("", None),
        ];
        for (value, expected) in cases {
            assert_eq!(content_range(value), expected, "{value}");
        }
    }
}
