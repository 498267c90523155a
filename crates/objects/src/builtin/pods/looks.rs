//! How much work finding two things in each other's way may be: whoever is warned sees few of them, so not all of very many need be found.

/// Most looks at two things; of anything that a person writes, all are taken.
const MOST: usize = 1_000_000;
/// What a finding costs more than a look at nothing: a thousand are more than fit into an answer's headers.
const FOUND: usize = 1_000;

/// How many looks at two things are left.
pub(super) struct Looks(usize);

impl Looks {
    /// All of them.
    pub(super) fn new() -> Self {
        Self(MOST)
    }

    /// Compares each thing with those before it, in order, as long as looks are left, and gives what was found.
    pub(super) fn pairs<T>(&mut self, things: &[T], find: impl Fn(&T, &T) -> Option<String>) -> Vec<String> {
        let mut out = Vec::new();
        for (at, thing) in things.iter().enumerate() {
            out.extend(self.over(thing, &things[..at], &find));
            if self.0 == 0 {
                break;
            }
        }
        out
    }

    /// Compares one thing with others, in order, as long as looks are left, and gives what was found.
    pub(super) fn over<T>(
        &mut self,
        thing: &T,
        others: &[T],
        find: impl Fn(&T, &T) -> Option<String>,
    ) -> Vec<String> {
        let mut out = Vec::new();
        for other in others {
            if self.0 == 0 {
                break;
            }
            let found = find(thing, other);
            let cost = found.as_ref().map_or(1, |text| FOUND + text.len());
            self.0 = self.0.saturating_sub(cost);
            out.extend(found);
        }
        out
    }
}
