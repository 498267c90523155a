# cgroup v2: limits, requests, a resize in place, what is used, and the end of what takes too much memory

# A value of the container's cgroup, as the node sees it.
value() { guest cat "$(cgroup "$1")/*/$2"; }
status() { of "pod/$1" "{.status.containerStatuses[0].$2}"; }

{
    pod limited
    echo '    resources: {requests: {cpu: 250m, memory: 32Mi}, limits: {cpu: 500m, memory: 64Mi}}'
    echo '---'
    pod whole 'resources: {limits: {cpu: 200m, memory: 96Mi}}'
    echo '---'
    # It ends by what its child does, who alone is over the limit.
    pod greedy 'restartPolicy: Never'
    echo '    command: [sh, -c, "tail /dev/zero | cat; sleep 1000"]'
    echo '    resources: {limits: {memory: 32Mi}}'
} | kubectl apply -f - >/dev/null
ready limited whole

same 'memory.max' 67108864 "$(value limited memory.max)"
same 'cpu.max' '50000 100000' "$(value limited cpu.max)"
same 'cpu.weight' 35 "$(value limited cpu.weight)"
[ "$(value limited pids.max)" != max ] || die 'the container has no limit of processes'
same 'what the container sees of its limit' 67108864 "$(in_pod limited 'cat /sys/fs/cgroup/memory.max')"
! in_pod limited 'echo max > /sys/fs/cgroup/memory.max' 2>/dev/null || die 'the container changed its own limit'
same 'the class of service' Burstable "$(of pod/limited '{.status.qosClass}')"
same "the whole Pod's memory.max" 100663296 "$(guest cat "$(cgroup whole)/memory.max")"
same "the whole Pod's cpu.max" '20000 100000' "$(guest cat "$(cgroup whole)/cpu.max")"

before=$(value limited cgroup.procs)
kubectl patch pod limited --subresource resize --type strategic -p \
    '{"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": "300m"}, "limits": {"cpu": "800m", "memory": "80Mi"}}}]}}' >/dev/null
until_true 60 'memory.max follows a resize' is 83886080 value limited memory.max
until_true 60 'cpu.max follows a resize' is '80000 100000' value limited cpu.max
until_true 60 'cpu.weight follows a resize' is 40 value limited cpu.weight
until_true 60 'the status tells of the resize' is '800m 80Mi' of pod/limited \
    '{.status.containerStatuses[0].resources.limits.cpu} {.status.containerStatuses[0].resources.limits.memory}'
same 'processes after a resize' "$before" "$(value limited cgroup.procs)"
same 'restarts after a resize' 0 "$(status limited restartCount)"

phase greedy Failed
same 'why it ended' 'OOMKilled 137' "$(status greedy state.terminated.reason) $(status greedy state.terminated.exitCode)"

until_true 120 'kubectl top knows the Pod' has limited kubectl top pod limited --containers --no-headers
read -r _ _ _ memory < <(kubectl top pod limited --containers --no-headers)
[ "${memory%Mi}" -lt 80 ] || die "kubectl top says $memory of at most 80Mi"
has guest kubectl top node --no-headers || die 'kubectl top does not know the node'

# Nothing of a Pod that is gone is left in the hierarchy.
gone=$(cgroup limited)
kubectl delete pod limited --wait --timeout=120s >/dev/null
until_true 60 'its cgroup is removed' guest test ! -e "$gone"
