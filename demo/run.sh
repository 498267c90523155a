#!/usr/bin/env bash
# The story: one command starts a cloud in which a container and a VM of one tenant talk to each other. `make demo` runs it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

[ "$(id -u)" = 0 ] || die "run as root: a cloud makes network namespaces, mounts and cgroups"
[ -x "$yunfan" ] || die "$yunfan was not found: run make build"
if [ -e "$cloud/kubeconfig" ] && kubectl --kubeconfig "$cloud/kubeconfig" get --raw /readyz >/dev/null 2>&1; then
    die "the demo is running already (data in $data): run make down first"
fi
"$here/down.sh" >/dev/null 2>&1 || true
mkdir -p "$data"
chmod 700 "$data"

# --- images, clients -----------------------------------------------------------------------------------------------------
step "Building the web image from Debian's busybox"
archive=$("$here/web-image.sh" "$target/demo" 2>"$data/web-image.log" | tail -n 1) || die "see $data/web-image.log"
ok "$(du -h "$archive" | cut -f1)"

step "Building the guest's disk from Debian's cloud kernel and busybox"
disk=$("$here/guest-image.sh" "$target/demo" 2>"$data/guest-image.log" | tail -n 1) || die "see $data/guest-image.log"
ok "$(du -h "$disk" | cut -f1)"

step "Having the openstack client"
PATH=$("$top/scripts/openstack-client.sh"):$PATH
ok

step "Starting a registry on 127.0.0.1:$registry_port and pushing the image to it"
cat >"$data/registry.yml" <<REGISTRY
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $data/registry}}
http: {addr: 127.0.0.1:$registry_port}
REGISTRY
setsid docker-registry serve "$data/registry.yml" >"$data/registry.log" 2>&1 </dev/null &
echo $! >"$data/registry.pid"
until_true 10 "the registry does not answer, see $data/registry.log" curl -fsS "http://127.0.0.1:$registry_port/v2/"
image=127.0.0.1:$registry_port/demo/web:1
skopeo copy -q --dest-tls-verify=false "oci-archive:$archive" "docker://$image" || die "the image could not be pushed"
ok "$image"

# --- 1. a cloud ----------------------------------------------------------------------------------------------------------
step "Starting the cloud"
setsid "$yunfan" up --data-dir "$cloud" --listen "127.0.0.1:$port" >"$data/cloud.log" 2>&1 </dev/null &
cloud_pid=$!
is_ready() { grep -q '^ready' "$data/cloud.log"; }
until_true 30 "the cloud is not ready: $(tail -n 3 "$data/cloud.log" 2>/dev/null)" is_ready
ok "$(grep -o '^ready in [0-9]* ms' "$data/cloud.log"), process $cloud_pid"

export KUBECONFIG=$cloud/kubeconfig OS_CLIENT_CONFIG_FILE=$cloud/clouds.yaml OS_CLOUD=yunfan
admin() { OS_CLIENT_CONFIG_FILE=$cloud/clouds.yaml OS_CLOUD=yunfan openstack "$@"; }

# --- 2. a tenant ---------------------------------------------------------------------------------------------------------
step "Making the tenant: project, user, role, quota"
password=$(head -c 18 /dev/urandom | base64 | tr -d '+/=')
admin project create demo -f value -c id >/dev/null
admin user create demo --project demo --password "$password" -f value -c id >/dev/null
admin role add --project demo --user demo member
admin quota set --cores 8 --ram 4096 --instances 10 demo
admin flavor create --vcpus 1 --ram 256 --disk 1 demo.small -f value -c id >/dev/null
cat >"$data/clouds.yaml" <<CLOUDS
clouds:
  demo:
    auth:
      auth_url: https://127.0.0.1:$port/identity/v3
      username: demo
      password: $password
      project_name: demo
      user_domain_name: Default
      project_domain_name: Default
    region_name: RegionOne
    identity_api_version: 3
    cacert: $cloud/pki/ca.crt
CLOUDS
chmod 600 "$data/clouds.yaml"
ok "namespace $(kubectl get namespace demo -o name)"

