#!/usr/bin/env python3
"""Writes a tempest.conf for the cloud that OS_CLOUD names in OS_CLIENT_CONFIG_FILE.

Use: conf.py --image DISK OUT. What Tempest needs of a cloud and does not make itself is made: two images, two flavors, a public network.
What is there by these names is taken as it is, so that a second run changes nothing. Whoever OS_CLOUD names must be an administrator.
"""
import argparse
import configparser
import ipaddress
import os
import sys
import urllib.error
import urllib.request

import openstack

# A machine's size: as small as the guest's kernel allows; Tempest resizes from the first to the second.
FLAVORS = {"tempest-1": {"vcpus": 1, "ram": 256, "disk": 1}, "tempest-2": {"vcpus": 1, "ram": 320, "disk": 2}}
IMAGES = ["tempest-1", "tempest-2"]
PUBLIC = "public"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--image", metavar="DISK", help="a bootable qcow2 disk, for the images where the cloud has none of their names")
    arguments.add_argument("--public-cidr", default=os.environ.get("TEMPEST_PUBLIC_CIDR", "172.24.4.0/24"),
                           help="addresses of the public network where the cloud has none (%(default)s)")
    arguments.add_argument("out", metavar="OUT", help="file to write")
    given = arguments.parse_args()
    cloud = openstack.connect(app_name="tempest-conf")
    conf = configparser.ConfigParser(interpolation=None)
    for part in (identity, compute, image, network, volume, others):
        conf.read_dict(part(cloud, given))
    beside = f"{given.out}.new"
    os.makedirs(os.path.dirname(os.path.abspath(given.out)), exist_ok=True)
    # It holds the administrator's password.
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        conf.write(file)
    os.replace(beside, given.out)


def identity(cloud, given):
    auth = cloud.config.auth
    return {
        "DEFAULT": {"log_dir": os.path.dirname(os.path.abspath(given.out)), "log_file": "tempest.log", "debug": "false"},
        "oslo_concurrency": {"lock_path": os.path.join(os.path.dirname(os.path.abspath(given.out)), "locks")},
        "auth": {
            "use_dynamic_credentials": "true", "create_isolated_networks": "true",
            "admin_username": auth["username"], "admin_password": auth["password"], "admin_project_name": auth["project_name"],
            "admin_domain_name": auth.get("user_domain_name", "Default"),
        },
        "identity": {
            "uri_v3": auth["auth_url"], "auth_version": "v3", "v3_endpoint_type": "public", "region": cloud.config.region_name,
            "admin_role": "admin", "default_domain_id": "default", "ca_certificates_file": cloud.config.config.get("cacert") or "",
        },
        "identity-feature-enabled": {
            "trust": "true", "domain_specific_drivers": "false", "security_compliance": "false", "application_credentials": "true", "access_rules": "false",
        },
    }


def trusted(url):
    """Whether Python knows, without being told, who answers for a service's certificate."""
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError:
        return False


def compute(cloud, given):
    flavors = {}
    for name, size in FLAVORS.items():
        flavors[name] = cloud.compute.find_flavor(name) or cloud.compute.create_flavor(name=name, **size)
    nodes = list(cloud.compute.hypervisors())
    low, high = microversions(cloud.compute)
    return {
        "compute": {
            "flavor_ref": flavors["tempest-1"].id, "flavor_ref_alt": flavors["tempest-2"].id, "min_microversion": low, "max_microversion": high,
            "min_compute_nodes": len(nodes), "build_timeout": 120, "build_interval": 1, "fixed_network_name": "", "catalog_type": "compute",
            "hypervisor_type": "QEMU",
        },
        "compute-feature-enabled": {
            "resize": "true", "pause": "true", "suspend": "true", "shelve": "true", "rescue": "true", "snapshot": "true", "interface_attach": "true",
            "console_output": "true", "config_drive": "true", "metadata_service": "true", "disk_config": "true", "scheduler_enabled_filters": "all",
            # Tempest looks at the page of a console by what Python trusts, and knows no setting for that but SSL_CERT_FILE.
            "vnc_console": truth(trusted(cloud.config.auth["auth_url"])), "serial_console": "true",
            # There is no migration yet, and of consoles no SPICE.
            "cold_migration": "false", "live_migration": "false", "shelve_migrate": "false", "spice_console": "false",
            "swap_volume": "false", "attach_encrypted_volume": "false", "personality": "false", "change_password": "false",
            "volume_multiattach": "false", "barbican_integration_enabled": "false",
        },
        "placement": {"min_microversion": microversions(cloud.placement)[0], "max_microversion": microversions(cloud.placement)[1]},
    }


