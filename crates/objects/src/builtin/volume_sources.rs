//! Where a volume comes from: the sources that Pods and PersistentVolumes share.

use serde_json::{Map, Value, json};

use super::field::Field;
use super::{formats, volumes};
use crate::error::FieldError;
use crate::lookup::{entries, remove, set_default};
use crate::meta::{dns_label, dns_subdomain};

/// Each source, what it must have, and what it is called in messages where that is another name.
const SOURCES: &[(&str, &[&str], &str)] = &[
    ("awsElasticBlockStore", &["volumeID"], ""),
    ("azureDisk", &["diskName", "diskURI"], ""),
    ("azureFile", &["secretName", "shareName"], ""),
    ("cephfs", &["monitors"], ""),
    ("cinder", &["volumeID"], ""),
    ("configMap", &["name"], ""),
    ("csi", &[], ""),
    ("downwardAPI", &[], ""),
    ("emptyDir", &[], ""),
    ("ephemeral", &["volumeClaimTemplate"], ""),
    ("fc", &[], ""),
    ("flexVolume", &["driver"], ""),
    ("flocker", &[], ""),
    ("gcePersistentDisk", &["pdName"], "persistentDisk"),
    ("gitRepo", &["repository"], ""),
    ("glusterfs", &["endpoints", "path"], ""),
    ("hostPath", &["path"], ""),
    ("image", &[], ""),
    ("iscsi", &["targetPortal", "iqn"], ""),
    ("local", &["path"], ""),
    ("nfs", &["server", "path"], ""),
    ("persistentVolumeClaim", &["claimName"], ""),
    ("photonPersistentDisk", &["pdID"], ""),
    ("portworxVolume", &["volumeID"], ""),
    ("projected", &[], ""),
    ("quobyte", &["registry", "volume"], ""),
    ("rbd", &["monitors", "image"], ""),
    ("scaleIO", &["gateway", "system", "volumeName"], ""),
    ("secret", &["secretName"], ""),
    ("storageos", &["volumeName"], ""),
    ("vsphereVolume", &["volumePath"], ""),
];

/// Defaults of the sources of other systems: source, key, value.
const DEFAULTS: &[(&str, &str, &str)] = &[
    ("azureDisk", "cachingMode", "ReadWrite"),
    ("azureDisk", "fsType", "ext4"),
    ("azureDisk", "kind", "Shared"),
    ("iscsi", "iscsiInterface", "default"),
    ("rbd", "keyring", "/etc/ceph/keyring"),
    ("rbd", "pool", "rbd"),
    ("rbd", "user", "admin"),
    ("scaleIO", "fsType", "xfs"),
    ("scaleIO", "storageMode", "ThinProvisioned"),
];

/// Fills in what a source leaves out. `owner` is a Pod's volume or a PersistentVolume's spec.
pub(super) fn defaults(owner: &mut Value) {
    for (kind, key, value) in DEFAULTS {
        if let Some(source) = owner.get_mut(*kind) {
            set_default(source, key, *value);
        }
    }
    if let Some(disk) = owner.get_mut("azureDisk") {
        set_default(disk, "readOnly", false);
    }
}

