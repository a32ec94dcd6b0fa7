//! Everything that can be known to be wrong before a weight is read. Pure: flags, facts about the
//! model folder and the device count come in, the first violation goes out.
//!
//! Called by `launch` before anything is spawned. Texts are TGI's where TGI has the check. The
//! functions touch no file, socket or environment variable.

mod limits;
mod model;
mod sharding;

use std::net::{IpAddr, Ipv4Addr};

pub use limits::check_limits;
pub use model::check_model;
pub use sharding::{DeviceCount, check_sharding};

use crate::error::LauncherError;

/// The address to listen on, and whether the given name had to be replaced because it is not an IP.
pub fn listen_address(hostname: &str) -> (IpAddr, bool) {
    match hostname.parse() {
        Ok(address) => (address, false),
        Err(_) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), true),
    }
}

/// Refuses an API key that cannot protect anything.
///
/// # Errors
/// [`LauncherError::ArgumentValidation`] for an empty key or one that no HTTP header can carry.
pub fn check_api_key(key: &str) -> Result<(), LauncherError> {
    match key {
        "" => Err(LauncherError::argument(
            "`api_key` is empty. Give a key, or leave the flag and the variable API_KEY out to serve without one",
        )),
        key if !key.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) => Err(LauncherError::argument(
            "`api_key` must be visible ASCII characters without spaces, as an HTTP header can carry no others",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostnames() {
        let cases = [
            ("0.0.0.0", "0.0.0.0", false),
            ("127.0.0.1", "127.0.0.1", false),
            ("::1", "::1", false),
            ("localhost", "0.0.0.0", true),
            ("3f2a9c1b7d60", "0.0.0.0", true),
            ("", "0.0.0.0", true),
        ];
        for (hostname, expected, replaced) in cases {
            let (address, was_replaced) = listen_address(hostname);
            assert_eq!((address.to_string().as_str(), was_replaced), (expected, replaced), "{hostname}");
        }
    }

    #[test]
    fn api_keys() {
        let cases = [("s3cret-key", true), ("", false), ("a b", false), ("ä", false)];
        for (key, accepted) in cases {
            assert_eq!(check_api_key(key).is_ok(), accepted, "{key:?}");
        }
    }
}
