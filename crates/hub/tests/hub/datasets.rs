//! Data sets: which files, from where, and the same offline.

use candlewick_hub::{Dataset, DatasetRequest};

use crate::client::{offline, request};
use crate::server::{COMMIT, Fault, LATER, Server, bytes};

const REPO: &str = "datasets/someone/rows";
const PARQUET: &str = "refs/convert/parquet";

fn text(dataset: &Dataset) -> Vec<Vec<u8>> {
    dataset.files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn of(subset: Option<&str>, split: Option<&str>) -> DatasetRequest {
    DatasetRequest { subset: subset.map(str::to_owned), split: split.map(str::to_owned), ..request("someone/rows") }
}

fn at(revision: &str) -> DatasetRequest {
    DatasetRequest { revision: Some(revision.into()), ..request("someone/rows") }
}

fn converted() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (".gitattributes", Vec::new()),
        ("default/train/0000.parquet", bytes(4000, 1)),
        ("default/train/0001.parquet", bytes(2000, 2)),
        ("default/test/0000.parquet", bytes(1000, 3)),
        ("votes/test/0000.parquet", bytes(500, 4)),
    ]
}

#[test]
fn the_parquet_branch_comes_first() {
    let server = Server::start();
    server.publish(REPO, "main", LATER, &[("train.jsonl", b"{}".to_vec())]);
    server.publish(REPO, PARQUET, COMMIT, &converted());
    let cache = tempfile::tempdir().unwrap();
    let dataset = server.hub(&cache).dataset(&request("someone/rows")).unwrap();
    assert_eq!(text(&dataset), [bytes(4000, 1), bytes(2000, 2)]);
    assert_eq!((dataset.subset.as_str(), dataset.split.as_str()), ("default", "train"));
    assert_eq!((dataset.revision.as_str(), dataset.commit.as_str()), (PARQUET, COMMIT));
    assert!(dataset.files[0].ends_with("default/train/0000.parquet"), "{:?}", dataset.files);

    server.forget();
    assert_eq!(server.hub(&cache).dataset(&request("someone/rows")).unwrap(), dataset);
    assert!(server.requests().is_empty(), "what is cached is not asked for");
    assert_eq!(offline(&cache).dataset(&request("someone/rows")).unwrap(), dataset);
}

#[test]
fn subset_and_split_by_name() {
    let server = Server::start();
    server.publish(REPO, PARQUET, COMMIT, &converted());
    let cache = tempfile::tempdir().unwrap();
    let hub = server.hub(&cache);
    assert_eq!(text(&hub.dataset(&of(None, Some("test"))).unwrap()), [bytes(1000, 3)]);
    assert_eq!(text(&hub.dataset(&of(Some("votes"), Some("test"))).unwrap()), [bytes(500, 4)]);
    let refused = |request| hub.dataset(&request).unwrap_err().to_string();
    let start = "someone/rows at revision refs/convert/parquet: ";
    assert_eq!(refused(of(Some("ranks"), None)), format!("{start}there is no subset ranks; there is: default, votes"));
    assert_eq!(
        refused(of(None, Some("dev"))),
        format!("{start}subset default has no split dev; name one of: test, train")
    );
    assert_eq!(refused(of(Some("votes"), None)), format!("{start}subset votes has no split train; name one of: test"));
}

#[test]
fn a_later_split_is_of_the_commit_of_the_first() {
    let server = Server::start();
    server.publish(REPO, PARQUET, COMMIT, &converted());
    let cache = tempfile::tempdir().unwrap();
    let hub = server.hub(&cache);
    hub.dataset(&request("someone/rows")).unwrap();
    server.publish(REPO, PARQUET, LATER, &[("default/test/0000.parquet", bytes(10, 9))]);
    let test = hub.dataset(&of(None, Some("test"))).unwrap();
    assert_eq!((test.commit.as_str(), text(&test)), (COMMIT, vec![bytes(1000, 3)]));
    // A split that the cached commit lacks is looked for in the newer one.
    server.publish(REPO, PARQUET, LATER, &[("default/dev/0000.parquet", bytes(10, 9))]);
    let dev = hub.dataset(&of(None, Some("dev"))).unwrap();
    assert_eq!((dev.commit.as_str(), text(&dev)), (LATER, vec![bytes(10, 9)]));
}

