//! Volumes' files from objects: ConfigMaps, Secrets, the Pod's own fields, and tokens of its ServiceAccount.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, Secret,
    SecretVolumeSource, ServiceAccountTokenProjection, VolumeProjection,
};
use yunfan_client::is_not_found;

use super::files::{File, Files, check_path};
use super::{Maker, What, trust};
use crate::pod::containers::sooner;
use crate::pod::{downward, read};

const DEFAULT_MODE: i32 = 0o644;

/// What a source's words are in Kubernetes' messages.
#[derive(Clone, Copy)]
struct Words {
    kind: &'static str,
    no_key: &'static str,
}

const CONFIG_MAP: Words =
    Words { kind: "configmap", no_key: "configmap references non-existent config key: " };
const SECRET: Words = Words { kind: "secret", no_key: "references non-existent secret key: " };

type Data = BTreeMap<String, Vec<u8>>;

pub(super) async fn of_config_map(maker: &Maker<'_>, source: &ConfigMapVolumeSource) -> Result<Files, What> {
    let data = config_map(maker, &source.name).await?;
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    select(CONFIG_MAP, &source.name, data, source.items.as_ref(), source.optional, mode)
}

pub(super) async fn of_secret(maker: &Maker<'_>, source: &SecretVolumeSource) -> Result<Files, What> {
    let name = source.secret_name.clone().unwrap_or_default();
    let data = secret(maker, &name).await?;
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    select(SECRET, &name, data, source.items.as_ref(), source.optional, mode)
}

pub(super) fn of_downward(
    maker: &Maker<'_>,
    items: Option<&Vec<DownwardAPIVolumeFile>>,
    default_mode: Option<i32>,
) -> Result<Files, What> {
    let mut files = Files::new();
    for item in items.into_iter().flatten() {
        check_path(&item.path)?;
        let value = if let Some(field) = &item.field_ref {
            downward::volume_field(maker.pod, &field.field_path)
        } else if let Some(resource) = &item.resource_field_ref {
            downward::resource(maker.pod, None, resource, maker.allocatable)
        } else {
            None
        };
        let value = value.ok_or_else(|| What::Refused(format!("{}: it names no field", item.path)))?;
        let mode = item.mode.or(default_mode).unwrap_or(DEFAULT_MODE);
        files.insert(item.path.clone(), File::new(value.into_bytes(), mode));
    }
    Ok(files)
}

/// The files, and when a token among them is to be renewed.
pub(super) async fn of_projected(
    maker: &Maker<'_>,
    volume: &str,
    source: &ProjectedVolumeSource,
) -> Result<(Files, Option<Duration>), What> {
    let mut files = Files::new();
    let mut renew = None;
    for (index, projection) in source.sources.iter().flatten().enumerate() {
        let mode = source.default_mode;
        if let Some(token) = &projection.service_account_token {
            let (path, file, after) = of_token(maker, volume, token, mode.unwrap_or(DEFAULT_MODE)).await?;
            files.insert(path, file);
            renew = sooner(renew, Some(after));
        } else if let Some(certificate) = &projection.pod_certificate {
            let mode = mode.unwrap_or(DEFAULT_MODE);
            let (given, after) = trust::of_certificate(maker, (volume, index), certificate, mode).await?;
            files.extend(given);
            renew = sooner(renew, Some(after));
        } else {
            files.extend(of_projection(maker, projection, mode).await?);
        }
    }
    Ok((files, renew))
}

async fn of_projection(
    maker: &Maker<'_>,
    source: &VolumeProjection,
    default_mode: Option<i32>,
) -> Result<Files, What> {
    let mode = default_mode.unwrap_or(DEFAULT_MODE);
    if let Some(source) = &source.config_map {
        let data = config_map(maker, &source.name).await?;
        return select(CONFIG_MAP, &source.name, data, source.items.as_ref(), source.optional, mode);
    }
    if let Some(source) = &source.secret {
        let data = secret(maker, &source.name).await?;
        return select(SECRET, &source.name, data, source.items.as_ref(), source.optional, mode);
    }
    if let Some(source) = &source.downward_api {
        return of_downward(maker, source.items.as_ref(), default_mode);
    }
    if let Some(source) = &source.cluster_trust_bundle {
        return trust::of_bundle(maker, source, mode).await;
    }
    Err(What::Refused("a projected source of this kind is not supported here".to_owned()))
}

