use std::fs;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::process::{Process, output};

#[test]
fn a_node_has_only_loopback_and_it_is_up() {
    let node = Node::new().unwrap();
    let links = output(node.command("ip").args(["-o", "link"])).unwrap();
    assert_eq!(links.lines().count(), 1, "{links}");
    assert!(links.contains("lo: <LOOPBACK,UP"), "{links}");
}

#[test]
fn mounts_of_a_node_stay_in_it() {
    let node = Node::new().unwrap();
    let target = node.dir().join("tmp");
    let status = node
        .command("mount")
        .args(["-t", "tmpfs", "x"])
        .arg(&target)
        .status()
        .unwrap();
    assert!(status.success());
    let count = |table: &str| {
        table
            .lines()
            .filter(|line| line.contains(node.name()))
            .count()
    };
    let inside = node
        .inside(|| fs::read_to_string("/proc/thread-self/mountinfo").unwrap())
        .unwrap();
    assert_eq!(count(&inside), 1);
    assert_eq!(
        count(&fs::read_to_string("/proc/self/mountinfo").unwrap()),
        0
    );
}

#[test]
fn nodes_do_not_see_each_other() {
    let (one, two) = (Node::new().unwrap(), Node::new().unwrap());
    assert_ne!(one.netns_identity().unwrap(), two.netns_identity().unwrap());
    let listener = one
        .inside(|| std::net::TcpListener::bind("127.0.0.1:4711").unwrap())
        .unwrap();
    let address = listener.local_addr().unwrap();
    one.connect(address).unwrap();
    assert!(two.connect(address).is_err());
}

#[test]
fn the_end_of_a_node_ends_processes_cgroups_and_directories() {
    let node = Node::new().unwrap();
    let (dir, name) = (node.dir().to_path_buf(), node.name().to_owned());
    node.cgroup_parent().unwrap();
    crate::cgroup::create(&format!("/{name}/pod")).unwrap();
    let mut child = node.command("sleep").arg("1000").spawn().unwrap();
    let procs = crate::cgroup::find(|path| path == format!("{name}/pod"));
    assert!(!procs.is_empty());
    fs::write(
        procs.first().unwrap().join("cgroup.procs"),
        child.id().to_string(),
    )
    .unwrap();

    drop(node);

    assert!(!child.wait().unwrap().success());
    assert!(!dir.exists());
    assert_eq!(
        crate::cgroup::find(|path| path.contains(&name)),
        Vec::<PathBuf>::new()
    );
}

#[test]
fn a_process_is_found_by_environment_arguments_and_namespace() {
    let node = Node::new().unwrap();
    let mut marked = node.command("sleep").arg("1001").spawn().unwrap();
    let mut moved = node
        .command("unshare")
        .args(["-nm", "sleep", "1002"])
        .spawn()
        .unwrap();
    let mut unmarked = node
        .command("sleep")
        .env_remove(MARK)
        .arg("1003")
        .spawn()
        .unwrap();
    let names = |list: std::collections::BTreeSet<sweep::Process>| {
        list.into_iter()
            .map(|process| process.command)
            .collect::<Vec<_>>()
            .join("\n")
    };
    // The child of fork carries the parent's arguments until it has executed its program.
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        let found = names(sweep::processes(&[node.name()], Some(node.namespaces())));
        let by_mark = names(sweep::processes(&[node.name()], None));
        let all = ["sleep 1001", "sleep 1002", "sleep 1003"]
            .iter()
            .all(|one| found.contains(one));
        if all && !by_mark.contains("sleep 1003") {
            break;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "{found}\n--\n{by_mark}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(node);
    for child in [&mut marked, &mut moved, &mut unmarked] {
        assert!(!child.wait().unwrap().success());
    }
}

#[test]
fn a_killed_owner_is_swept_and_a_living_one_is_not() {
    let living = Node::new().unwrap();
    // A directory whose lock nobody holds, a process and a cgroup that carry its name.
    let base = setup::base();
    let name = format!("lkdead{:04x}", std::process::id() & 0xffff);
    let dir = base.join(&name);
    fs::create_dir_all(dir.join("root/sandboxes")).unwrap();
    fs::write(dir.join(setup::OWNER), "").unwrap();
    crate::cgroup::create(&format!("/{name}")).unwrap();
    let mut command = std::process::Command::new("sleep");
    command.arg("1000").env(MARK, &name);
    let mut orphan = Process::spawn(command, Path::new("/dev/null")).unwrap();

    let lock = setup::lock_file(&base.join("lock")).unwrap();
    lock.lock().unwrap();
    sweep::dead_nodes(&base);
    drop(lock);

    orphan.wait(Duration::from_secs(5)).unwrap();
    assert!(!dir.exists());
    assert_eq!(
        crate::cgroup::find(|path| path.contains(&name)),
        Vec::<PathBuf>::new()
    );
    assert!(living.dir().exists());
}