#[test]
fn a_commit_that_is_gone_is_looked_up_anew() {
    let server = Server::start();
    server.publish(REPO, PARQUET, COMMIT, &converted());
    let cache = tempfile::tempdir().unwrap();
    let hub = server.hub(&cache);
    let old = hub.dataset(&request("someone/rows")).unwrap();
    server.withdraw(REPO, COMMIT);
    server.publish(REPO, PARQUET, LATER, &[("default/test/0000.parquet", bytes(10, 9))]);
    assert_eq!(hub.dataset(&request("someone/rows")).unwrap(), old, "what is here needs no server");
    assert_eq!(hub.dataset(&of(None, Some("test"))).unwrap().commit, LATER);
}

#[test]
fn without_a_parquet_branch_the_own_files_are_taken_offline_too() {
    let server = Server::start();
    let own = [
        ("README.md", b"# rows".to_vec()),
        ("data/train-00000-of-00002.parquet", bytes(900, 1)),
        ("data/train-00001-of-00002.parquet", bytes(800, 2)),
        ("data/test-00000-of-00001.parquet", bytes(700, 3)),
    ];
    server.publish(REPO, "main", COMMIT, &own);
    let cache = tempfile::tempdir().unwrap();
    let dataset = server.hub(&cache).dataset(&request("someone/rows")).unwrap();
    assert_eq!(text(&dataset), [bytes(900, 1), bytes(800, 2)]);
    assert_eq!(dataset.revision, "main");
    assert_eq!(offline(&cache).dataset(&request("someone/rows")).unwrap(), dataset);
    server.forget();
    assert_eq!(server.hub(&cache).dataset(&request("someone/rows")).unwrap(), dataset);
    assert!(server.requests().is_empty(), "that there is no such branch is remembered");
}

#[test]
fn a_parquet_branch_without_data_counts_as_none() {
    let server = Server::start();
    server.publish(REPO, PARQUET, LATER, &[(".gitattributes", Vec::new())]);
    server.publish(REPO, "main", COMMIT, &[("train.jsonl", b"{}\n".to_vec())]);
    let cache = tempfile::tempdir().unwrap();
    let dataset = server.hub(&cache).dataset(&request("someone/rows")).unwrap();
    assert_eq!(dataset.revision, "main");
    assert_eq!(offline(&cache).dataset(&request("someone/rows")).unwrap(), dataset);
}

#[test]
fn a_revision_means_the_own_files() {
    let server = Server::start();
    server.publish(REPO, PARQUET, COMMIT, &converted());
    let own = [
        ("helpful/train.jsonl.gz", b"one".to_vec()),
        ("helpful/test.jsonl.gz", b"two".to_vec()),
        ("harmless/train.jsonl.gz", b"three".to_vec()),
        ("dataset_infos.json", b"{}".to_vec()),
    ];
    server.publish(REPO, "v2", LATER, &own);
    let cache = tempfile::tempdir().unwrap();
    let hub = server.hub(&cache);
    for revision in ["v2", LATER] {
        let refused = hub.dataset(&at(revision)).unwrap_err().to_string();
        assert_eq!(
            refused,
            format!("someone/rows at revision {revision}: there are several subsets; name one of: harmless, helpful")
        );
        let helpful = DatasetRequest { subset: Some("helpful".into()), ..at(revision) };
        let dataset = hub.dataset(&helpful).unwrap();
        assert_eq!((text(&dataset), dataset.commit.as_str()), (vec![b"one".to_vec()], LATER));
        assert_eq!(offline(&cache).dataset(&helpful).unwrap(), dataset);
    }
    // The branch by its own name is read as such.
    assert_eq!(text(&hub.dataset(&at(PARQUET)).unwrap()).len(), 2);
}

#[test]
fn another_commit_than_the_one_named_is_refused() {
    let server = Server::start();
    server.publish(REPO, "main", COMMIT, &[("train.jsonl", b"{}\n".to_vec())]);
    server.publish(REPO, LATER, COMMIT, &[("train.jsonl", b"{}\n".to_vec())]);
    let cache = tempfile::tempdir().unwrap();
    let error = server.hub(&cache).dataset(&at(LATER)).unwrap_err().to_string();
    assert!(error.contains(&format!("is of commit {COMMIT}, and {LATER} was asked for")), "{error}");
}

