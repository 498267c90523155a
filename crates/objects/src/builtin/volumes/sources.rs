//! Where a volume comes from: the sources that Pods and PersistentVolumes share.

use serde_json::{Map, Value, json};

use crate::builtin::field::Field;
use crate::builtin::volumes::{elsewhere, projected};
use crate::builtin::{pods, storage, volumes};
use crate::error::FieldError;
use crate::lookup::{entries, remove, set_default};
use crate::meta::dns_subdomain;

type Source = (&'static str, &'static [&'static str], &'static str);

/// Each source, what it must have, and what it is called in messages where that is another name; in the order in which upstream looks
/// for them.
const SOURCES: &[Source] = &[
    ("emptyDir", &[], ""),
    ("hostPath", &["path"], ""),
    ("gitRepo", &["repository"], ""),
    ("gcePersistentDisk", &["pdName"], "persistentDisk"),
    ("awsElasticBlockStore", &["volumeID"], ""),
    ("secret", &["secretName"], ""),
    ("nfs", &["server", "path"], ""),
    ("iscsi", &["targetPortal", "iqn"], ""),
    ("glusterfs", &["endpoints", "path"], ""),
    ("flocker", &[], ""),
    ("persistentVolumeClaim", &["claimName"], ""),
    ("rbd", &["monitors", "image"], ""),
    ("cinder", &["volumeID"], ""),
    ("cephfs", &["monitors"], ""),
    ("quobyte", &[], ""),
    ("downwardAPI", &[], ""),
    ("fc", &[], ""),
    ("flexVolume", &["driver"], ""),
    ("configMap", &["name"], ""),
    ("azureFile", &["secretName", "shareName"], ""),
    ("vsphereVolume", &["volumePath"], ""),
    ("photonPersistentDisk", &["pdID"], ""),
    ("portworxVolume", &["volumeID"], ""),
    ("azureDisk", &["diskName", "diskURI"], ""),
    ("storageos", &["volumeName"], ""),
    ("projected", &[], ""),
    ("scaleIO", &["gateway", "system", "volumeName"], ""),
    ("csi", &[], ""),
    ("ephemeral", &["volumeClaimTemplate"], ""),
    ("image", &[], ""),
    ("local", &["path"], ""),
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

/// Most bytes of a volume's name, a colon and the portal of its iSCSI target.
const ISCSI_LIMIT: usize = 64;

/// Fills in what a source leaves out. `owner` is a Pod's volume or a PersistentVolume's spec.
pub(in crate::builtin) fn defaults(owner: &mut Value) {
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
pub(in crate::builtin) fn of(spec: &Value, before: &Value) -> Map<String, Value> {
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

/// Checks the source of a volume of a Pod or of a template; `pod` is the name of the Pod, where it has one.
pub(in crate::builtin) fn of_volume(volume: &Field<'_>, pod: &str, of_pod: bool) -> Vec<FieldError> {
    let (name, image) = (volume.at("name"), volume.at("image"));
    let mut errors = Vec::new();
    if of_pod && given(volume).next().is_some_and(|(kind, ..)| *kind == "image") {
        errors.extend(image.at("reference").must_be_given(""));
    }
    errors.extend(validate_one(volume, false));
    let iscsi = volume.at("iscsi");
    if iscsi.at("initiatorName").is_given()
        && name.text().len() + 1 + iscsi.at("targetPortal").text().len() > ISCSI_LIMIT
    {
        let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        errors.push(name.invalid(why));
    }
    if volume.at("ephemeral").is_given() && !pod.is_empty() && !name.text().is_empty() {
        let claim = format!("{pod}-{}", name.text());
        let wrong = dns_subdomain(&claim).into_iter();
        errors.extend(wrong.map(|why| name.invalid(format!("PVC name {claim:?}: {why}"))));
    }
    errors
}

/// The sources that are given.
fn given(owner: &Field<'_>) -> impl Iterator<Item = &'static Source> {
    SOURCES.iter().filter(|(kind, ..)| owner.at(kind).is_given())
}

/// There must be one source, and it must be good. `owner` is a Pod's volume, or the spec of a PersistentVolume, which
/// is `lasting`.
pub(in crate::builtin) fn validate_one(owner: &Field<'_>, lasting: bool) -> Vec<FieldError> {
    let mut given = given(owner);
    let Some((kind, needed, shown)) = given.next() else {
        return vec![owner.required("must specify a volume type")];
    };
    let source = owner.at(kind);
    let path = owner.at(if shown.is_empty() { kind } else { shown }).path;
    let mut errors = validate(kind, needed, &Field { path, ..source }, lasting);
    for (kind, ..) in given {
        // Upstream spells two of them otherwise here.
        let shown = match *kind {
            "downwardAPI" => "downwarAPI",
            "cephfs" => "cephFS",
            kind => kind,
        };
        errors.push(owner.at(shown).forbidden("may not specify more than 1 volume type"));
    }
    errors
}

fn validate(kind: &str, needed: &[&str], source: &Field<'_>, lasting: bool) -> Vec<FieldError> {
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
        "projected" => projected::validate(source),
        "csi" => csi(source),
        "emptyDir" => empty_dir(source),
        "ephemeral" => claim_template(&source.at("volumeClaimTemplate")),
        "image" => source.at("pullPolicy").one_of(&["Always", "IfNotPresent", "Never"]).into_iter().collect(),
        "gitRepo" => descending(&source.at("directory")),
        _ => elsewhere::validate(kind, source, lasting),
    });
    errors
}

pub(in crate::builtin) fn no_steps_back(path: &Field<'_>) -> Option<FieldError> {
    path.text().split('/').any(|part| part == "..").then(|| path.invalid("must not contain '..'"))
}

/// A relative path that stays below where it starts.
pub(in crate::builtin) fn descending(path: &Field<'_>) -> Vec<FieldError> {
    let absolute = path.text().starts_with('/').then(|| path.invalid("must be a relative path"));
    absolute.into_iter().chain(no_steps_back(path)).collect()
}

/// The same, which also may not look like what the kubelet makes for itself.
pub(in crate::builtin) fn projected_path(path: &Field<'_>) -> Vec<FieldError> {
    let mut errors = descending(path);
    if path.text().starts_with("..") && !path.text().starts_with("../") {
        errors.push(path.invalid("must not start with '..'"));
    }
    errors
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
    let mut errors = storage::driver_name(&source.at("driver"));
    // The source of a PersistentVolume names a volume; that of a Pod never does.
    if source.at("volumeHandle").value.as_str().is_some_and(str::is_empty) {
        errors.push(source.at("volumeHandle").required(""));
    }
    for secret in SECRETS.iter().map(|key| source.at(key)).filter(Field::is_given) {
        errors.extend(secret.at("name").must_be_given(""));
        // A volume is in no namespace, so its secrets say theirs.
        if source.at("volumeHandle").is_given() {
            errors.extend(secret.at("namespace").must_be_given(""));
        }
    }
    errors
}

/// The claim that is made for a Pod: of its metadata, labels and annotations may be given.
fn claim_template(template: &Field<'_>) -> Vec<FieldError> {
    if !template.is_given() {
        return Vec::new();
    }
    let mut errors = pods::template::claim_metadata(&template.at("metadata"));
    errors.extend(volumes::validate_claim_spec(&template.at("spec")));
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

pub(in crate::builtin) fn mode(field: &Field<'_>) -> Option<FieldError> {
    let bad = field.number().is_some_and(|mode| !(0..=0o777).contains(&mode));
    bad.then(|| field.invalid("must be a number between 0 and 0777 (octal), both inclusive"))
}

/// The items of a Secret or a ConfigMap.
fn keyed(source: &Field<'_>) -> Vec<FieldError> {
    let own = mode(&source.at("defaultMode"));
    own.into_iter().chain(source.at("items").items().flat_map(|item| item_of(&item))).collect()
}

/// A key and the file that it becomes.
pub(in crate::builtin) fn item_of(item: &Field<'_>) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> =
        ["key", "path"].iter().filter_map(|key| item.at(key).must_be_given("")).collect();
    errors.extend(projected_path(&item.at("path")));
    errors.extend(mode(&item.at("mode")));
    errors
}

fn downward(source: &Field<'_>) -> Vec<FieldError> {
    let own = mode(&source.at("defaultMode"));
    own.into_iter().chain(source.at("items").items().flat_map(|file| downward_file(&file, source))).collect()
}

/// A file with something of the Pod in it. Upstream names the source, and not the item.
pub(in crate::builtin) fn downward_file(file: &Field<'_>, source: &Field<'_>) -> Vec<FieldError> {
    let item = Field { path: source.path.clone(), ..file.clone() };
    let mut errors: Vec<FieldError> = item.at("path").must_be_given("").into_iter().collect();
    errors.extend(projected_path(&item.at("path")));
    let (field, resource) = (item.at("fieldRef"), item.at("resourceFieldRef"));
    if field.is_given() {
        errors.extend(pods::env::field_ref(&field, pods::env::VOLUME_FIELDS));
        if resource.is_given() {
            let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.push(FieldError::invalid(item.path.as_str(), "resource", why));
        }
    } else if resource.is_given() {
        errors.extend(pods::env::resource_ref(&resource, true));
    } else {
        errors.push(item.required("one of fieldRef and resourceFieldRef is required"));
    }
    errors.extend(mode(&item.at("mode")));
    errors
}

/// An empty source of its own for a volume that names none.
pub(in crate::builtin) fn default_source(volume: &mut Map<String, Value>) {
    if !SOURCES.iter().any(|(kind, ..)| volume.contains_key(*kind)) {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
}
