//! How many images are fetched from elsewhere at one time.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use axum::http::StatusCode;

use crate::error::Fault;

/// Images at one time, of all projects together. Each project has one, so that none takes them all.
const MOST: usize = 4;

/// The projects (namespaces) for which an image is fetched.
static TAKEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The place of one image, until it is dropped.
#[derive(Debug)]
pub(super) struct Place(String);

impl Place {
    /// Takes one for a project.
    ///
    /// # Errors
    /// 503 where the project has one, or all are taken.
    pub(super) fn take(project: &str) -> Result<Place, Fault> {
        let busy = |text: &str| Fault::new(StatusCode::SERVICE_UNAVAILABLE, text);
        // A set is whole after each of its changes.
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.contains(project) {
            return Err(busy(
                "An image of this project is fetched at this moment; try again when it is there.",
            ));
        }
        if taken.len() >= MOST {
            return Err(busy("As many images as may be are fetched at this moment; try again later."));
        }
        taken.insert(project.to_owned());
        Ok(Place(project.to_owned()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        TAKEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_has_one_place_and_there_are_few() {
        let mut held: Vec<Place> = (0..MOST).map(|n| Place::take(&format!("p{n}")).unwrap()).collect();
        assert!(Place::take("p0").unwrap_err().message.contains("of this project"));
        assert!(Place::take("other").unwrap_err().message.contains("As many"));
        held.pop();
        assert!(Place::take("p0").is_err());
        Place::take("other").unwrap();
    }
}