/// The source of a PersistentVolume's spec, as it counts for changes: a secret for expanding that `before`
/// does not name may be added.
pub(super) fn of(spec: &Value, before: &Value) -> Map<String, Value> {
    let is_source = |key: &str| SOURCES.iter().any(|(kind, ..)| *kind == key);
    let mut source: Map<String, Value> = entries(spec, &[])
        .filter(|(key, _)| is_source(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if before["csi"].is_object()
        && before["csi"].get("controllerExpandSecretRef").is_none()
        && let Some(csi) = source.get_mut("csi")
    {
        remove(csi, "controllerExpandSecretRef");
    }
    source
}

/// There must be one source, and it must be good. `owner` is a Pod's volume or a PersistentVolume's spec.
pub(super) fn validate_one(owner: &Field<'_>) -> Vec<FieldError> {
    let mut given = SOURCES.iter().filter(|(kind, ..)| owner.at(kind).is_given());
    let Some((kind, needed, shown)) = given.next() else {
        return vec![owner.required("must specify a volume type")];
    };
    let source = owner.at(kind);
    let path = owner.at(if shown.is_empty() { kind } else { shown }).path;
    let mut errors = validate(kind, needed, &Field { path, ..source });
    let more = given.map(|(kind, ..)| owner.at(kind).forbidden("may not specify more than 1 volume type"));
    errors.extend(more);
    errors
}

fn validate(kind: &str, needed: &[&str], source: &Field<'_>) -> Vec<FieldError> {
    let absent = |key: &&&str| {
        let field = source.at(key);
        field.text().is_empty() && field.list().is_empty() && !field.value.is_object()
    };
    let mut errors: Vec<FieldError> =
        needed.iter().filter(absent).map(|key| source.at(key).required("")).collect();
    errors.extend(match kind {
        "hostPath" | "local" => host_path(source),
        "nfs" => nfs(source),
        "secret" | "configMap" => keyed(source),
        "downwardAPI" => downward(source),
        "projected" => projected(source),
        "csi" => csi(source),
        "emptyDir" => empty_dir(source),
        "ephemeral" => volumes::validate_claim_spec(&source.under(&["volumeClaimTemplate", "spec"])),
        "image" => source.at("pullPolicy").one_of(&["Always", "IfNotPresent", "Never"]).into_iter().collect(),
        "gitRepo" => descending(&source.at("directory")).into_iter().collect(),
        _ => elsewhere(kind, source),
    });
    errors
}

/// Sources of other systems: what is more than a missing field.
fn elsewhere(kind: &str, source: &Field<'_>) -> Vec<FieldError> {
    let within = |key: &str, why: &str| {
        let number = source.at(key);
        number.number().is_some_and(|given| !(0..=255).contains(&given)).then(|| number.invalid(why))
    };
    const RANGE: &str = "must be between 0 and 255, inclusive";
    let mut errors = Vec::new();
    match kind {
        "awsElasticBlockStore" | "gcePersistentDisk" => {
            errors.extend(within("partition", RANGE));
        }
        "iscsi" => {
            errors.extend(within("lun", RANGE));
            let name = source.at("iqn");
            if !name.text().is_empty()
                && !["iqn", "eui", "naa"].iter().any(|start| name.text().starts_with(start))
            {
                errors.push(name.invalid("must be valid format starting with iqn, eui, or naa"));
            }
            let chap =
                ["chapAuthDiscovery", "chapAuthSession"].iter().any(|key| *source.at(key).value == true);
            if chap && !source.at("secretRef").is_given() {
                errors.push(source.at("secretRef").required(""));
            }
        }
        "fc" => {
            let (targets, ids) = (source.at("targetWWNs"), source.at("wwids"));
            match (targets.list().is_empty(), ids.list().is_empty()) {
                (true, true) => {
                    errors.push(targets.required("must specify either targetWWNs or wwids, but not both"));
                }
                (false, false) => {
                    errors.push(targets.invalid("targetWWNs and wwids can not be specified simultaneously"));
                }
                _ => {}
            }
            if !targets.list().is_empty() && !source.at("lun").is_given() {
                errors.push(source.at("lun").required("lun is required if targetWWNs is specified"));
            }
            errors.extend(within("lun", RANGE));
        }
        "flocker" => match (source.at("datasetName").is_given(), source.at("datasetUUID").is_given()) {
            (false, false) => errors.push(source.required("one of datasetName and datasetUUID is required")),
            (true, true) => errors.push(FieldError::invalid(
                source.path.as_str(),
                "resource",
                "datasetName and datasetUUID can not be specified simultaneously",
            )),
            _ => {}
        },
        "azureDisk" => {
            errors.extend(source.at("cachingMode").one_of(&["None", "ReadOnly", "ReadWrite"]));
            errors.extend(source.at("kind").one_of(&["Dedicated", "Managed", "Shared"]));
        }
        "storageos" => errors.extend(
            source.at("volumeName").follows(dns_label).filter(|_| !source.at("volumeName").text().is_empty()),
        ),
        _ => {}
    }
    errors
}

fn no_steps_back(path: &Field<'_>) -> Option<FieldError> {
    path.text().split('/').any(|part| part == "..").then(|| path.invalid("must not contain '..'"))
}

/// A relative path that stays below where it starts.
pub(super) fn descending(path: &Field<'_>) -> Option<FieldError> {
    let absolute = path.text().starts_with('/').then(|| path.invalid("must be a relative path"));
    absolute.or_else(|| no_steps_back(path))
}

/// The same, which also may not look like what the kubelet makes for itself.
fn projected_path(path: &Field<'_>) -> Option<FieldError> {
    descending(path)
        .or_else(|| path.text().starts_with("..").then(|| path.invalid("must not start with '..'")))
}

fn host_path(source: &Field<'_>) -> Vec<FieldError> {
    const TYPES: &[&str] = &[
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    let mut errors: Vec<_> = no_steps_back(&source.at("path")).into_iter().collect();
    errors.extend(source.at("type").one_of(TYPES));
    errors
}

fn nfs(source: &Field<'_>) -> Vec<FieldError> {
    let path = source.at("path");
    (!path.text().starts_with('/')).then(|| path.invalid("must be an absolute path")).into_iter().collect()
}

fn csi(source: &Field<'_>) -> Vec<FieldError> {
    const SECRETS: &[&str] = &[
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ];
    let mut errors: Vec<_> = source.at("driver").needs(formats::driver).into_iter().collect();
    // The source of a PersistentVolume names a volume; that of a Pod never does.
    if source.at("volumeHandle").value.as_str().is_some_and(str::is_empty) {
        errors.push(source.at("volumeHandle").required(""));
    }
    for secret in SECRETS.iter().map(|key| source.at(key)).filter(Field::is_given) {
        errors.extend(secret.at("name").must_be_given(""));
    }
    errors
}

fn empty_dir(source: &Field<'_>) -> Vec<FieldError> {
    let size = source.at("sizeLimit");
    let negative = crate::Quantity::from_json(size.value).is_ok_and(crate::Quantity::is_negative);
    negative
        .then(|| size.forbidden("SizeLimit field must be a valid resource quantity"))
        .into_iter()
        .collect()
}

fn mode(field: &Field<'_>) -> Option<FieldError> {
    let bad = field.number().is_some_and(|mode| !(0..=0o777).contains(&mode));
    bad.then(|| field.invalid("must be a number between 0 and 0777 (octal), both inclusive"))
}

/// The items of a Secret or a ConfigMap.
fn keyed(source: &Field<'_>) -> Vec<FieldError> {
    let mut errors: Vec<_> = mode(&source.at("defaultMode")).into_iter().collect();
    for item in source.at("items").items() {
        errors.extend(item.at("key").must_be_given(""));
        errors.extend(item.at("path").must_be_given(""));
        errors.extend(projected_path(&item.at("path")));
        errors.extend(mode(&item.at("mode")));
    }
    errors
}

fn downward(source: &Field<'_>) -> Vec<FieldError> {
    let mut errors: Vec<_> = mode(&source.at("defaultMode")).into_iter().collect();
    for item in source.at("items").items() {
        // Upstream names the source here, and not the item.
        let item = Field { path: source.path.clone(), ..item };
        errors.extend(item.at("path").must_be_given(""));
        errors.extend(projected_path(&item.at("path")));
        match (item.at("fieldRef").is_given(), item.at("resourceFieldRef").is_given()) {
            (true, true) => errors.push(FieldError::invalid(
                item.path.as_str(),
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            )),
            (true, false) => {
                errors.extend(super::pod_env::field_ref(&item.at("fieldRef"), super::pod_env::VOLUME_FIELDS));
            }
            (false, true) => {
                errors.extend(super::pod_env::resource_ref(&item.at("resourceFieldRef"), true));
            }
            (false, false) => errors.push(item.required("one of fieldRef and resourceFieldRef is required")),
        }
        errors.extend(mode(&item.at("mode")));
    }
    errors
}

fn projected(source: &Field<'_>) -> Vec<FieldError> {
    let mut errors: Vec<_> = mode(&source.at("defaultMode")).into_iter().collect();
    let mut paths: Vec<&str> = Vec::new();
    for from in source.at("sources").items() {
        let count = from.value.as_object().map_or(0, Map::len);
        if count > 1 {
            errors.push(from.forbidden("may not specify more than 1 volume type"));
        }
        for kind in ["secret", "configMap"] {
            let inner = from.at(kind);
            if inner.is_given() {
                errors.extend(inner.at("name").must_be_given(""));
                errors.extend(keyed(&inner));
            }
        }
        errors.extend(downward(&from.at("downwardAPI")));
        errors.extend(token(&from.at("serviceAccountToken")));
        errors.extend(trust_bundle(&from.at("clusterTrustBundle")));
        let places = ["secret", "configMap", "downwardAPI"]
            .into_iter()
            .flat_map(|kind| from.at(kind).at("items").items().map(|item| item.at("path")))
            .chain([from.at("serviceAccountToken").at("path"), from.at("clusterTrustBundle").at("path")]);
        for place in places.filter(|place| !place.text().is_empty()) {
            if paths.contains(&place.text()) {
                let why = "conflicting duplicate paths";
                errors.push(FieldError::invalid(source.path.as_str(), place.text(), why));
            }
            paths.push(place.text());
        }
    }
    errors
}

fn token(token: &Field<'_>) -> Vec<FieldError> {
    if !token.is_given() {
        return Vec::new();
    }
    let seconds = token.at("expirationSeconds");
    let mut errors = Vec::new();
    if seconds.number().is_some_and(|given| given < 600) {
        errors.push(seconds.invalid("may not specify a duration less than 10 minutes"));
    }
    if seconds.number().is_some_and(|given| given > 1 << 32) {
        errors.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
    }
    errors.extend(token.at("path").must_be_given(""));
    errors.extend(projected_path(&token.at("path")));
    errors
}

fn trust_bundle(bundle: &Field<'_>) -> Vec<FieldError> {
    if !bundle.is_given() {
        return Vec::new();
    }
    let (name, signer) = (bundle.at("name"), bundle.at("signerName"));
    let mut errors = Vec::new();
    match (name.is_given(), signer.is_given()) {
        (true, true) => errors.push(bundle.invalid("only one of name and signerName may be used")),
        (false, false) => errors.push(bundle.required("either name or signerName must be specified")),
        _ => {}
    }
    if name.is_given() {
        errors.extend(
            bundle
                .at("labelSelector")
                .is_given()
                .then(|| bundle.at("labelSelector").invalid("labelSelector is only allowed with signerName")),
        );
        errors
            .extend(name.text().split(':').next_back().and_then(dns_subdomain).map(|why| name.invalid(why)));
    }
    errors.extend(bundle.at("path").must_be_given(""));
    errors.extend(projected_path(&bundle.at("path")));
    errors
}

/// An empty source of its own for a volume that names none.
pub(super) fn default_source(volume: &mut Map<String, Value>) {
    if !SOURCES.iter().any(|(kind, ..)| volume.contains_key(*kind)) {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
}
