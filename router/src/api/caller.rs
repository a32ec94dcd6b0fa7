//! Who asks, and how long the answer is of use: from headers, for whatever route. Used by `sequence`.
//!
//! `passage` reads the headers and every sequence opened within gets them, so that no route can
//! forget to pass them on. The key is never kept, only a digest of it.

use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};

use crate::request::{Caller, Tenant};
use crate::validation::Refusal;

/// Names the tenant among those of one key, for a gateway that asks on behalf of many.
const TENANT: &str = "x-tenant";
/// Milliseconds after which the answer is of no use.
const TIMEOUT: &str = "x-request-timeout-ms";

tokio::task_local! {
    static CALLER: Caller;
}

/// Whatever `handling` opens is opened for `caller`.
pub fn scope<T>(caller: Caller, handling: impl Future<Output = T>) -> impl Future<Output = T> {
    CALLER.scope(caller, handling)
}

/// The caller of the request that is being handled.
pub fn current() -> Caller {
    CALLER.try_with(|caller| *caller).unwrap_or(Caller::ANONYMOUS)
}

/// Who asks.
///
/// # Errors
/// When the time given is no number.
pub fn read(headers: &HeaderMap, now: Instant) -> Result<Caller, Refusal> {
    let timeout = headers.get(TIMEOUT).map(|value| {
        let ms = value.to_str().ok().and_then(|text| text.trim().parse().ok()).filter(|ms| *ms > 0);
        let given = String::from_utf8_lossy(value.as_bytes());
        ms.ok_or_else(|| Refusal(format!("`{TIMEOUT}` must be a number of milliseconds > 0. Given: {given}")))
    });
    // One that is too far away for the clock is none.
    let deadline = timeout.transpose()?.and_then(|ms| now.checked_add(Duration::from_millis(ms)));
    Ok(Caller { tenant: tenant(headers), deadline })
}

fn tenant(headers: &HeaderMap) -> Tenant {
    let key = headers.get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    let name = headers.get(TENANT).map_or(&b""[..], |value| value.as_bytes());
    if key.is_empty() && name.is_empty() {
        return Caller::ANONYMOUS.tenant;
    }
    let digest = Sha256::new().chain_update((key.len() as u64).to_le_bytes()).chain_update(key);
    Tenant(digest.chain_update(name).finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|&(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn tenants_differ_by_key_and_name() {
        let cases: [&[(&str, &str)]; 7] = [
            &[],
            &[("authorization", "Bearer a")],
            &[("authorization", "Bearer b")],
            &[("x-tenant", "a")],
            &[("authorization", "Bearer a"), ("x-tenant", "b")],
            &[("authorization", "Bearer ab")],
            &[("x-tenant", "Bearer a")],
        ];
        let tenants: std::collections::BTreeSet<Tenant> = cases.map(|c| tenant(&headers(c))).into();
        assert_eq!(tenants.len(), cases.len());
        assert_eq!(tenant(&headers(&[])), Caller::ANONYMOUS.tenant);
    }

    #[test]
    fn deadlines() {
        let now = Instant::now();
        let read = |text| read(&headers(&[(TIMEOUT, text)]), now).map(|caller| caller.deadline);
        assert_eq!(read("250"), Ok(Some(now + Duration::from_millis(250))));
        for text in ["0", "-1", "1.5", "soon", ""] {
            let expected =
                format!("`x-request-timeout-ms` must be a number of milliseconds > 0. Given: {text}");
            assert_eq!(read(text), Err(Refusal(expected)));
        }
        assert!(read("18446744073709551615").is_ok());
        assert_eq!(super::read(&headers(&[]), now), Ok(Caller::ANONYMOUS));
    }
}
