//! Whose client certificates are to be trusted, for Kubernetes' own programs beside the API server: the ConfigMap
//! `extension-apiserver-authentication`, where they look for it.

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;
use yunfan_client::{Writer, is_exists};
use yunfan_resources::names::SYSTEM_NAMESPACE;

/// Its name, which those programs know.
const NAME: &str = "extension-apiserver-authentication";

/// Writes the authority's certificate (PEM) down, in place of another one.
pub(crate) async fn publish(writer: &Writer, authority: &str) -> anyhow::Result<()> {
    let data = json!({"client-ca-file": authority});
    let map: ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": NAME, "namespace": SYSTEM_NAMESPACE}, "data": data,
    }))?;
    match writer.create(&map).await {
        Err(error) if is_exists(&error) => {
            writer.merge::<ConfigMap>(Some(SYSTEM_NAMESPACE), NAME, &json!({"data": data})).await?;
            Ok(())
        }
        result => Ok(result.map(|_| ())?),
    }
}
