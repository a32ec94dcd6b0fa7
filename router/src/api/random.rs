//! Randomness of the HTTP edge, from the operating system: seeds, ids of responses and of requests.

use std::cell::RefCell;

/// Bytes that one system call brings: a request takes 24.
const STOCK_BYTES: usize = 1536;

thread_local! {
    static STOCK: RefCell<Stock> = const { RefCell::new(Stock { bytes: [0; STOCK_BYTES], n_left: 0 }) };
}

/// Random bytes, each given out once.
struct Stock {
    bytes: [u8; STOCK_BYTES],
    n_left: usize,
}

impl Stock {
    fn next(&mut self) -> Option<u64> {
        if self.n_left == 0 {
            getrandom::fill(&mut self.bytes).ok()?;
            self.n_left = STOCK_BYTES;
        }
        let (_, last) = self.bytes[..self.n_left].split_last_chunk()?;
        self.n_left -= last.len();
        Some(u64::from_ne_bytes(*last))
    }
}

/// A seed for a request that brought none.
pub fn seed() -> u64 {
    // The system call fails only before the kernel's pool is ready; the clock will do until then.
    STOCK.with_borrow_mut(Stock::next).unwrap_or_else(|| unix_nanos() as u64)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn nothing_is_given_out_twice() {
        let n = 3 * STOCK_BYTES / 8;
        let on_other_thread = std::thread::spawn(move || (0..n).map(|_| seed()).collect::<Vec<_>>());
        let here: HashSet<u64> = (0..n).map(|_| seed()).collect();
        let there = on_other_thread.join().unwrap();
        assert_eq!(here.len(), n);
        assert!(there.iter().all(|one| !here.contains(one)));
        assert_eq!(hex().len(), 32);
    }
}