/// Where the token is, its file, and in how long it is to be renewed.
async fn of_token(
    maker: &Maker<'_>,
    volume: &str,
    source: &ServiceAccountTokenProjection,
    mode: i32,
) -> Result<(String, File, Duration), What> {
    check_path(&source.path)?;
    let (token, renew) = maker.tokens.get(maker.pod, volume, source).await.map_err(What::Refused)?;
    // Where a user or group is told, nobody else has business with the token (KEP-2451).
    let owner = maker.one_user;
    let mode = if owner.is_some() || maker.fs_group.is_some() { 0o600 } else { mode };
    let file = File { owner, ..File::new(token.into_bytes(), mode) };
    Ok((source.path.clone(), file, renew))
}

async fn config_map(maker: &Maker<'_>, name: &str) -> Result<Option<Data>, What> {
    let found = fetch::<ConfigMap>(maker, name).await?;
    Ok(found.map(|object| {
        let text = object.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
        text.chain(object.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0))).collect()
    }))
}

async fn secret(maker: &Maker<'_>, name: &str) -> Result<Option<Data>, What> {
    let found = fetch::<Secret>(maker, name).await?;
    Ok(found.map(|object| object.data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect()))
}

async fn fetch<K: yunfan_client::Watched>(maker: &Maker<'_>, name: &str) -> Result<Option<K>, What> {
    match read::get::<K>(maker.writer, Some(maker.namespace), name).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(What::Api(Box::new(error))),
    }
}

/// All keys, or the ones that `items` names, by the path that each gets in the volume.
fn select(
    words: Words,
    name: &str,
    data: Option<Data>,
    items: Option<&Vec<KeyToPath>>,
    optional: Option<bool>,
    mode: i32,
) -> Result<Files, What> {
    let optional = optional == Some(true);
    let data = match data {
        Some(data) => data,
        None if optional => return Ok(Files::new()),
        None => return Err(What::Refused(format!("{} \"{name}\" not found", words.kind))),
    };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data.into_iter().map(|(key, bytes)| (key, File::new(bytes, mode))).collect());
    };
    let mut files = Files::new();
    for item in items {
        check_path(&item.path)?;
        match data.get(&item.key) {
            Some(bytes) => {
                files.insert(item.path.clone(), File::new(bytes.clone(), item.mode.unwrap_or(mode)));
            }
            None if optional => {}
            None => return Err(What::Refused(format!("{}{}", words.no_key, item.key))),
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(key: &str, path: &str, mode: Option<i32>) -> KeyToPath {
        KeyToPath { key: key.into(), path: path.into(), mode, ..KeyToPath::default() }
    }

    #[test]
    fn items_choose_names_and_modes() {
        let data = || Some(Data::from([("a".to_owned(), b"x".to_vec()), ("b".to_owned(), b"y".to_vec())]));
        let chosen = |items: Vec<KeyToPath>, optional| {
            select(CONFIG_MAP, "c", data(), Some(&items), optional, 0o644).map_err(|what| what.to_string())
        };
        let files = chosen(vec![item("a", "in/side", Some(0o400))], None).unwrap();
        assert_eq!(files, Files::from([("in/side".to_owned(), File::new(b"x".to_vec(), 0o400))]));
        assert_eq!(select(CONFIG_MAP, "c", data(), None, None, 0o644).unwrap().len(), 2);
        assert!(chosen(vec![item("a", "../../etc/passwd", None)], None).is_err());
        let missing = chosen(vec![item("z", "z", None)], None).unwrap_err();
        assert_eq!(missing, "configmap references non-existent config key: z");
        assert_eq!(chosen(vec![item("z", "z", None)], Some(true)).unwrap(), Files::new());
    }

    #[test]
    fn what_is_not_there_is_refused_unless_optional() {
        let gone =
            |optional| select(SECRET, "s", None, None, optional, 0o644).map_err(|what| what.to_string());
        assert_eq!(gone(None).unwrap_err(), "secret \"s\" not found");
        assert_eq!(gone(Some(true)).unwrap(), Files::new());
    }
}
