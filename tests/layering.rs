//! The structure of the workspace, held by a test: what the compiler does not refuse inside a crate.
//!
//! - A module of the daemon names modules of lower ranks only, and there is no cycle.
//! - A mechanism names nothing but the base and the configuration.
//! - CRI types stop in `service`, the shim's messages in `shimlink` and `container`, whose port it fills.
//! - `unsafe` lives in named files.
//! - No module is a bag of odds and ends.
//! - The crates depend on each other as `docs/design.md` draws it.
//!
//! An exception is an edit of a table below, and so is seen in review. Code under `#[cfg(test)]` is free.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test: a panic is its verdict, and the token enums belong to the tokenizer"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The top-level modules of `src`, lowest rank first; those of one line may not name each other.
const RANKS: &[(Rank, &[&str])] = &[
    (Rank::Base, &["base"]),
    (Rank::Config, &["config"]),
    (
        Rank::Mechanism,
        &[
            "cgroup",
            "cni",
            "content",
            "events",
            "netns",
            "registry",
            "shimlink",
            "store",
            "streaming",
        ],
    ),
    (Rank::Image, &["image"]),
    (Rank::Sandbox, &["sandbox"]),
    (Rank::Container, &["container"]),
    (Rank::Service, &["service"]),
    (Rank::Top, &["app", "cli", "main", "shutdown"]),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Base,
    Config,
    Mechanism,
    Image,
    Sandbox,
    Container,
    Service,
    Top,
}

/// Mechanisms that `service` may name: what it subscribes to and what hands out URLs.
const SEEN_BY_SERVICE: &[&str] = &["events", "streaming"];

/// What the ranks refuse and is right all the same: (from, to, why).
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "cni",
        "store",
        "a network intent is a record: synced before its effect by the one function that writes records",
    ),
    (
        "service",
        "cni",
        "Status tells whether the network is ready, which no sandbox knows",
    ),
];

/// Who may name which part of a crate of ours: (crate, part, modules). A part `*` is the whole crate.
const FOREIGN: &[(&str, &str, &[&str])] = &[
    ("longshore_proto", "cri", &["app", "cli", "service"]),
    ("longshore_proto", "admin", &["app", "cli", "service"]),
    ("longshore_proto", "shim", &["container", "shimlink"]),
    ("longshore_snapshotter", "*", &["app", "container", "image"]),
];

/// Every file that may hold `unsafe`: a leaf with one purpose, which says so at its top.
const UNSAFE_ISLANDS: &[&str] = &[
    "src/base/readable.rs",
    "src/shimlink/inherit.rs",
    "src/shimlink/socket.rs",
    "shim/src/exec/credentials.rs",
    "shim/src/exec/enter.rs",
    "shim/src/exec/spawn.rs",
    "shim/src/exec/terminal.rs",
    "shim/src/io/pty.rs",
    "shim/src/io/thread.rs",
    "shim/src/sys.rs",
    "tests/kit/src/node/enter.rs",
];

/// Names under which anything could be put, so everything would.
const SHAPELESS: &[&str] = &[
    "common", "helper", "helpers", "misc", "shared", "util", "utils",
];

/// Manifest, the crates of ours it may depend on, and others that it must never link.
const CRATES: &[(&str, &[&str], &[&str])] = &[
    (
        "Cargo.toml",
        &["longshore-proto", "longshore-snapshotter"],
        &["libcontainer", "libcgroups", "libseccomp"],
    ),
    ("proto/Cargo.toml", &[], &["tokio", "libcontainer"]),
    (
        "shim/Cargo.toml",
        &["longshore-proto"],
        &["tokio", "tonic", "hyper"],
    ),
    ("snapshotter/Cargo.toml", &[], &["tokio", "libcontainer"]),
];

/// Where sources are that the rules on files apply to.
const SOURCES: &[&str] = &[
    "src",
    "proto/src",
    "shim/src",
    "snapshotter/src",
    "tests/kit/src",
];

// --- the rules --------------------------------------------------------------------------------------

fn rank(module: &str) -> Option<Rank> {
    RANKS
        .iter()
        .find(|(_, modules)| modules.contains(&module))
        .map(|(rank, _)| *rank)
}

