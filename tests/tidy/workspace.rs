//! What the rules look at: tracked files, crates and their dependencies.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").into()
}

/// Every file that is tracked or would be with `git add`, relative to the root.
pub(crate) fn files() -> Vec<PathBuf> {
    let listed = run("git", &["ls-files", "--cached", "--others", "--exclude-standard"]);
    let files: Vec<PathBuf> =
        listed.lines().map(PathBuf::from).filter(|file| root().join(file).is_file()).collect();
    assert!(files.len() > 20, "git lists only {} files: is this a git checkout?", files.len());
    files
}

/// The Rust files of one crate's `src`.
pub(crate) fn sources(name: &str) -> Vec<PathBuf> {
    let folder = Path::new("crates").join(name).join("src");
    let sources: Vec<PathBuf> = rust_files().filter(|file| file.starts_with(&folder)).collect();
    assert!(!sources.is_empty(), "{} has no Rust file", folder.display());
    sources
}

pub(crate) fn rust_files() -> impl Iterator<Item = PathBuf> {
    files().into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
}

pub(crate) fn read(file: &Path) -> String {
    let path = root().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

/// Workspace crate → names of what its manifest depends on, by kind of dependency.
pub(crate) struct Manifest {
    /// Normal and build dependencies: what ends in the binary.
    pub(crate) shipped: BTreeSet<String>,
    /// Development dependencies.
    pub(crate) tests_only: BTreeSet<String>,
}

pub(crate) fn manifests() -> BTreeMap<String, Manifest> {
    let text = cargo(&["metadata", "--format-version", "1", "--no-deps", "--offline"]);
    let metadata: Value = serde_json::from_str(&text).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("cargo metadata lists packages");
    packages.iter().map(|package| (text_of(&package["name"]), manifest(package))).collect()
}

fn manifest(package: &Value) -> Manifest {
    let mut manifest = Manifest { shipped: BTreeSet::new(), tests_only: BTreeSet::new() };
    for dependency in package["dependencies"].as_array().expect("a package has dependencies") {
        let name = text_of(&dependency["name"]);
        if dependency["kind"] == "dev" {
            manifest.tests_only.insert(name);
        } else {
            manifest.shipped.insert(name);
        }
    }
    manifest
}

/// Every crate that `name` pulls into a build of its own, itself left out.
pub(crate) fn reached(name: &str) -> BTreeSet<String> {
    let tree =
        cargo(&["tree", "--offline", "--edges", "normal", "--prefix", "none", "--package", name]);
    let reached: BTreeSet<String> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|reached| *reached != name)
        .map(str::to_owned)
        .collect();
    assert!(!reached.is_empty(), "cargo tree says that {name} depends on nothing:\n{tree}");
    reached
}

fn text_of(value: &Value) -> String {
    value.as_str().expect("a string in cargo's metadata").to_owned()
}

fn cargo(args: &[&str]) -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    run(&cargo, args)
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .current_dir(root())
        .output()
        .unwrap_or_else(|e| panic!("start {program}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Fails with every finding on a line of its own.
pub(crate) fn none(findings: &[String], what_to_do: &str) {
    assert!(findings.is_empty(), "{what_to_do}\n  {}\n", findings.join("\n  "));
}
