//! Places for those who look at consoles, so that no project takes all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Open connections at one time.
const MOST: usize = 512;
/// Open connections to machines of one project at one time.
const MOST_OF_ONE: usize = 64;

/// Connections by project. Cheap to clone; clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seats(Arc<Mutex<HashMap<String, usize>>>);

/// One connection's place, which is free again when this goes.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Seats,
    project: String,
}

impl Seats {
    fn taken(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        // Nothing panics under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one connection more to a machine of a project, or why there is none.
    pub(super) fn take(&self, project: &str) -> Result<Seat, String> {
        let mut taken = self.taken();
        if taken.get(project).is_some_and(|own| *own >= MOST_OF_ONE) {
            return Err(format!("{MOST_OF_ONE} consoles of the project are open already"));
        }
        if taken.values().sum::<usize>() >= MOST {
            return Err(format!("{MOST} consoles are open already"));
        }
        *taken.entry(project.to_owned()).or_default() += 1;
        Ok(Seat { seats: self.clone(), project: project.to_owned() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        if let Some(own) = taken.get_mut(&self.project) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.project);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_has_so_many_places_and_leaves_some_to_others() {
        let seats = Seats::default();
        let mut of_one: Vec<Seat> = (0..MOST_OF_ONE).map(|_| seats.take("a").unwrap()).collect();
        assert!(seats.take("a").unwrap_err().contains("project"));
        let others: Vec<Seat> =
            (MOST_OF_ONE..MOST).map(|number| seats.take(&format!("b{number}")).unwrap()).collect();
        of_one.pop();
        let last = seats.take("c").unwrap();
        assert!(seats.take("a").is_err(), "all are taken");
        drop((of_one, others, last));
        assert!(seats.taken().is_empty());
    }
}
