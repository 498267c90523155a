//! Security groups of servers: those of their ports.

use yunfan_resources::Identified;
use yunfan_resources::network::{DEFAULT_GROUP, SecurityGroup};

use crate::auth::Session;
use crate::error::Fault;
use crate::ids;

/// `metadata.name`s of the project's groups with these names or ids; `None` where the list is empty or names the default group alone.
pub(super) async fn named<'a>(
    session: &Session,
    wanted: impl Iterator<Item = &'a str>,
) -> Result<Option<Vec<String>>, Fault> {
    let wanted: Vec<&str> = wanted.collect();
    // The default group is made when it is first needed.
    if wanted.iter().all(|name| *name == DEFAULT_GROUP) {
        return Ok(None);
    }
    if wanted.contains(&DEFAULT_GROUP) {
        crate::neutron::ensure_default(session, session.namespace()?).await?;
    }
    let all = ids::list(&session.own::<SecurityGroup>()?).await?;
    let mut names = Vec::with_capacity(wanted.len());
    for name in wanted {
        let by_id = all.iter().find(|group| group.id() == name);
        let mut by_name = all.iter().filter(|group| group.display_name() == name);
        let found = match (by_id, by_name.next(), by_name.next()) {
            (Some(group), _, _) | (None, Some(group), None) => group,
            (None, Some(_), Some(_)) => {
                let text = format!(
                    "Multiple security groups found matching '{name}'. Use an ID to be more specific."
                );
                return Err(Fault::conflict(text));
            }
            (None, None, _) => {
                let project = session.project_id();
                return Err(Fault::bad(format!("Security group {name} not found for project {project}.")));
            }
        };
        if !names.iter().any(|name| name == ids::name(found)) {
            names.push(ids::name(found).to_owned());
        }
    }
    Ok(Some(names))
}