/// Why `from` may not name `to`, if it may not.
fn refuse(from: &str, to: &str) -> Option<String> {
    let excepted = |(of, named, _why): &(&str, &str, &str)| *of == from && *named == to;
    if from == to || EXCEPTIONS.iter().any(excepted) {
        return None;
    }
    let (Some(lower), Some(upper)) = (rank(to), rank(from)) else {
        return Some(format!(
            "{from} -> {to}: give both a rank in tests/layering.rs"
        ));
    };
    let allowed = match upper {
        Rank::Top => true,
        Rank::Service => {
            lower < upper && (lower != Rank::Mechanism || SEEN_BY_SERVICE.contains(&to))
        }
        Rank::Mechanism => lower < Rank::Mechanism,
        Rank::Base | Rank::Config | Rank::Image | Rank::Sandbox | Rank::Container => lower < upper,
    };
    (!allowed).then(|| format!("{from} ({upper:?}) may not name {to} ({lower:?})"))
}

fn check_imports(path: &Path, text: &str) -> Vec<String> {
    let module = module_path(path);
    let Some(from) = module.first() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for named in named_paths(text, module.len()) {
        let [root, part] = &named;
        let refused = if root == "crate" {
            // An item that is re-exported at the root has no module to check.
            if part.starts_with(char::is_uppercase) {
                None
            } else {
                refuse(from, part)
            }
        } else {
            refuse_foreign(from, root, part)
        };
        found.extend(refused.map(|why| format!("{}: {why}", path.display())));
    }
    found.sort();
    found.dedup();
    found
}

fn refuse_foreign(from: &str, root: &str, part: &str) -> Option<String> {
    let rules: Vec<_> = FOREIGN
        .iter()
        .filter(|(name, _, _)| *name == root)
        .collect();
    if rules.is_empty() || from == "main" {
        return None;
    }
    let allowed = rules
        .iter()
        .any(|(_, of, modules)| (*of == part || *of == "*") && modules.contains(&from));
    (!allowed).then(|| format!("{from} may not name {root}::{part}"))
}

fn check_unsafe(path: &Path, text: &str) -> Vec<String> {
    let island = UNSAFE_ISLANDS
        .iter()
        .any(|island| Path::new(island) == path);
    let has = flatten(without_tests(parse(text)))
        .iter()
        .any(|word| word == "unsafe");
    let name = path.display();
    match (has, island) {
        (true, false) => vec![format!("{name}: unsafe outside of the islands")],
        (false, true) => vec![format!("{name}: an island without unsafe")],
        (true, true) if !gives_reason(text) => {
            vec![format!("{name}: an island gives its reason at its top")]
        }
        _ => Vec::new(),
    }
}

/// Formatting may spread the attribute over lines.
fn gives_reason(text: &str) -> bool {
    let packed: String = text.split_whitespace().collect();
    [
        "#![allow(unsafe_code,reason=",
        "#![expect(unsafe_code,reason=",
    ]
    .iter()
    .any(|attribute| packed.contains(attribute))
}

fn check_name(path: &Path) -> Vec<String> {
    path.iter()
        .filter_map(|part| Path::new(part).file_stem()?.to_str())
        .filter(|stem| SHAPELESS.contains(stem))
        .map(|stem| {
            format!(
                "{}: {stem} says nothing; name what it is for",
                path.display()
            )
        })
        .collect()
}

fn check_manifest(manifest: &str, text: &str, ours: &[&str], banned: &[&str]) -> Vec<String> {
    let table: toml::Table = toml::from_str(text).unwrap();
    // What tests alone link is free.
    ["dependencies", "build-dependencies"]
        .iter()
        .filter_map(|section| table.get(*section)?.as_table())
        .flat_map(|section| section.iter())
        .map(|(key, value)| {
            value
                .get("package")
                .and_then(toml::Value::as_str)
                .unwrap_or(key)
        })
        .filter(|name| {
            banned.contains(name) || (name.starts_with("longshore") && !ours.contains(name))
        })
        .map(|name| format!("{manifest}: may not depend on {name}"))
        .collect()
}

