//! The cache is the one other programs use: `hf-hub` stands for them.

use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Cache, Repo, RepoType};

use candlewick_hub::{Hub, Options};

use crate::client::{offline, request};
use crate::server::{COMMIT, Fault, Server, bytes, sha256};

const PARQUET: &str = "refs/convert/parquet";

fn theirs(cache: &tempfile::TempDir, repo: Repo, file: &str) -> Option<std::path::PathBuf> {
    Cache::new(cache.path().into()).repo(repo).get(file)
}

#[test]
fn what_is_fetched_here_is_found_by_others() {
    let server = Server::start();
    server.publish("datasets/someone/rows", PARQUET, COMMIT, &[("default/train/0000.parquet", bytes(700, 1))]);
    let cache = tempfile::tempdir().unwrap();
    let dataset = server.hub(&cache).dataset(&request("someone/rows")).unwrap();
    let repo = Repo::with_revision("someone/rows".into(), RepoType::Dataset, PARQUET.into());
    assert_eq!(theirs(&cache, repo, "default/train/0000.parquet").as_ref(), dataset.files.first());
}

#[cfg(unix)]
#[test]
fn a_snapshot_is_links_to_bytes_named_by_their_etag() {
    let server = Server::start();
    server.publish("datasets/someone/rows", "v1", COMMIT, &[("a/b/rows.parquet", bytes(700, 1))]);
    let cache = tempfile::tempdir().unwrap();
    let path = server.hub(&cache).dataset_file("someone/rows", "v1", "a/b/rows.parquet").unwrap();
    let repo = cache.path().join("datasets--someone--rows");
    let digest = sha256(&bytes(700, 1));
    assert_eq!(path, repo.join("snapshots").join(COMMIT).join("a/b/rows.parquet"));
    assert_eq!(std::fs::read_link(&path).unwrap(), std::path::Path::new("../../../../blobs").join(&digest));
    assert!(std::fs::symlink_metadata(repo.join("blobs").join(&digest)).unwrap().is_file());
    assert_eq!(std::fs::read_to_string(repo.join("refs/v1")).unwrap(), COMMIT);
    assert!(cache.path().join(".locks/datasets--someone--rows").join(format!("{digest}.lock")).exists());
}

#[cfg(unix)]
#[test]
fn a_redirect_of_the_endpoint_to_itself_is_not_taken_for_the_file() {
    let server = Server::start();
    server.publish("datasets/someone/rows", "main", COMMIT, &[("tokenizer.json", bytes(700, 1))]);
    let cache = tempfile::tempdir().unwrap();
    server.fail("/api/resolve-cache/", 1, Fault::Cut(300));
    let path = server.hub(&cache).dataset_file("someone/rows", "main", "tokenizer.json").unwrap();
    let etag = &sha256(&bytes(700, 1))[..40];
    assert_eq!(std::fs::read_link(&path).unwrap(), std::path::Path::new("../../blobs").join(etag));
    assert_eq!(std::fs::read(&path).unwrap(), bytes(700, 1));
    assert_eq!(server.requests().last().unwrap().from, Some(300), "the length was known, so the part was of use");
}

/// Lets `hf-hub` fetch files.
fn fetch_by_others(server: &Server, cache: &tempfile::TempDir, repo: &Repo, files: &[&str]) {
    let builder = ApiBuilder::from_cache(Cache::new(cache.path().into())).with_endpoint(server.address.clone());
    let api = builder.with_progress(false).build().unwrap().repo(repo.clone());
    for file in files {
        api.get(file).unwrap();
    }
}

#[test]
fn what_others_have_fetched_is_found_here() {
    let server = Server::start();
    let files = [
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("model.safetensors", bytes(700, 1)),
        ("generation_config.json", b"{}".to_vec()),
    ];
    // hf-hub asks for files by the name of the revision, and this server hands them out by commit.
    server.publish("models/someone/small", COMMIT, COMMIT, &files);
    let cache = tempfile::tempdir().unwrap();
    let repo = Repo::with_revision("someone/small".into(), RepoType::Model, COMMIT.into());
    fetch_by_others(&server, &cache, &repo, &["config.json", "tokenizer.json", "model.safetensors"]);
    let directory = offline(&cache).model("someone/small", COMMIT).unwrap();
    assert_eq!(std::fs::read(directory.join("model.safetensors")).unwrap(), bytes(700, 1));

    // Online the optional file that they left out is fetched; where there is no network what is here has to do.
    let down = Options { endpoint: Some("http://127.0.0.1:9".into()), ..server.options(&cache) };
    let down = Hub::new(down).unwrap();
    assert_eq!(down.model("someone/small", COMMIT).unwrap(), directory);
    assert!(!directory.join("generation_config.json").exists());
    // Where nothing can be noted the cache is read all the same.
    std::fs::write(cache.path().join("models--someone--small/.candlewick"), "in the way").unwrap();
    assert_eq!(server.hub(&cache).model("someone/small", COMMIT).unwrap(), directory);
    assert!(directory.join("generation_config.json").exists());
}

#[test]
fn a_gap_in_what_others_have_fetched_is_seen_offline() {
    let cache = tempfile::tempdir().unwrap();
    let repo = cache.path().join("datasets--someone--rows");
    let data = repo.join("snapshots").join(COMMIT).join("data");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::create_dir_all(repo.join("refs")).unwrap();
    std::fs::write(repo.join("refs/main"), COMMIT).unwrap();
    std::fs::write(data.join("train-00000-of-00002.parquet"), "one").unwrap();
    let request = candlewick_hub::DatasetRequest { revision: Some("main".into()), ..request("someone/rows") };
    let error = offline(&cache).dataset(&request).unwrap_err().to_string();
    assert!(error.contains(": data/train-00001-of-00002 is not in the cache"), "{error}");
    std::fs::write(data.join("train-00001-of-00002.parquet"), "two").unwrap();
    assert_eq!(offline(&cache).dataset(&request).unwrap().files.len(), 2);
}
