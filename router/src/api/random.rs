//! Randomness of the HTTP edge, from the operating system: seeds, ids of responses and of requests.

/// A seed for a request that brought none.
pub fn seed() -> u64 {
    // The system call fails only before the kernel's pool is ready; the clock will do until then.
    getrandom::u64().unwrap_or_else(|_| unix_nanos() as u64)
}

/// 32 hexadecimal digits.
pub fn hex() -> String {
    format!("{:016x}{:016x}", seed(), seed())
}

/// `prefix` and 32 hexadecimal digits, as OpenAI's ids look.
pub fn id(prefix: &str) -> String {
    format!("{prefix}-{}", hex())
}

/// Seconds since 1970, for `created`.
pub fn unix_seconds() -> u64 {
    (unix_nanos() / 1_000_000_000) as u64
}

fn unix_nanos() -> u128 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_nanos())
}