/// A cycle of modules, if there is one, as `a -> b -> a`.
fn find_cycle(edges: &BTreeMap<String, BTreeSet<String>>) -> Option<String> {
    fn visit(
        at: &str,
        edges: &BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<String> {
        if let Some(start) = path.iter().position(|name| name == at) {
            let mut cycle = path[start..].to_vec();
            cycle.push(at.to_owned());
            return Some(cycle.join(" -> "));
        }
        if !done.insert(at.to_owned()) {
            return None;
        }
        path.push(at.to_owned());
        let found = edges
            .get(at)
            .into_iter()
            .flatten()
            .find_map(|to| visit(to, edges, path, done));
        path.pop();
        found
    }
    let mut done = BTreeSet::new();
    edges
        .keys()
        .find_map(|start| visit(start, edges, &mut Vec::new(), &mut done))
}

// --- reading source ---------------------------------------------------------------------------------

fn parse(text: &str) -> TokenStream {
    text.parse().unwrap()
}

/// `src/a/b.rs` and `src/a/b/mod.rs` are [a, b]; the crate's root is [].
fn module_path(path: &Path) -> Vec<String> {
    let below = path.strip_prefix("src").unwrap_or(path).with_extension("");
    let mut parts: Vec<String> = below
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if parts
        .last()
        .is_some_and(|last| last == "mod" || last == "lib")
    {
        parts.pop();
    }
    parts
}

/// Tokens without comments (a tokenizer drops them) and without items under `#[cfg(test)]`.
fn without_tests(tokens: TokenStream) -> Vec<TokenTree> {
    let mut kept = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let attribute = match (&token, tokens.peek()) {
            (TokenTree::Punct(hash), Some(TokenTree::Group(group))) if hash.as_char() == '#' => {
                let text: String = group.stream().to_string().split_whitespace().collect();
                text == "cfg(test)" || text.starts_with("cfg(all(test")
            }
            _ => false,
        };
        if !attribute {
            kept.push(token);
            continue;
        }
        // The item ends with its braces or its semicolon.
        for token in tokens.by_ref() {
            match &token {
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => break,
                TokenTree::Punct(punct) if punct.as_char() == ';' => break,
                _ => {}
            }
        }
    }
    kept
}

/// All words and signs in order, groups opened.
fn flatten(tokens: Vec<TokenTree>) -> Vec<String> {
    let mut words = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Brace => ("{", "}"),
                    _ => ("(", ")"),
                };
                words.push(open.to_owned());
                words.extend(flatten(without_tests(group.stream())));
                words.push(close.to_owned());
            }
            other => words.push(other.to_string()),
        }
    }
    words
}

/// Every [root, next] of a path that leaves the module: from `crate`, from enough `super`s, or from a
/// crate of ours. Groups (`crate::{a, b::c}`) count once for each member.
fn named_paths(text: &str, depth: usize) -> BTreeSet<[String; 2]> {
    let words = flatten(without_tests(parse(text)));
    let mut found = BTreeSet::new();
    let mut at = 0;
    while at < words.len() {
        let is_member = at >= 2 && words[at - 1] == ":" && words[at - 2] == ":";
        let mut next = at + 1;
        let root = match words[at].as_str() {
            "super" if !is_member => {
                let mut ups = 1;
                while is_path(&words, next) && words.get(next + 2).is_some_and(|w| w == "super") {
                    (ups, next) = (ups + 1, next + 3);
                }
                (ups >= depth).then_some("crate")
            }
            "crate" if !is_member => Some("crate"),
            name if !is_member && FOREIGN.iter().any(|(of, _, _)| *of == name) => Some(name),
            _ => None,
        };
        if let Some(root) = root.filter(|_| is_path(&words, next)) {
            for member in members(&words, next + 2) {
                found.insert([root.to_owned(), member]);
            }
        }
        at = next;
    }
    found
}

fn is_path(words: &[String], at: usize) -> bool {
    words.get(at).is_some_and(|w| w == ":") && words.get(at + 1).is_some_and(|w| w == ":")
}

/// The name at `at`, or the first name of each member of the group there.
fn members(words: &[String], at: usize) -> Vec<String> {
    let Some(first) = words.get(at) else {
        return Vec::new();
    };
    if first != "{" {
        return vec![first.clone()];
    }
    let (mut level, mut names, mut expect) = (0, Vec::new(), false);
    for word in &words[at..] {
        match word.as_str() {
            "{" => {
                level += 1;
                expect = level == 1;
            }
            "}" => level -= 1,
            "," => expect = level == 1,
            name if expect => {
                names.push(name.to_owned());
                expect = false;
            }
            _ => {}
        }
        if level == 0 {
            break;
        }
    }
    names
}