# From here on, everything is done as the tenant's user, through both doors with one password.
export OS_CLIENT_CONFIG_FILE=$data/clouds.yaml OS_CLOUD=demo
step "Signing in as the tenant's user, for both doors"
token=$(openstack token issue -f value -c id)
server=https://127.0.0.1:$port
tenant=$data/kubeconfig
cat >"$tenant" <<CONFIG
apiVersion: v1
kind: Config
clusters: [{name: yunfan, cluster: {server: "$server", certificate-authority: "$cloud/pki/ca.crt"}}]
users: [{name: demo, user: {token: "$token"}}]
contexts: [{name: demo, context: {cluster: yunfan, user: demo, namespace: demo}}]
current-context: demo
CONFIG
chmod 600 "$tenant"
export KUBECONFIG=$tenant
ok "kubectl says: $(kubectl auth can-i create pods)"

step "Making the tenant's private network, 10.10.0.0/24"
openstack network create demo -f value -c id >/dev/null
openstack subnet create --network demo --subnet-range 10.10.0.0/24 demo -f value -c id >/dev/null
# The namespace's Pods join it by themselves.
kubectl --kubeconfig "$cloud/kubeconfig" annotate namespace demo network.yunfan.io/default-network=demo >/dev/null
ok

# --- 3. containers -------------------------------------------------------------------------------------------------------
step "Deploying three replicas of the web server, a Service and a ConfigMap with kubectl"
sed "s|IMAGE|$image|" "$here/web.yaml" | kubectl apply -f - >"$data/apply.log"
kubectl rollout status deployment/web --timeout=60s >>"$data/apply.log" || die "see $data/apply.log"
ok "$(kubectl get deployment web -o jsonpath='{.status.readyReplicas}') ready"

