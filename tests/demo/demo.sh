#!/bin/bash
# The demo, run inside a node by `make demo`: a registry, an image made from Debian's busybox, a pod with
# an address of its own, its output, and then nothing left behind.
set -euo pipefail

: "${LONGSHORE_KIT_DIR:?run me with kit_node}" "${KIT:?}"
: "${LONGSHORE_BIN:?}" "${LONGSHORE_SHIM_BIN:?}" "${LONGSHORE_CRICTL:?}"
dir=$LONGSHORE_KIT_DIR
sock=$dir/d/cri.sock
name=$(basename "$dir")

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
show() { printf '$ crictl %s\n' "$*" >&2; crictl "$@"; }
crictl() {
	"$LONGSHORE_CRICTL" --config /dev/null --timeout 60s \
		--runtime-endpoint "unix://$sock" --image-endpoint "unix://$sock" "$@"
}

registry_pid='' daemon_pid=''
finish() {
	status=$?
	if [ "$status" -ne 0 ]; then
		echo "demo: failed ($status); the end of the daemon's log:" >&2
		tail -n 40 "$dir/logs/daemon.log" >&2 || true
	fi
	for pid in $daemon_pid $registry_pid; do kill "$pid" 2>/dev/null || true; done
}
trap finish EXIT

wait_for() { # seconds, command: until it succeeds
	local end=$((SECONDS + $1)); shift
	until "$@" >/dev/null 2>&1; do
		[ "$SECONDS" -lt "$end" ] || { echo "demo: still failing: $*" >&2; return 1; }
		sleep 0.05
	done
}

say "a registry on loopback, and an image made from Debian's busybox"
cat >"$dir/registry.yml" <<-END
	version: 0.1
	log: { level: error }
	storage: { filesystem: { rootdirectory: $dir/registry } }
	http: { addr: 127.0.0.1:5000 }
END
docker-registry serve "$dir/registry.yml" >"$dir/logs/registry.log" 2>&1 &
registry_pid=$!
image=127.0.0.1:5000/busybox:latest
layout=$("$KIT/kit_images" busybox | awk '{ print $NF }')
wait_for 10 bash -c 'exec 3<>/dev/tcp/127.0.0.1/5000'
skopeo copy --quiet --insecure-policy --dest-tls-verify=false "oci:$layout:latest" "docker://$image"
echo "$image"

say "longshore on its defaults, with the fallback bridge"
mkdir -p "$dir/d/net.d"
cat >"$dir/d/config.toml" <<-END
	instance = "$name"
	shim = "$LONGSHORE_SHIM_BIN"
	[cni]
	conf_dir = "$dir/d/net.d"
	fallback = "bridge"
END
"$LONGSHORE_BIN" serve --config "$dir/d/config.toml" --root "$dir/d/root" --state "$dir/d/state" \
	--listen "$sock" >"$dir/logs/daemon.log" 2>&1 &
daemon_pid=$!
wait_for 15 crictl version
show version
"$KIT/kit_audit" before "$dir/logs/audit.json"

say "a pod"
cat >"$dir/pod.json" <<-END
	{ "metadata": { "name": "demo", "namespace": "default", "uid": "demo-1", "attempt": 0 },
	  "hostname": "demo", "log_directory": "$dir/logs/demo",
	  "linux": { "cgroup_parent": "/$name", "security_context": { "namespace_options": { "pid": 1 } } } }
END
cat >"$dir/container.json" <<-END
	{ "metadata": { "name": "hello" }, "image": { "image": "$image" }, "log_path": "hello.log",
	  "linux": { "security_context": { "namespace_options": { "pid": 1 } } },
	  "command": ["sh", "-c", "echo \"hello from \$(hostname), my address is \$(hostname -i)\"; exec sleep 1000"] }
END
mkdir -p "$dir/logs/demo"
show pull "$image"
pod=$(show runp "$dir/pod.json")
container=$(show create "$pod" "$dir/container.json" "$dir/pod.json")
show start "$container"
wait_for 10 grep -q hello "$dir/logs/demo/hello.log"
show pods
show ps
address=$(crictl inspectp -o go-template --template '{{.status.network.ip}}' "$pod")

say "its own output, and its address"
show logs "$container"
echo "pod IP: $address"
crictl logs "$container" | grep -q "my address is .*$address"
show exec -s "$container" ps

say "the end"
show stop --timeout 1 "$container"
show rm "$container"
show stopp "$pod"
show rmp "$pod"
show rmi "$image"
# The parent cgroup is the kubelet's to make and to remove: here, ours.
find /sys/fs/cgroup -mindepth 2 -maxdepth 2 -type d -name "$name" -exec rmdir {} +
"$KIT/kit_audit" after "$dir/logs/audit.json"
kill "$daemon_pid"
wait "$daemon_pid" || { echo "demo: the daemon ended with $?" >&2; exit 1; }
daemon_pid=''
echo "nothing left behind"
