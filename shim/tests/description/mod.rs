//! What of an exec'd process must be equal to init's, as /proc tells it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

const FIELDS: [&str; 16] = [
    "Umask",
    "Uid",
    "Gid",
    "Groups",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "Threads",
];

/// All that must be equal, by name.
pub(crate) fn describe(pid: i32) -> BTreeMap<String, String> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let link = |file: &str| fs::read_link(format!("/proc/{pid}/{file}")).unwrap();
    let mut facts = BTreeMap::new();
    for line in read("status").lines() {
        let (field, value) = line.split_once(':').unwrap();
        if FIELDS.contains(&field) {
            facts.insert(format!("status {field}"), value.trim().to_owned());
        }
    }
    assert_eq!(facts.len(), FIELDS.len(), "{facts:?}");
    for file in [
        "limits",
        "cgroup",
        "oom_score_adj",
        "personality",
        "coredump_filter",
        "uid_map",
    ] {
        facts.insert(file.to_owned(), read(file));
    }
    let kinds = [
        "user",
        "mnt",
        "pid",
        "net",
        "ipc",
        "uts",
        "cgroup",
        "time",
        "pid_for_children",
    ];
    for kind in kinds {
        let target = link(&format!("ns/{kind}"));
        facts.insert(format!("ns {kind}"), target.to_str().unwrap().to_owned());
    }
    for file in ["cwd", "root", "exe"] {
        facts.insert(file.to_owned(), link(file).to_str().unwrap().to_owned());
    }
    let mut environment: Vec<_> = read("environ").split('\0').map(str::to_owned).collect();
    environment.sort();
    facts.insert("environ".to_owned(), environment.join(" "));
    facts.insert("fds".to_owned(), format!("{:?}", descriptors(pid)));
    facts
}

fn descriptors(pid: i32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut numbers: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into())
        .collect();
    numbers.sort();
    numbers
}

/// Asserts that a process is as init is, and gives what it is like.
pub(crate) fn equal(init: &BTreeMap<String, String>, exec: i32) -> BTreeMap<String, String> {
    let exec = describe(exec);
    for (name, value) in init {
        assert_eq!(
            Some(value),
            exec.get(name),
            "{name} differs; init's is on the left"
        );
    }
    assert_eq!(init.len(), exec.len());
    assert_eq!(exec["fds"], r#"["0", "1", "2"]"#);
    exec
}

/// The program is there (runc's start returns before) and its libraries are
/// loaded and closed.
pub(crate) fn wait_for_sleep(pid: i32) {
    for _ in 0..5000 {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        let call = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap();
        if comm == "sleep\n" && call.contains("nanosleep") {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("process {pid} does not come to sleep");
}
