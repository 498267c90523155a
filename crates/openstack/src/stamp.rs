//! Points in time, in the forms that OpenStack's services write them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use yunfan_resources::names::UPDATED_ANNOTATION;

/// `2026-01-31T12:00:00Z`: Nova, Glance and Neutron.
pub(crate) fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-01-31T12:00:00.000000Z`: Keystone.
pub(crate) fn micros(unix_seconds: u64) -> String {
    let seconds = i64::try_from(unix_seconds).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string()
}

/// `2026-01-31T12:00:00.123456Z`: Keystone's trusts.
pub(crate) fn exactly(unix_micros: u64) -> String {
    let micros = i64::try_from(unix_micros).unwrap_or(i64::MAX);
    Timestamp::from_microsecond(micros).unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// `2026-01-31T12:00:00.000000`: Nova's extensions.
pub(crate) fn micros_bare(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.000000").to_string()
}

/// When an object was created; the epoch for one that was never stored.
pub(crate) fn created<K: Resource>(object: &K) -> Timestamp {
    object.meta().creation_timestamp.as_ref().map(|Time(at)| *at).unwrap_or_default()
}

/// When an object's spec was written last, as far as that is noted: by the OpenStack door, or as managedFields by other clients. What nodes
/// say of it is no update.
pub(crate) fn updated<K: Resource>(object: &K) -> Timestamp {
    let meta = object.meta();
    let noted = meta.annotations.as_ref().and_then(|all| all.get(UPDATED_ANNOTATION)?.parse().ok());
    let fields = meta.managed_fields.iter().flatten().filter(|it| it.subresource.is_none());
    let written = fields.filter_map(|it| it.time.as_ref().map(|time| time.0));
    written.chain(noted).chain([created(object)]).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms() {
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        assert_eq!(seconds(at), "2023-11-14T22:13:20Z");
        assert_eq!(micros(1_700_000_000), "2023-11-14T22:13:20.000000Z");
        assert_eq!(exactly(1_700_000_000_000_000), "2023-11-14T22:13:20.000000Z");
        assert_eq!(exactly(1_700_000_000_123_456), "2023-11-14T22:13:20.123456Z");
        assert_eq!(micros_bare(at), "2023-11-14T22:13:20.000000");
    }
}
