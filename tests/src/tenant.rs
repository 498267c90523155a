//! A tenant's user at both doors.

use std::path::PathBuf;

use crate::run::manifest;
use crate::{Cloud, Ran, run_with};

/// A project, and a user with the role `member` on it.
#[derive(Debug)]
pub struct Tenant {
    /// Name of project, namespace and user.
    pub name: String,
    environment: Vec<(String, String)>,
    kubeconfig: PathBuf,
}

impl Tenant {
    /// Makes a tenant with the OpenStack client, as the cloud's admin, and signs in as its user.
    #[track_caller]
    pub fn create(cloud: &Cloud, name: &str) -> Self {
        let password = format!("{name}-Pa55word");
        cloud.openstack(&["project", "create", name]).ok();
        cloud.openstack(&["user", "create", name, "--project", name, "--password", &password]).ok();
        cloud.openstack(&["role", "add", "--project", name, "--user", name, "member"]).ok();
        let clouds = cloud.work().join(format!("{name}-clouds.yaml"));
        let text = format!(
            "clouds:\n  {name}:\n    auth:\n      auth_url: {}/identity/v3\n      username: {name}\n      password: {password}\n      \
             project_name: {name}\n      user_domain_name: Default\n      project_domain_name: Default\n    \
             region_name: RegionOne\n    identity_api_version: 3\n    cacert: {}\n",
            cloud.url(),
            cloud.authority().display()
        );
        std::fs::write(&clouds, text).expect("clouds.yaml");
        let mut environment = cloud.openstack_environment();
        environment.push(("OS_CLIENT_CONFIG_FILE".into(), clouds.to_string_lossy().into_owned()));
        environment.push(("OS_CLOUD".into(), name.into()));
        let mut tenant = Self { name: name.to_owned(), environment, kubeconfig: PathBuf::new() };
        let token = tenant.openstack(&["token", "issue", "-f", "value", "-c", "id"]).ok();
        tenant.kubeconfig = cloud.kubeconfig_with_token(name, &token);
        tenant
    }

    /// Runs the OpenStack client as the tenant's user.
    #[track_caller]
    pub fn openstack(&self, arguments: &[&str]) -> Ran {
        run_with("openstack", arguments, &self.environment, "")
    }

    /// Makes a network with one subnet, both of this name.
    #[track_caller]
    pub fn network(&self, name: &str, range: &str) {
        self.openstack(&["network", "create", name]).ok();
        self.openstack(&["subnet", "create", "--network", name, "--subnet-range", range, name]).ok();
    }

    /// Uploads a disk's file as an image; its id.
    #[track_caller]
    pub fn image(&self, name: &str, format: &str, file: &str) -> String {
        let kind = ["--disk-format", format, "--container-format", "bare", "--file", file, name];
        self.openstack(&[&["image", "create", "-f", "value", "-c", "id"], &kind[..]].concat()).ok()
    }

    /// Runs `kubectl` as the tenant's user, in the tenant's namespace.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> Ran {
        self.kubectl_with(arguments, "")
    }

    /// As [`Tenant::kubectl`], with something on its standard input.
    #[track_caller]
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Ran {
        let mut environment = self.environment.clone();
        environment.push(("KUBECONFIG".into(), self.kubeconfig.to_string_lossy().into_owned()));
        let arguments = [&["-n", &self.name], arguments].concat();
        run_with("kubectl", &arguments, &environment, &manifest(&arguments, input))
    }
}
