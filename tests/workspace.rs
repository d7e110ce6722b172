//! The shape of the workspace: which crate may depend on which, and the promises every manifest keeps.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Every arrow there may be: a crate, then the workspace crates it may name under `[dependencies]`.
///
/// Development dependencies may name `candlewick-testkit` and nothing else of the workspace.
const ARROWS: &[(&str, &[&str])] = &[
    ("candlewick-losses", &[]),
    ("candlewick-data", &[]),
    ("candlewick-kernels", &[]),
    ("candlewick-hub", &[]),
    ("candlewick-testkit", &[]),
    ("candlewick-model", &["candlewick-kernels"]),
    ("candlewick-train", &["candlewick-data", "candlewick-losses", "candlewick-model", "candlewick-kernels"]),
    (
        "candlewick-evaluate",
        &["candlewick-train", "candlewick-data", "candlewick-losses", "candlewick-model", "candlewick-kernels"],
    ),
    (
        "candlewick",
        &[
            "candlewick-evaluate",
            "candlewick-train",
            "candlewick-data",
            "candlewick-losses",
            "candlewick-model",
            "candlewick-kernels",
            "candlewick-hub",
        ],
    ),
    ("candlewick-cli", &["candlewick"]),
];

/// Which crates of the candle family a crate may build on; a crate that is not named here may use none.
const CANDLE: &[(&str, &[&str])] = &[
    ("candlewick-losses", &["candle-core"]),
    ("candlewick-model", &["candle-core", "candle-nn", "candle-transformers"]),
    ("candlewick-train", &["candle-core", "candle-nn"]),
    ("candlewick", &["candle-core", "candle-nn"]),
    ("candlewick-cli", &["candle-core"]),
];

/// Crates that reach the network, the terminal or the clock, and the only crate of ours that may name each.
const RESERVED: &[(&str, &str)] = &[
    ("hf-hub", "candlewick-hub"),
    ("ureq", "candlewick-hub"),
    ("clap", "candlewick-cli"),
    ("indicatif", "candlewick-cli"),
    ("plotters", "candlewick-cli"),
    ("ctrlc", "candlewick-cli"),
    ("anyhow", "candlewick-cli"),
];

#[test]
fn every_arrow_between_crates_is_a_permitted_one() {
    let allowed: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let packages = packages();
    let names: BTreeSet<_> = packages.iter().map(|package| text(package, "name")).collect();
    assert_eq!(names, allowed.keys().copied().collect(), "a crate of the workspace and ARROWS disagree");
    for package in &packages {
        let from = text(package, "name");
        for dependency in dependencies(package) {
            if names.contains(dependency.name) {
                let permitted = if dependency.development {
                    dependency.name == "candlewick-testkit"
                } else {
                    allowed[from].contains(&dependency.name)
                };
                assert!(permitted, "{from} -> {} is an arrow the architecture does not have", dependency.name);
            }
        }
    }
}

#[test]
fn outside_crates_stay_where_they_belong() {
    let candle: BTreeMap<_, _> = CANDLE.iter().copied().collect();
    for package in &packages() {
        let from = text(package, "name");
        for dependency in dependencies(package).filter(|dependency| !dependency.development) {
            let name = dependency.name;
            if name.starts_with("candle-") {
                let permitted = candle.get(from).is_some_and(|names| names.contains(&name));
                assert!(permitted, "{from} must not depend on {name}");
            }
            if let Some((_, owner)) = RESERVED.iter().find(|(reserved, _)| *reserved == name) {
                assert_eq!(from, *owner, "only {owner} may depend on {name}");
            }
        }
    }
}

#[test]
fn the_network_is_optional_below_the_command() {
    for package in &packages() {
        for dependency in dependencies(package) {
            if dependency.name == "candlewick-hub" {
                assert!(dependency.optional, "{} must make candlewick-hub optional", text(package, "name"));
            }
        }
        let features = &package["features"];
        let mut default = features["default"].as_array().into_iter().flatten().filter_map(Value::as_str);
        if text(package, "name") != "candlewick-cli" {
            // Formats of files are on; the network and devices are asked for.
            let other = default.find(|name| !["columnar", "zstd"].contains(name));
            assert_eq!(other, None, "{} turns a feature on by default", text(package, "name"));
        }
    }
}