#[test]
fn a_name_that_needs_escaping_is_asked_for_escaped() {
    let server = Server::start();
    server.publish(REPO, "main", COMMIT, &[("my data/train.csv", b"a\n1\n".to_vec())]);
    let cache = tempfile::tempdir().unwrap();
    let request = DatasetRequest { subset: Some("my data".into()), ..at("main") };
    assert_eq!(text(&server.hub(&cache).dataset(&request).unwrap()), [b"a\n1\n"]);
    assert!(server.requests().iter().any(|request| request.path.ends_with("/my%20data/train.csv")));
}

#[test]
fn no_data_files_is_said_with_the_files_there_are() {
    let server = Server::start();
    server.publish(REPO, "main", COMMIT, &[("rows.py", Vec::new()), ("README.md", Vec::new())]);
    let cache = tempfile::tempdir().unwrap();
    let error = server.hub(&cache).dataset(&request("someone/rows")).unwrap_err().to_string();
    assert_eq!(
        error,
        "someone/rows at revision main: there are no data files (.parquet, .arrow, .jsonl, .json, .csv, .tsv, also .gz, \
         .zst); its files: README.md, rows.py"
    );
}

#[test]
fn a_data_set_that_is_not_there() {
    let server = Server::start();
    let cache = tempfile::tempdir().unwrap();
    let error = server.hub(&cache).dataset(&request("someone/rows")).unwrap_err().to_string();
    assert_eq!(
        error,
        "someone/rows at revision refs/convert/parquet could not be looked up: there is no such repository (404); check \
         the name and the revision"
    );
}

#[test]
fn a_listing_or_an_etag_cannot_lead_out_of_the_cache() {
    for outside in ["../../../escaped.parquet", "/tmp/escaped.parquet", "default/train/../../../../x.parquet"] {
        let server = Server::start();
        server.publish(REPO, PARQUET, COMMIT, &[(outside, bytes(10, 0))]);
        let cache = tempfile::tempdir().unwrap();
        let error = server.hub(&cache).dataset(&request("someone/rows")).unwrap_err().to_string();
        assert!(error.contains("which is no file of the repository"), "{error}");
    }
    let server = Server::start();
    server.publish(REPO, PARQUET, COMMIT, &converted());
    server.fail("/resolve/", 1, Fault::Header("x-linked-etag", "\"../../../../escaped\""));
    let root = tempfile::tempdir().unwrap();
    let cache = tempfile::tempdir_in(root.path()).unwrap();
    let error = server.hub(&cache).dataset(&request("someone/rows")).unwrap_err().to_string();
    assert!(error.contains("\"../../../../escaped\", which cannot name a file"), "{error}");
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1, "nothing beside the cache");
}

#[test]
fn offline_without_a_trace_of_the_parquet_branch_says_what_is_there() {
    let server = Server::start();
    server.publish(REPO, "main", COMMIT, &[("train.jsonl", b"{}".to_vec())]);
    let cache = tempfile::tempdir().unwrap();
    server.hub(&cache).dataset(&at("main")).unwrap();
    let error = offline(&cache).dataset(&request("someone/rows")).unwrap_err().to_string();
    assert!(error.starts_with("someone/rows at revision refs/convert/parquet: a list of its files is not"), "{error}");
    assert!(error.ends_with("(the cache holds revision main)"), "{error}");
    assert_eq!(offline(&cache).dataset(&at("main")).unwrap().files.len(), 1);
}

#[test]
fn one_file_by_its_path() {
    let server = Server::start();
    server.publish(REPO, "main", COMMIT, &[("a/b.csv", b"x\n".to_vec())]);
    let cache = tempfile::tempdir().unwrap();
    let path = server.hub(&cache).dataset_file("someone/rows", "main", "a/b.csv").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"x\n");
    assert_eq!(offline(&cache).dataset_file("someone/rows", "main", "a/b.csv").unwrap(), path);
    let error = server.hub(&cache).dataset_file("someone/rows", "main", "c.csv").unwrap_err().to_string();
    assert_eq!(error, "someone/rows at revision main: c.csv is not among its files (a/b.csv)");
}
