//! Containers of a busybox, made through `Shims` as the daemon makes them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use longshore::base::tasks::Tasks;
use longshore::shimlink::{Create, Rootfs, Shim, Shims, ShimsConfig, Stdio};
use serde_json::{Value, json};
use tempfile::TempDir;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A daemon's directories. None, with the reason printed, where these tests
/// can't run.
pub(crate) struct Node {
    pub(crate) directory: TempDir,
    pub(crate) tasks: Tasks,
    name: String,
}

fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("LONGSHORE_SHIM_BIN") {
        return Some(path.into());
    }
    // target/debug/deps/<test> -> target/debug/longshore-shim
    let test = std::env::current_exe().unwrap();
    let built = test.parent()?.parent()?.join("longshore-shim");
    built.exists().then_some(built)
}

impl Node {
    pub(crate) fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: namespaces, mounts and cgroups need root");
            return None;
        }
        if program().is_none() {
            eprintln!("skipped: no longshore-shim; build it or set LONGSHORE_SHIM_BIN");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("longshore-link-{}-{number}", std::process::id());
        // A path that fits no socket address.
        let directory = tempfile::Builder::new()
            .prefix(&"d".repeat(120))
            .tempdir()
            .unwrap();
        fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o711)).unwrap();
        fs::create_dir(directory.path().join("s")).unwrap();
        make_layer(&directory.path().join("layer"));
        Some(Self {
            directory,
            tasks: Tasks::new(),
            name,
        })
    }

    /// What a daemon makes at its start.
    pub(crate) fn shims(&self) -> Shims {
        let config = ShimsConfig {
            binary: program().unwrap(),
            sockets: self.directory.path().join("s"),
            cgroup: Vec::new(),
            tasks: self.tasks.clone(),
        };
        Shims::new(config).unwrap()
    }

    pub(crate) fn create(&self, id: &str, process: &Value, stdio: Stdio) -> Create {
        let home = self.directory.path().join(format!("c-{id}"));
        for name in ["stage", "upper", "work"] {
            fs::create_dir_all(home.join(name)).unwrap();
        }
        fs::set_permissions(&home, PermissionsExt::from_mode(0o711)).unwrap();
        fs::set_permissions(home.join("stage"), PermissionsExt::from_mode(0o711)).unwrap();
        let path = |name: &str| home.join(name).to_str().unwrap().to_owned();
        let layer = self.directory.path().join("layer");
        Create {
            id: id.to_owned(),
            spec: spec(&format!("/{}/{id}", self.name), process)
                .to_string()
                .into_bytes(),
            rootfs: Some(Rootfs {
                lower: vec![layer.into_os_string().into_encoded_bytes()],
                upper: path("upper").into_bytes(),
                work: path("work").into_bytes(),
                ..Rootfs::default()
            }),
            stage_dir: path("stage"),
            state_dir: path("state"),
            exit_record: path("exit.json"),
            stdio: Some(Stdio {
                log_path: path("log"),
                ..stdio
            }),
            record: b"kept".to_vec(),
            ..Create::default()
        }
    }

    /// A running container.
    pub(crate) async fn run(&self, shims: &Shims, id: &str, script: &str) -> Shim {
        self.run_as(shims, id, &process(script), Stdio::default())
            .await
    }

    pub(crate) async fn run_as(
        &self,
        shims: &Shims,
        id: &str,
        process: &Value,
        stdio: Stdio,
    ) -> Shim {
        let shim = shims.spawn(id).await.unwrap();
        shim.create(self.create(id, process, stdio)).await.unwrap();
        shim.start().await.unwrap();
        shim
    }

    pub(crate) fn log(&self, id: &str) -> String {
        let path = self.directory.path().join(format!("c-{id}/log"));
        let text = fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| line.split_once(' ').unwrap().1.to_owned() + "\n")
            .collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // What the shims left is theirs to remove; the pod's directory is ours.
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
            let pod = hierarchy.unwrap().path().join(&self.name);
            if pod.exists() {
                let removed = fs::remove_dir(&pod);
                if !std::thread::panicking() {
                    removed.unwrap();
                }
            }
        }
        let _pod = fs::remove_dir(Path::new("/sys/fs/cgroup").join(&self.name));
    }
}

pub(crate) fn process(script: &str) -> Value {
    let capabilities = json!(["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"]);
    json!({"user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", script], "cwd": "/",
        "env": ["PATH=/bin", "HOME=/"], "capabilities":
        {"bounding": capabilities, "effective": capabilities, "permitted": capabilities}})
}

fn spec(cgroup: &str, process: &Value) -> Value {
    json!({"ociVersion": "1.0.2", "hostname": "c", "root": {"path": "ignored"},
        "process": process,
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options":
                ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}],
        "linux": {"cgroupsPath": cgroup, "resources": {},
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "network"}]}})
}

fn make_layer(layer: &Path) {
    for name in ["bin", "lib", "lib64", "etc", "dev", "proc", "sys", "tmp"] {
        fs::create_dir_all(layer.join(name)).unwrap();
    }
    fs::copy("/bin/busybox", layer.join("bin/busybox")).unwrap();
    for applet in ["sh", "cat", "echo", "sleep", "dd", "true", "tty"] {
        symlink("busybox", layer.join("bin").join(applet)).unwrap();
    }
    let libraries = Command::new("ldd")
        .arg("/bin/busybox")
        .output()
        .unwrap()
        .stdout;
    for word in String::from_utf8(libraries).unwrap().split_whitespace() {
        if word.starts_with('/') {
            let to = layer.join(word.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(word, to).unwrap();
        }
    }
}