def image(cloud, given):
    made = []
    for name in IMAGES:
        found = cloud.image.find_image(name)
        if found is None:
            if not given.image:
                sys.exit(f"tempest-conf: the cloud has no image {name}: name a bootable disk by --image, of which it is made")
            found = cloud.image.create_image(name=name, filename=given.image, disk_format="qcow2", container_format="bare", visibility="public", wait=True)
        made.append(found.id)
    return {
        "compute": {"image_ref": made[0], "image_ref_alt": made[1]},
        "image": {"disk_formats": "raw,qcow2,vmdk,vdi,vhd,vhdx,iso,ami,aki,ari", "container_formats": "bare,ami,aki,ari,ovf,ova", "http_image": ""},
        "image-feature-enabled": {"import_image": "true", "api_v2": "true", "os_glance_reserved": "false", "image_caching_enabled": "false"},
        "scenario": {"img_file": os.path.abspath(given.image) if given.image else "", "img_disk_format": "qcow2", "img_container_format": "bare"},
    }


def network(cloud, given):
    aliases = sorted(extension.alias for extension in cloud.network.extensions())
    sections = {
        "network": {"project_network_cidr": "10.100.0.0/16", "project_network_mask_bits": 28, "build_timeout": 60},
        "network-feature-enabled": {
            "api_extensions": ",".join(aliases), "port_security": truth("port-security" in aliases), "floating_ips": truth("router" in aliases),
            "ipv6": "true", "ipv6_subnet_attributes": "true", "port_admin_state_change": "true",
        },
        # Machines are looked into where they can be reached: by a floating address, over ssh.
        "validation": {
            "run_validation": truth("external-net" in aliases), "connect_method": "floating", "auth_method": "keypair", "image_ssh_user": "root",
            "image_alt_ssh_user": "root", "network_for_ssh": PUBLIC, "ssh_timeout": 120, "ping_timeout": 60,
        },
    }
    if "external-net" in aliases:
        public = public_network(cloud, given.public_cidr)
        sections["network"] |= {"public_network_id": public.id, "floating_network_name": public.name}
        sections["validation"]["network_for_ssh"] = public.name
    return sections


def public_network(cloud, cidr):
    """The network that floating addresses come from: the first that is external, else one that is made."""
    for found in cloud.network.networks(is_router_external=True):
        return found
    made = cloud.network.create_network(name=PUBLIC, is_router_external=True)
    first = next(ipaddress.ip_network(cidr).hosts())
    cloud.network.create_subnet(name=PUBLIC, network_id=made.id, ip_version=4, cidr=cidr, gateway_ip=str(first), is_dhcp_enabled=False)
    return made


def volume(cloud, given):
    low, high = microversions(cloud.block_storage)
    return {
        "volume": {"min_microversion": low, "max_microversion": high, "build_timeout": 120, "build_interval": 1, "catalog_type": "volumev3", "disk_format": "raw,qcow2",
                   "storage_protocol": "local", "vendor_name": "Yunfan"},
        "volume-feature-enabled": {
            "snapshot": "true", "clone": "true", "backup": "true", "extend_attached_volume": "true", "multi_backend": "false", "manage_volume": "false",
            "manage_snapshot": "false", "consistency_group": "false", "volume_locked_update": "false",
        },
    }


def others(cloud, given):
    # The role of OpenStack's own services among one another, which some tests want to give to a user.
    if cloud.identity.find_role("service") is None:
        cloud.identity.create_role(name="service")
    return {
        "service_available": {"cinder": "true", "glance": "true", "neutron": "true", "nova": "true", "placement": "true", "swift": "false", "horizon": "false"},
        "enforce_scope": {},
    }


def microversions(service):
    """The lowest and the highest microversion that a service serves."""
    found = service.get_endpoint_data()
    version = lambda pair: ".".join(str(part) for part in pair) if pair else ""
    return version(found.min_microversion), version(found.max_microversion)


def truth(value):
    return "true" if value else "false"


if __name__ == "__main__":
    main()
