//! Which sequence killed the shard: what is remembered of each one that was in a fatal step. Pure.
//!
//! A shard may be killed from outside, so one death proves nothing, and a sequence that gets past the
//! place where it was is cleared. One that was at the same place in two fatal steps is a suspect; suspects
//! are replayed one by one with nothing beside them. The one that was alone in two of them is the culprit.

/// Fatal steps at the same place that make a suspect; so many of them alone that prove its guilt.
const ENOUGH: u32 = 2;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Suspicion {
    /// Fatal steps it was in since it last got past `place`.
    n_fatal: u32,
    /// Those of them in which it was alone.
    n_fatal_alone: u32,
    /// Tokens that it would have had in the KV cache after the furthest fatal step.
    place: usize,
}

impl Suspicion {
    /// It was in a fatal step that would have brought it to `place`.
    pub fn crashed(&mut self, place: usize, alone: bool) {
        self.place = self.place.max(place);
        self.n_fatal += 1;
        self.n_fatal_alone += u32::from(alone);
    }

    /// A step brought it to `place` and the shard lives.
    pub fn passed(&mut self, place: usize) {
        if place >= self.place {
            *self = Self::default();
        }
    }

    pub fn is_suspect(&self) -> bool {
        self.n_fatal >= ENOUGH
    }

    pub fn is_proven(&self) -> bool {
        self.n_fatal_alone >= ENOUGH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_getting_past_the_furthest_place_clears() {
        let mut suspicion = Suspicion::default();
        suspicion.crashed(100, false);
        assert!(!suspicion.is_suspect(), "one death proves nothing");
        suspicion.crashed(40, true);
        assert!(suspicion.is_suspect() && !suspicion.is_proven());
        suspicion.passed(99);
        assert!(suspicion.is_suspect());
        suspicion.passed(100);
        assert_eq!(suspicion, Suspicion::default());
        suspicion.crashed(30, true);
        assert!(!suspicion.is_suspect(), "the count began anew");
        suspicion.crashed(30, true);
        assert!(suspicion.is_suspect() && suspicion.is_proven());
    }
}