// --- the workspace as it is -------------------------------------------------------------------------

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The `.rs` files below `dir`, as paths from the workspace's root; test files beside code left out.
fn sources(dir: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path.strip_prefix(root()).unwrap().to_path_buf());
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(dir), &mut found);
    let is_test = |path: &PathBuf| {
        path.iter()
            .any(|part| part == "tests" || part == "tests.rs" || part == "test.rs")
    };
    found.retain(|path| {
        let below = path.strip_prefix(dir).unwrap_or(path).to_path_buf();
        !is_test(&below)
    });
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn assert_none(violations: Vec<String>) {
    assert!(
        violations.is_empty(),
        "{} violations:\n{}",
        violations.len(),
        violations.join("\n")
    );
}

#[test]
fn modules_name_lower_ranks_only() {
    let files = sources("src");
    assert!(files.len() > 10, "the daemon's sources were not found");
    assert_none(
        files
            .iter()
            .flat_map(|path| check_imports(path, &read(path)))
            .collect(),
    );
}

/// Which top-level module names which.
fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in sources("src") {
        let module = module_path(&path);
        let Some(from) = module.first() else { continue };
        for [root, to] in named_paths(&read(&path), module.len()) {
            if root == "crate" && to != *from && rank(&to).is_some() {
                edges.entry(from.clone()).or_default().insert(to);
            }
        }
    }
    assert!(
        !edges.is_empty(),
        "no module names another: the reader is blind"
    );
    edges
}

#[test]
fn modules_have_no_cycle() {
    assert_eq!(find_cycle(&edges()), None);
}

#[test]
fn every_exception_is_in_use() {
    let edges = edges();
    for (from, to, _why) in EXCEPTIONS {
        let used = edges.get(*from).is_some_and(|named| named.contains(*to));
        assert!(
            used,
            "{from} does not name {to} any more: remove the exception"
        );
    }
}

#[test]
fn unsafe_stays_on_its_islands() {
    let files: Vec<PathBuf> = SOURCES.iter().flat_map(|dir| sources(dir)).collect();
    let mut violations: Vec<String> = files
        .iter()
        .flat_map(|path| check_unsafe(path, &read(path)))
        .collect();
    for island in UNSAFE_ISLANDS {
        if !files.iter().any(|path| path == Path::new(island)) {
            violations.push(format!("{island}: an island that is not there"));
        }
    }
    assert_none(violations);
}

#[test]
fn every_module_has_a_purpose_in_its_name() {
    let files = SOURCES.iter().flat_map(|dir| sources(dir));
    assert_none(files.flat_map(|path| check_name(&path)).collect());
}

#[test]
fn crates_depend_as_drawn() {
    let check = |(manifest, ours, banned): &(&str, &[&str], &[&str])| {
        check_manifest(manifest, &read(Path::new(manifest)), ours, banned)
    };
    assert_none(CRATES.iter().flat_map(check).collect());
}

// --- each rule catches what it is for ---------------------------------------------------------------

fn imports(path: &str, text: &str) -> Vec<String> {
    check_imports(Path::new(path), text)
}