#[test]
fn every_dependency_says_why_it_is_there() {
    let packages = packages();
    let ours: BTreeSet<_> = packages.iter().map(|package| text(package, "name")).collect();
    let reasons = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/dependencies.md"));
    for package in packages.iter().filter(|package| text(package, "name") != "candlewick-testkit") {
        for dependency in dependencies(package).filter(|one| !one.development && !ours.contains(one.name)) {
            let row = format!("`{}`", dependency.name);
            assert!(reasons.contains(&row), "{} of {} has no row in docs/dependencies.md", row, text(package, "name"));
        }
    }
}

#[test]
fn manifests_keep_the_promises_of_the_workspace() {
    for package in &packages() {
        let name = text(package, "name");
        assert_eq!(text(package, "license"), "MIT OR Apache-2.0", "{name}");
        assert_eq!(text(package, "edition"), "2024", "{name}");
        assert!(!text(package, "description").is_empty(), "{name} has no description");
        let manifest = read(Path::new(text(package, "manifest_path")));
        let lints = manifest.split("\n[lints]\n").nth(1).unwrap_or_default();
        assert!(lints.trim_start().starts_with("workspace = true"), "{name} does not take the lints of the workspace");
        let published = package["publish"].is_null();
        assert_eq!(published, name != "candlewick-testkit", "{name}: only the test kit stays unpublished");
        for dependency in dependencies(package).filter(|dependency| !dependency.development) {
            assert_ne!(
                dependency.requirement, "*",
                "{name} -> {} has no version and cannot be published",
                dependency.name
            );
        }
    }
}

#[test]
fn cargo_run_from_the_root_finds_the_command() {
    let metadata = metadata();
    let defaults: BTreeSet<_> = metadata["workspace_default_members"]
        .as_array()
        .expect("cargo metadata lists the default members")
        .iter()
        .filter_map(|id| metadata["packages"].as_array()?.iter().find(|package| package["id"] == *id))
        .map(|package| text(package, "name"))
        .collect();
    assert_eq!(defaults, BTreeSet::from(["candlewick", "candlewick-cli"]));
    let command =
        packages().into_iter().find(|package| text(package, "name") == "candlewick-cli").expect("the command");
    assert_eq!(text(&command, "default_run"), "wick");
    let targets = command["targets"].as_array().expect("targets");
    assert!(targets.iter().any(|target| text(target, "name") == "wick" && target["kind"][0] == "bin"));
}

#[test]
fn continuous_integration_runs_what_the_readme_tells_people_to_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (readme, ci) = (read(&root.join("README.md")), read(&root.join(".ci/run")));
    let command = |start: &str| {
        let shell = readme.lines().map(|line| line.trim().trim_start_matches("$ "));
        let line = shell.filter_map(|line| line.split('#').next()).find(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("README.md has no `{start}` command")).trim_end()
    };
    let (test, quickstart) = (command("cargo test"), command("cargo run"));
    for command in [test, quickstart] {
        assert!(ci.lines().any(|line| line.ends_with(command)), ".ci/run does not run `{command}`");
    }
    assert!(test.contains("--workspace"), "`{test}` would leave out the crates that are not default members");
}

struct Dependency<'a> {
    name: &'a str,
    requirement: &'a str,
    development: bool,
    optional: bool,
}

fn dependencies(package: &Value) -> impl Iterator<Item = Dependency<'_>> {
    package["dependencies"].as_array().expect("dependencies").iter().map(|dependency| Dependency {
        name: text(dependency, "name"),
        requirement: text(dependency, "req"),
        development: dependency["kind"] == "dev",
        optional: dependency["optional"] == true,
    })
}

fn packages() -> Vec<Value> {
    metadata()["packages"].as_array().expect("packages").clone()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