# --- 4. a virtual machine ------------------------------------------------------------------------------------------------
step "Uploading the guest's disk with the openstack client"
openstack image create --disk-format qcow2 --container-format bare --file "$disk" guest -f value -c id >/dev/null
ok
step "Starting a virtual machine"
ssh-keygen -q -t ed25519 -N '' -C demo -f "$data/key"
openstack keypair create --public-key "$data/key.pub" demo >/dev/null
# What the guest runs when it has booted: it fetches the Deployment's page by the Service's DNS name.
cat >"$data/user-data" <<'GUEST'
#!/bin/sh
for try in 1 2 3 4 5 6 7 8 9 10; do
    page=$(timeout 3 wget -q -O - http://web.demo.svc.cluster.local/) && break
    sleep 1
done
echo "the Service's page: $page"
GUEST
openstack server create --network demo --image guest --flavor demo.small --key-name demo --user-data "$data/user-data" --wait vm -f value -c id >"$data/server.log" 2>&1 ||
    die "the server did not start: $(tail -n 2 "$data/server.log")"
address=$(openstack port list --server vm -f json | jq -r '.[0]["Fixed IP Addresses"][0].ip_address')
ok "ACTIVE at $address"
openstack server list
step "Waiting for the guest to boot and serve"
console_says() { openstack console log show vm | grep -q "$1"; }
until_true 120 "the guest does not serve; see: openstack console log show vm" console_says 'serving on port'
ok

# --- 5. they talk --------------------------------------------------------------------------------------------------------
step "A Pod fetches the VM's page by its address"
page=$(kubectl exec deploy/web -- timeout 10 wget -q -O - "http://$address/")
ok "$(echo "$page" | tr -s ' \n' ' ' | cut -c1-70)"
step "A Pod fetches the VM's page by its DNS name"
page=$(kubectl exec deploy/web -- timeout 10 wget -q -O - http://vm.demo.demo.net.cluster.local/)
ok "$(echo "$page" | tr -s ' \n' ' ' | cut -c1-70)"
step "The VM fetched the Deployment's page through the Service's DNS name"
until_true 60 "the guest did not get the page; see: openstack console log show vm" console_says 'Hello from a ConfigMap'
ok "$(openstack console log show vm | grep -o "the Service's page:.*" | head -n 1 | cut -c1-70)"

step "A second tenant with the same addresses can reach neither"
export KUBECONFIG=$cloud/kubeconfig OS_CLIENT_CONFIG_FILE=$cloud/clouds.yaml OS_CLOUD=yunfan
admin project create rival -f value -c id >/dev/null
rival_password=$(head -c 18 /dev/urandom | base64 | tr -d '+/=')
admin user create rival --project rival --password "$rival_password" -f value -c id >/dev/null
admin role add --project rival --user rival member
as_rival() {
    OS_CLIENT_CONFIG_FILE=/dev/null OS_CLOUD='' openstack --os-auth-url "$server/identity/v3" --os-cacert "$cloud/pki/ca.crt" \
        --os-username rival --os-password "$rival_password" --os-project-name rival --os-user-domain-name Default \
        --os-project-domain-name Default --os-identity-api-version 3 "$@"
}
as_rival network create demo -f value -c id >/dev/null
as_rival subnet create --network demo --subnet-range 10.10.0.0/24 demo -f value -c id >/dev/null
kubectl apply -f - >/dev/null <<POD
apiVersion: v1
kind: Pod
metadata:
  name: spy
  namespace: rival
  annotations: {network.yunfan.io/network: demo}
spec:
  containers:
    - {name: spy, image: "$image", command: [sleep, "3600"]}
POD
kubectl -n rival wait --for=condition=Ready pod/spy --timeout=60s >/dev/null
web=$(kubectl -n demo get pods -l app=web -o jsonpath='{.items[0].status.podIP}')
for try in "http://$address/" "http://$web:8080/" "http://vm.demo.demo.net.cluster.local/"; do
    if kubectl -n rival exec spy -- timeout 2 wget -q -O - "$try" >/dev/null 2>&1; then
        die "the second tenant reached $try"
    fi
done
ok "its own Pod has $(kubectl -n rival get pod spy -o jsonpath='{.status.podIP}')"

# --- 6. one object, two doors --------------------------------------------------------------------------------------------
step "One object, two doors: a server deleted with kubectl is gone from openstack"
export KUBECONFIG=$tenant OS_CLIENT_CONFIG_FILE=$data/clouds.yaml OS_CLOUD=demo
openstack server create --network demo --image guest --flavor demo.small --wait brief -f value -c id >/dev/null 2>&1
kubectl get virtualmachines -n demo --no-headers | grep -q '^brief ' || die "kubectl does not list the server"
kubectl delete virtualmachine brief -n demo >/dev/null
! openstack server list -f value -c Name | grep -qx brief || die "openstack still lists the server"
ok

took=$(($(now) - demo_started))
printf '\n%sThe story took %d.%d s. What runs:%s\n\n' "$bold" $((took / 1000)) $((took % 1000 / 100)) "$plain"
{
    printf 'WHAT\tNAME\tADDRESS\tNODE\tSTATE\n'
    kubectl get pods -n demo -o json | jq -r '.items[] | ["pod", "demo/" + .metadata.name, .status.podIP, .spec.nodeName, .status.phase] | @tsv'
    kubectl get virtualmachines -n demo -o json | jq -r '.items[] | ["virtual machine", "demo/" + .metadata.name, .status.addresses[0].ip, .spec.nodeName, .status.phase] | @tsv'
    kubectl get service web -n demo -o json | jq -r '["service", "demo/web", .spec.clusterIP, "-", "http://web.demo.svc.cluster.local"] | @tsv'
    printf 'cloud\tprocess %s\t127.0.0.1:%s\t-\t%s\n' "$cloud_pid" "$port" "$cloud"
    printf 'registry\tprocess %s\t127.0.0.1:%s\t-\t%s\n' "$(cat "$data/registry.pid")" "$registry_port" "$image"
} | column -t -s "$(printf '\t')"
cat <<NEXT

Try next:
  export KUBECONFIG=$tenant OS_CLIENT_CONFIG_FILE=$data/clouds.yaml OS_CLOUD=demo
  kubectl get pods,virtualmachines -o wide      kubectl logs deploy/web      kubectl scale deploy/web --replicas=5
  PATH=$(dirname "$(command -v openstack)"):\$PATH
  openstack server list      openstack console log show vm      openstack server reboot vm
  $yunfan why vm vm -n demo --data-dir $cloud
  make down      stops it and removes everything it made
NEXT