#[test]
fn a_name_upward_is_caught_in_every_spelling() {
    for text in [
        "use crate::container::Container;",
        "use crate::{base::id, container::Container};",
        "use crate::{base::{id, tasks}, container};",
        "fn f() { crate::container::stop() }",
        "fn f() { println!(\"{}\", crate::container::COUNT) }",
        "use super::super::container::Container;",
        "mod inner { use crate::container::Container; }",
    ] {
        let found = imports("src/sandbox/state.rs", text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(
            found[0].contains("sandbox (Sandbox) may not name container"),
            "{found:?}"
        );
    }
    assert_eq!(
        imports("src/sandbox/mod.rs", "use super::container::Container;").len(),
        1
    );
}

#[test]
fn what_goes_downward_or_stays_inside_passes() {
    for text in [
        "use crate::base::id::SandboxId; use crate::store::Records; use crate::image::Handle;",
        "use super::model::Config; use super::super::base::clock;",
        "use crate::sandbox::model::Namespaces;",
        "// use crate::container::Container;\n/// See [`crate::container`].\nstruct S;",
        "const TEXT: &str = \"crate::container\";",
        "#[cfg(test)] mod tests { use crate::container::Container; }",
        "#[cfg(test)] use crate::container::Container;",
    ] {
        assert_eq!(
            imports("src/sandbox/state.rs", text),
            Vec::<String>::new(),
            "{text}"
        );
    }
    assert!(
        imports(
            "src/app/mod.rs",
            "use crate::{service, container, cni, cli};"
        )
        .is_empty()
    );
}

#[test]
fn a_mechanism_that_names_another_is_caught() {
    assert_eq!(
        imports("src/cni/exec.rs", "use crate::netns::Pinned;").len(),
        1
    );
    assert_eq!(
        imports("src/cni/exec.rs", "use crate::image::Handle;").len(),
        1
    );
    assert!(
        imports(
            "src/cni/exec.rs",
            "use crate::config::Cni; use crate::base::id;"
        )
        .is_empty()
    );
    assert_eq!(
        imports("src/base/id.rs", "use crate::config::Config;").len(),
        1
    );
}

#[test]
fn service_names_the_domain_and_not_what_lies_below() {
    assert_eq!(
        imports("src/service/runtime.rs", "use crate::store::Records;").len(),
        1
    );
    let text = "use crate::container; use crate::streaming::Url; use crate::events::Bus;";
    assert!(imports("src/service/runtime.rs", text).is_empty());
}

#[test]
fn a_module_without_a_rank_is_caught() {
    assert_eq!(
        imports("src/sandbox/state.rs", "use crate::novelty::Thing;").len(),
        1
    );
    assert_eq!(
        imports("src/novelty/mod.rs", "use crate::base::id;").len(),
        1
    );
}

#[test]
fn wire_types_outside_of_their_modules_are_caught() {
    let cri = "use longshore_proto::cri::v1::PodSandboxConfig;";
    assert_eq!(imports("src/sandbox/model.rs", cri).len(), 1);
    assert!(imports("src/service/runtime.rs", cri).is_empty());
    let both = "use longshore_proto::{shim, cri::v1};";
    assert_eq!(imports("src/shimlink/client.rs", both).len(), 1);
    assert!(imports("src/shimlink/client.rs", "use longshore_proto::shim::v1;").is_empty());
    assert_eq!(
        imports("src/cni/exec.rs", "use longshore_snapshotter::Snapshotter;").len(),
        1
    );
}

#[test]
fn a_cycle_is_caught() {
    let graph = |edges: &[(&str, &str)]| {
        let mut map: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in edges {
            map.entry((*from).to_owned())
                .or_default()
                .insert((*to).to_owned());
        }
        map
    };
    assert_eq!(
        find_cycle(&graph(&[("a", "b"), ("a", "c"), ("b", "c")])),
        None
    );
    let cycle = find_cycle(&graph(&[("a", "b"), ("b", "c"), ("c", "b")]));
    assert_eq!(cycle.as_deref(), Some("b -> c -> b"));
}

#[test]
fn unsafe_off_its_island_is_caught() {
    let text = "fn f() { unsafe { g() } }";
    assert_eq!(check_unsafe(Path::new("src/cni/exec.rs"), text).len(), 1);
    let island = Path::new("shim/src/exec/enter.rs");
    assert_eq!(check_unsafe(island, text).len(), 1, "without a reason");
    let reasoned = format!("#![allow(unsafe_code, reason = \"x\")]\n{text}");
    assert!(check_unsafe(island, &reasoned).is_empty());
    assert_eq!(check_unsafe(island, "fn f() {}").len(), 1, "without unsafe");
    let innocent = "// unsafe\nconst S: &str = \"unsafe\"; #[cfg(test)] mod t { unsafe fn f() {} }";
    assert!(check_unsafe(Path::new("src/cni/exec.rs"), innocent).is_empty());
}

#[test]
fn a_shapeless_name_is_caught() {
    assert_eq!(check_name(Path::new("src/cni/utils.rs")).len(), 1);
    assert_eq!(check_name(Path::new("shim/src/common/mod.rs")).len(), 1);
    assert!(check_name(Path::new("src/cni/exec.rs")).is_empty());
}

#[test]
fn a_wrong_crate_edge_is_caught() {
    let check = |text: &str| check_manifest("x", text, &["longshore-proto"], &["libcontainer"]);
    assert_eq!(check("[dependencies]\nlibcontainer = \"0.7\"").len(), 1);
    assert_eq!(
        check("[dependencies]\nlongshore-shim = { path = \"shim\" }").len(),
        1
    );
    assert_eq!(
        check("[dependencies]\nc = { package = \"libcontainer\", version = \"0.7\" }").len(),
        1
    );
    assert!(
        check("[dependencies]\nlongshore-proto = {}\n[dev-dependencies]\nlibcontainer = \"1\"")
            .is_empty()
    );
}
