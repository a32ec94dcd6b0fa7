//! What a status code of the Hub means for whoever started the server. Pure: status and headers in, an error out.
//!
//! Called by `client` for every answer that is neither content nor a redirect. The Hub says 401 for
//! repositories that do not exist, too, so the texts name both possibilities.

use std::time::Duration;

use super::error::HubError;

/// What was asked for, to be named in the error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub endpoint: &'a str,
    pub id: &'a str,
    pub revision: &'a str,
    /// A file, or none for the list of them.
    pub file: Option<&'a str>,
    /// Whether a token went with it.
    pub has_token: bool,
}

/// The parts of an answer that explain a refusal.
#[derive(Debug, Clone, Default)]
pub(super) struct Refusal {
    pub status: u16,
    /// `X-Error-Code`: `RepoNotFound`, `GatedRepo`, ...
    pub code: Option<String>,
    /// `X-Error-Message`
    pub message: Option<String>,
    /// `Retry-After` in seconds, or the reset time of a `RateLimit` header.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// Wait that a `Retry-After` (in seconds) or `RateLimit` (`"api";r=0;t=55`) header asks for.
    pub(super) fn wish(retry_after: Option<&str>, rate_limit: Option<&str>) -> Option<Duration> {
        let reset = || rate_limit?.split(';').find_map(|part| part.trim().strip_prefix("t="));
        retry_after.or_else(reset)?.trim().parse().ok().map(Duration::from_secs)
    }

    /// The error that this refusal of `question` is.
    pub(super) fn explain(&self, question: &Question<'_>) -> HubError {
        let Question { endpoint, id, revision, file, .. } = *question;
        let status = self.status;
        match (status, self.code.as_deref()) {
            (408 | 429 | 500..=599, _) => {
                HubError::Transient { reason: self.busy(endpoint), retry_after: self.retry_after }
            }
            (_, Some("RevisionNotFound")) => HubError::NoRevision(format!(
                "{id} has no revision {revision} on {endpoint}. Check --revision"
            )),
            (_, Some("GatedRepo")) => HubError::NoAccess(gated(question)),
            (_, Some("EntryNotFound")) => {
                HubError::Unusable(format!("{id} lists {} but does not hold it", file.unwrap_or("a file")))
            }
            (401, _) if question.has_token => HubError::NoAccess(format!(
                "{endpoint} does not let this token read {id} (401{}). Check the spelling of the id, and that the token \
                 in HF_TOKEN is valid and may read this repository",
                self.note()
            )),
            (401, _) => HubError::NoAccess(format!(
                "{id} is not on {endpoint}, or is private (401). Check the spelling; for a private or gated \
                 repository set HF_TOKEN to a token that may read it"
            )),
            (404, _) => {
                HubError::NoAccess(format!("{id} is not on {endpoint} (404). Check the spelling of the id"))
            }
            (403, _) => HubError::NoAccess(format!(
                "{endpoint} forbids access to {id} (403{}). Check what the account of your token may read",
                self.note()
            )),
            _ => {
                HubError::NoAccess(format!("{endpoint} answered {status}{} when asked for {id}", self.note()))
            }
        }
    }

    fn busy(&self, endpoint: &str) -> String {
        match self.status {
            429 => format!("{endpoint} asks to slow down (429)"),
            status => format!("{endpoint} answered {status}{}", self.note()),
        }
    }

    fn note(&self) -> String {
        let message = self.message.as_deref().or(self.code.as_deref());
        message
            .map_or(String::new(), |message| format!(": {}", message.chars().take(200).collect::<String>()))
    }
}

fn gated(question: &Question<'_>) -> String {
    let Question { endpoint, id, has_token, .. } = *question;
    let token = if has_token {
        "with the account that your token belongs to"
    } else {
        "and set HF_TOKEN to a token of yours"
    };
    format!(
        "{id} is gated: its authors ask for an agreement first. Accept it on {endpoint}/{id} {token}, then start again"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_says_what_to_do() {
        let cases = [
            (401, None, false, "set HF_TOKEN to a token that may read it"),
            (401, None, true, "does not let this token read o/n"),
            (401, Some("RepoNotFound"), false, "Check the spelling"),
            (401, Some("GatedRepo"), false, "Accept it on https://hub/o/n and set HF_TOKEN"),
            (403, Some("GatedRepo"), true, "Accept it on https://hub/o/n with the account"),
            (403, None, true, "forbids access to o/n (403)"),
            (404, Some("RepoNotFound"), false, "o/n is not on https://hub (404)"),
            (404, Some("RevisionNotFound"), false, "has no revision v9 on https://hub. Check --revision"),
            (404, Some("EntryNotFound"), false, "lists a.json but does not hold it"),
            (429, None, false, "asks to slow down (429)"),
            (503, None, false, "https://hub answered 503"),
            (451, None, false, "answered 451"),
        ];
        for (status, code, has_token, part) in cases {
            let question = Question {
                endpoint: "https://hub",
                id: "o/n",
                revision: "v9",
                file: Some("a.json"),
                has_token,
            };
            let refusal = Refusal { status, code: code.map(str::to_owned), ..Default::default() };
            let error = refusal.explain(&question);
            assert!(error.to_string().contains(part), "{status} {code:?}: {error}");
            assert_eq!(matches!(error, HubError::Transient { .. }), matches!(status, 429 | 503), "{error}");
        }
    }

    #[test]
    fn the_wish_to_wait() {
        let seconds = |after, limit| Refusal::wish(after, limit).map(|wish: Duration| wish.as_secs());
        assert_eq!(seconds(Some("7"), None), Some(7));
        assert_eq!(seconds(None, Some("\"api\";r=0;t=55")), Some(55));
        assert_eq!(seconds(Some("Wed, 21 Oct 2026 07:28:00 GMT"), None), None);
        assert_eq!(seconds(None, None), None);
    }
}
