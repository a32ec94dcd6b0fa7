//! Which sequence killed the shard: what is remembered of each one that was in a fatal step. Pure.
//!
//! A shard may be killed from outside, so one death proves nothing, and a sequence that gets past the
//! place where it was is cleared. One that was at the same place in two fatal steps is a suspect; suspects
//! are replayed one by one with nothing beside them, and the one that kills the shard then is the culprit.

/// Deaths at the same place before a sequence is suspected, and convicted if it was alone.
const SUSPECT_CRASHES: u32 = 2;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Suspicion {
    /// Fatal steps it was in since it last got past `place`.
    crashes: u32,
    /// Tokens that it would have had in the KV cache after the furthest fatal step.
    place: usize,
}

impl Suspicion {
    /// It was in a fatal step that would have brought it to `place`.
    pub fn crashed(&mut self, place: usize) {
        self.place = if self.crashes == 0 { place } else { self.place.max(place) };
        self.crashes += 1;
    }

    /// A step brought it to `place` and the shard lives.
    pub fn passed(&mut self, place: usize) {
        if place >= self.place {
            self.crashes = 0;
        }
    }

    pub fn crashes(&self) -> u32 {
        self.crashes
    }

    pub fn is_suspect(&self) -> bool {
        self.crashes >= SUSPECT_CRASHES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_getting_past_the_furthest_place_clears() {
        let mut suspicion = Suspicion::default();
        suspicion.crashed(100);
        assert!(!suspicion.is_suspect(), "one death proves nothing");
        suspicion.crashed(40);
        assert!(suspicion.is_suspect());
        suspicion.passed(99);
        assert!(suspicion.is_suspect());
        suspicion.passed(100);
        assert_eq!((suspicion.is_suspect(), suspicion.crashes()), (false, 0));
        suspicion.crashed(30);
        assert!(!suspicion.is_suspect(), "the count began anew");
        suspicion.passed(30);
        assert_eq!(suspicion.crashes(), 0);
    }
}
