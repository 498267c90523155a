# systemd: the service restarts, is killed and stops without its Pods, and a reboot brings them back
# Every process of the Pod, shim and all; what the Pod's web server answers, asked without any part of the cloud.
processes() { guest "cat $group/cgroup.procs $group/*/cgroup.procs | sort -n"; }
page() {
    guest "ip netns exec $netns timeout 20 bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080; printf \"GET / HTTP/1.0\r\n\r\n\" >&3; cat <&3'"
}
main() { guest systemctl show -P MainPID yunfan; }
# same_pod: its processes are those that were there, and they serve.
same_pod() {
    same "processes of the Pod after $1" "$before" "$(processes)"
    has 'container web' page || die "after $1 the Pod's web server does not answer"
    same "memory limit after $1" 67108864 "$(guest cat "$group"/*/memory.max)"
}

same 'the first process' systemd "$(guest cat /proc/1/comm)"
same 'the hierarchy of cgroups' cgroup2fs "$(guest stat -fc %T /sys/fs/cgroup)"

{ pod web && echo '    resources: {limits: {memory: 64Mi, cpu: 500m}}'; } | kubectl apply -f - >/dev/null
ready web
group=$(cgroup web)
netns=$(guest "cd /run/netns && echo yf-*-pod-$(of pod/web '{.metadata.uid}')")
before=$(processes)
[ -n "$before" ] || die "the Pod's cgroup holds no process"
has 'container web' page

first=$(main)
guest systemctl restart yunfan
[ "$(main)" != "$first" ] || die 'a restart left the process as it was'
same_pod 'a restart'
until_cloud
same_pod 'a restart, when the cloud is ready'

first=$(main)
guest kill -9 "$first"
until_true 60 'systemd starts what was killed' has active guest "[ \$(systemctl show -P MainPID yunfan) != $first ] && systemctl is-active yunfan"
until_cloud
same_pod 'kill -9 of the main process'

guest systemctl stop yunfan
same 'the stopped service' inactive "$(guest systemctl is-active yunfan || true)"
# systemd looks at which controllers it needs itself.
guest systemctl daemon-reload
same_pod 'a stop'
guest systemctl start yunfan
until_cloud
same_pod 'a start'
same 'restarts of the container' 0 "$(of pod/web '{.status.containerStatuses[0].restartCount}')"

uid=$(of pod/web '{.metadata.uid}')
reboot_guest
until_cloud
same 'the Pod after a reboot' "$uid" "$(of pod/web '{.metadata.uid}')"
until_true 120 'the Pod runs again after a reboot' is true of pod/web '{.status.containerStatuses[?(@.restartCount>0)].ready}'
has 'container web' page
same 'failed units after a reboot' '' "$(guest systemctl --failed --no-legend --plain)"
