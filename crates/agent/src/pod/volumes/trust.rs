//! Volumes' files of what Pods trust (ClusterTrustBundles) and of certificates of their own (PodCertificateRequests).

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ClusterTrustBundleProjection, PodCertificateProjection};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use yunfan_client::is_not_found;
use yunfan_resources::constraint;

use super::files::{File, Files, check_path};
use super::{Maker, What};
use crate::pod::read;

/// Characters of a line of PEM.
const LINE: usize = 64;

/// The certificates of authorities that a projection asks for, each once, in one file.
pub(super) async fn of_bundle(
    maker: &Maker<'_>,
    source: &ClusterTrustBundleProjection,
    mode: i32,
) -> Result<Files, What> {
    check_path(&source.path)?;
    let optional = source.optional == Some(true);
    let bundles = match (&source.name, &source.signer_name) {
        (Some(name), _) => match read::get::<ClusterTrustBundle>(maker.writer, None, name).await {
            Ok(bundle) => vec![bundle],
            Err(error) if is_not_found(&error) && optional => Vec::new(),
            Err(error) if is_not_found(&error) => {
                return Err(What::Refused(format!("clustertrustbundle \"{name}\" not found")));
            }
            Err(error) => return Err(What::Api(Box::new(error))),
        },
        (None, Some(signer)) => of_signer(maker, source, signer).await?,
        (None, None) => {
            let why = "a clusterTrustBundle source names neither a bundle nor a signer";
            return Err(What::Refused(why.to_owned()));
        }
    };
    if bundles.is_empty() && !optional {
        let why = "combination of signerName and labelSelector matched zero ClusterTrustBundles";
        return Err(What::Refused(why.to_owned()));
    }
    let text = anchors(bundles.iter().map(|bundle| bundle.spec.trust_bundle.as_str()));
    Ok(Files::from([(source.path.clone(), private(maker, text, mode))]))
}

/// The bundles of a signer that a projection selects: none where it says nothing of their labels.
async fn of_signer(
    maker: &Maker<'_>,
    source: &ClusterTrustBundleProjection,
    signer: &str,
) -> Result<Vec<ClusterTrustBundle>, What> {
    let Some(selector) = &source.label_selector else { return Ok(Vec::new()) };
    let bundles: Api<ClusterTrustBundle> = Api::all(maker.writer.client().clone());
    let of_signer = ListParams::default().fields(&format!("spec.signerName={signer}"));
    let found = read::within(bundles.list(&of_signer)).await;
    let found = found.map_err(|error| What::Api(Box::new(error)))?.items.into_iter();
    Ok(found.filter(|bundle| constraint::selects(selector, Some(bundle.labels()))).collect())
}

/// All certificates in these texts, each once, without what else stands there.
fn anchors<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let all: BTreeSet<Vec<u8>> = texts
        .flat_map(|text| CertificateDer::pem_slice_iter(text.as_bytes()).flatten())
        .map(|certificate| certificate.to_vec())
        .collect();
    let mut joined = String::new();
    for certificate in all {
        joined.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(certificate);
        for line in text.as_bytes().chunks(LINE) {
            // Writing to a String can't fail, and base64 is ASCII.
            let _ = writeln!(joined, "{}", String::from_utf8_lossy(line));
        }
        joined.push_str("-----END CERTIFICATE-----\n");
    }
    joined
}

/// A key of the Pod's own and its certificate, in one file or in two, and when they are looked at again. `index` is the source's place in its volume.
pub(super) async fn of_certificate(
    maker: &Maker<'_>,
    (volume, index): (&str, usize),
    source: &PodCertificateProjection,
    mode: i32,
) -> Result<(Files, Duration), What> {
    let paths = [&source.credential_bundle_path, &source.key_path, &source.certificate_chain_path];
    let [both, key, chain] = paths.map(|path| path.as_deref().filter(|path| !path.is_empty()));
    [both, key, chain].into_iter().flatten().try_for_each(check_path)?;
    let (given, again) = maker.certificates.get(maker.pod, volume, index, source).await?;
    let contents = [
        (both, format!("{}{}", given.key, given.chain)),
        (key, given.key.clone()),
        (chain, given.chain.clone()),
    ];
    let files =
        contents.into_iter().filter_map(|(path, text)| Some((path?.to_owned(), private(maker, text, mode))));
    Ok((files.collect(), again))
}

/// Where a user or group is told, nobody else has business with the file (KEP-2451).
fn private(maker: &Maker<'_>, text: String, mode: i32) -> File {
    let owner = maker.one_user;
    let mode = if owner.is_some() || maker.fs_group.is_some() { 0o600 } else { mode };
    File { owner, ..File::new(text.into_bytes(), mode) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_there_once_and_alone() {
        let block = |byte: u8| {
            let text = STANDARD.encode([byte; 60]);
            format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
        };
        let (a, b) = (block(1), block(2));
        let found = anchors([format!("said of it\n{b}{a}").as_str(), a.as_str()].into_iter());
        assert_eq!(found.matches("BEGIN CERTIFICATE").count(), 2, "{found}");
        assert!(found.starts_with("-----BEGIN CERTIFICATE-----\nAQEB") && !found.contains("said"), "{found}");
        assert!(found.lines().all(|line| line.len() <= LINE), "{found}");
        let read: Vec<_> = CertificateDer::pem_slice_iter(found.as_bytes()).flatten().collect();
        assert_eq!(read.iter().map(|one| one[0]).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(anchors(std::iter::empty()), "");
    }
}
