//! Where the time of a start goes, by phase: told in the log and to the router. Filled by the device thread; time is an
//! argument.

use std::fmt;
use std::time::Duration;

/// Durations of the phases, in the order in which they come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Startup {
    /// Configuration, headers and the device.
    pub open: Duration,
    /// Bringing the weights' bytes; zero where they are packed as they are read.
    pub read: Duration,
    /// Packing, as far as it is not done while reading.
    pub repack: Duration,
    /// Taking memory for the KV cache and the workspace.
    pub plan: Duration,
    /// Capturing decode steps.
    pub graphs: Duration,
}

impl Startup {
    /// Names and seconds.
    pub fn phases(&self) -> [(&'static str, f64); 5] {
        let Startup { open, read, repack, plan, graphs } = self;
        [("open", open), ("read", read), ("repack", repack), ("plan", plan), ("graphs", graphs)]
            .map(|(name, took)| (name, took.as_secs_f64()))
    }
}

impl fmt::Display for Startup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, seconds)) in self.phases().into_iter().enumerate() {
            write!(f, "{}{name} {seconds:.3} s", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_told_in_their_order() {
        let startup = Startup {
            open: Duration::from_millis(50),
            read: Duration::from_millis(1200),
            graphs: Duration::from_micros(400),
            ..Startup::default()
        };
        assert_eq!(
            startup.to_string(),
            "open 0.050 s, read 1.200 s, repack 0.000 s, plan 0.000 s, graphs 0.000 s"
        );
    }
}
