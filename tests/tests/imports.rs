//! The house keeps its order: who imports whom, what stays free of I/O, how long a file may be.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it stands")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates by name, and what is listed beside each.
type Table = BTreeMap<String, BTreeSet<String>>;

/// Lines a source file may have, tests included.
const MAX_LINES: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The table between two markers of docs/ARCHITECTURE.md.
fn table(marker: &str) -> Table {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let (begin, end) = (format!("<!-- {marker}:begin -->"), format!("<!-- {marker}:end -->"));
    let section = text.split_once(&begin).unwrap().1.split_once(&end).unwrap().0;
    let rows = section.lines().filter(|line| line.starts_with("| trunkline-"));
    let table: Table = rows
        .map(|row| {
            let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
            let list = cells[1].split(',').map(str::trim).filter(|name| !name.is_empty());
            (cells[0].to_owned(), list.map(str::to_owned).collect())
        })
        .collect();
    assert!(table.len() >= 3, "the table {marker} has been lost");
    table
}

/// Every member of the workspace with its manifest.
fn members() -> BTreeMap<String, PathBuf> {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let list = text.split_once("members = [").unwrap().1.split_once(']').unwrap().0;
    let folders = list
        .split(',')
        .map(|item| item.trim().trim_matches('"'))
        .filter(|item| !item.is_empty());
    folders
        .map(|folder| {
            let manifest = root().join(folder).join("Cargo.toml");
            let text = fs::read_to_string(&manifest).unwrap();
            let name = text.lines().find_map(|line| line.strip_prefix("name = ")).unwrap();
            (name.trim_matches('"').to_owned(), manifest)
        })
        .collect()
}

/// What a manifest lists in its dependency sections, for the product and for tests alike.
fn dependencies(manifest: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(manifest).unwrap();
    let mut inside = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            inside = section.ends_with("dependencies");
            if let Some((_, name)) = section.split_once("dependencies.") {
                found.insert(name.to_owned());
            }
        } else if inside && let Some((name, _)) = line.split_once('=') {
            found.insert(name.trim().trim_end_matches(".workspace").to_owned());
        }
    }
    found
}

/// Files under version control or about to be.
fn files() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).unwrap();
    let files: Vec<_> = names
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(|name| root().join(name))
        .collect();
    files.into_iter().filter(|file| file.is_file()).collect()
}

fn sources() -> Vec<(PathBuf, String)> {
    let rust = files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ext| ext == "rs"));
    let sources: Vec<_> = rust
        .map(|path| (path.clone(), fs::read_to_string(&path).unwrap()))
        .collect();
    assert!(sources.len() > 100, "the tree has been lost");
    sources
}

#[test]
fn every_crate_has_its_row_and_lists_only_the_crates_in_it() {
    let table = table("imports");
    let members = members();
    assert_eq!(table.keys().collect::<Vec<_>>(), members.keys().collect::<Vec<_>>());
    for (name, manifest) in &members {
        let ours: BTreeSet<_> = dependencies(manifest)
            .into_iter()
            .filter(|dependency| members.contains_key(dependency))
            .collect();
        let unwanted: Vec<_> = ours.difference(&table[name]).collect();
        assert!(unwanted.is_empty(), "{name} may not depend on {unwanted:?}");
    }
}

#[test]
fn no_source_names_a_crate_outside_its_row() {
    let table = table("imports");
    let members = members();
    let mut checked = 0;
    for (path, text) in sources() {
        // The innermost crate: the one with the longest folder.
        let owner = members
            .iter()
            .filter(|(_, manifest)| path.starts_with(manifest.parent().unwrap()))
            .max_by_key(|(_, manifest)| manifest.as_os_str().len());
        let Some((owner, _)) = owner else { continue };
        for name in members
            .keys()
            .filter(|name| *name != owner && !table[owner].contains(*name))
        {
            let path_of = format!("{}::", name.replace('-', "_"));
            let uses = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .any(|line| line.contains(&path_of));
            assert!(
                !uses,
                "{} uses {name}, which is not in the row of {owner}",
                path.display()
            );
            checked += 1;
        }
    }
    assert!(checked > 500, "only {checked} pairs of file and crate");
}

#[test]
fn pure_crates_list_nothing_that_does_io() {
    let members = members();
    for (name, banned) in table("pure") {
        let listed = dependencies(&members[&name]);
        let unwanted: Vec<_> = listed.intersection(&banned).collect();
        assert!(unwanted.is_empty(), "{name} must not list {unwanted:?}");
    }
}

#[test]
fn the_clock_and_sleep_are_forbidden_and_pure_crates_do_not_lift_the_ban() {
    let clippy = fs::read_to_string(root().join("clippy.toml")).unwrap();
    for method in ["Instant::now", "SystemTime::now", "thread::sleep", "tokio::time::sleep"] {
        assert!(
            clippy.contains(&format!("{method}\"")),
            "clippy.toml does not forbid {method}"
        );
    }
    let cargo = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(cargo.contains("disallowed_methods = \"deny\""));
    let members = members();
    for (name, manifest) in &members {
        let text = fs::read_to_string(manifest).unwrap();
        assert!(
            text.contains("[lints]\nworkspace = true"),
            "{name} does not take the workspace's lints"
        );
    }
    let pure: Vec<_> = table("pure")
        .into_keys()
        .map(|name| members[&name].parent().unwrap().join("src"))
        .collect();
    for (path, text) in sources() {
        // A test has to take the instant its virtual clock starts at from somewhere.
        let is_test = path
            .components()
            .any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs");
        let product = text.split("#[cfg(test)]").next().unwrap();
        let mut lines = product.lines().filter(|line| !line.trim_start().starts_with("//"));
        let lifts = !is_test
            && pure.iter().any(|folder| path.starts_with(folder))
            && lines.any(|line| line.contains("disallowed_methods"));
        assert!(!lifts, "{} lifts the ban on the clock", path.display());
    }
}

#[test]
fn no_source_file_is_longer_than_it_may_be() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(path, text)| (text.lines().count(), path))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .collect();
    assert!(long.is_empty(), "over {MAX_LINES} lines: {long:?}");
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not find itself.
    let words = ["todo", "unimplemented"].map(|word| format!("{word}!("));
    let marks = [
        ["#[ig", "nore"].concat(),
        ["FIX", "ME"].concat(),
        ["TO", "DO:"].concat(),
    ];
    for (path, text) in sources() {
        for word in words.iter().chain(&marks) {
            assert!(!text.contains(word.as_str()), "{} has {word}", path.display());
        }
    }
}
