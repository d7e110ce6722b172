//! Models and adapters.

use std::path::Path;

use crate::client::offline;
use crate::server::{COMMIT, Fault, LATER, Server, bytes};

const REPO: &str = "models/someone/small";

fn read(directory: &Path, file: &str) -> Vec<u8> {
    std::fs::read(directory.join(file)).unwrap()
}

fn sharded() -> Vec<(&'static str, Vec<u8>)> {
    let index = br#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors","c":"model-00002-of-00002.safetensors"}}"#;
    vec![
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{\"t\":1}".to_vec()),
        ("model.safetensors.index.json", index.to_vec()),
        ("model-00001-of-00002.safetensors", bytes(5000, 1)),
        ("model-00002-of-00002.safetensors", bytes(7000, 2)),
        ("pytorch_model.bin", bytes(9000, 3)),
    ]
}

#[test]
fn a_sharded_model_lands_in_the_cache_and_is_found_offline() {
    let server = Server::start();
    server.publish(REPO, "main", COMMIT, &sharded());
    let cache = tempfile::tempdir().unwrap();
    let directory = server.hub(&cache).model("someone/small", "main").unwrap();
    for (file, expected) in sharded() {
        assert_eq!(directory.join(file).exists(), file != "pytorch_model.bin", "{file}");
        if file != "pytorch_model.bin" {
            assert_eq!(read(&directory, file), expected, "{file}");
        }
    }
    assert!(!directory.join("tokenizer_config.json").exists(), "an absent optional file is no error");

    server.forget();
    assert_eq!(server.hub(&cache).model("someone/small", "main").unwrap(), directory);
    assert!(server.requests().is_empty(), "what is cached is not asked for: {:?}", server.requests());
    assert_eq!(offline(&cache).model("someone/small", "main").unwrap(), directory);
    assert_eq!(offline(&cache).model("someone/small", COMMIT).unwrap(), directory, "by its commit, too");
}

#[test]
fn an_optional_file_is_fetched_where_it_is_there() {
    let server = Server::start();
    let mut files = sharded();
    files.push(("chat_template.jinja", b"{{ x }}".to_vec()));
    server.publish(REPO, "main", COMMIT, &files);
    let cache = tempfile::tempdir().unwrap();
    let directory = server.hub(&cache).model("someone/small", "main").unwrap();
    assert_eq!(read(&directory, "chat_template.jinja"), b"{{ x }}");
}

#[test]
fn an_adapter_is_two_files() {
    let server = Server::start();
    let files = [("adapter_config.json", b"{}".to_vec()), ("adapter_model.safetensors", bytes(300, 0))];
    server.publish("models/someone/adapter", "main", COMMIT, &files);
    let cache = tempfile::tempdir().unwrap();
    let directory = server.hub(&cache).adapter("someone/adapter", "main").unwrap();
    assert_eq!(read(&directory, "adapter_model.safetensors"), bytes(300, 0));
    assert_eq!(offline(&cache).adapter("someone/adapter", "main").unwrap(), directory);
}

#[test]
fn branch_tag_and_commit_stand_for_files_of_one_commit() {
    let server = Server::start();
    let old =
        [("config.json", b"old".to_vec()), ("tokenizer.json", b"{}".to_vec()), ("model.safetensors", bytes(100, 1))];
    let new =
        [("config.json", b"new".to_vec()), ("tokenizer.json", b"{}".to_vec()), ("model.safetensors", bytes(100, 1))];
    server.publish(REPO, "v1.0", COMMIT, &old);
    server.publish(REPO, "feature/x", LATER, &new);
    let cache = tempfile::tempdir().unwrap();
    let hub = server.hub(&cache);
    let config = |revision: &str| read(&hub.model("someone/small", revision).unwrap(), "config.json");
    assert_eq!(config("v1.0"), b"old");
    assert_eq!(config("feature/x"), b"new");
    assert_eq!(config(COMMIT), b"old");
    let fetched = server.requests().into_iter().filter(|request| request.is_storage).count();
    assert_eq!(fetched, 1, "equal weights are fetched once");
    let error = hub.model("someone/small", "absent").unwrap_err().to_string();
    assert_eq!(
        error,
        "someone/small at revision absent could not be looked up: there is no such revision (404); check the name and \
         the revision"
    );
}

#[test]
fn a_branch_that_moved_while_its_files_were_fetched_is_not_mixed() {
    let server = Server::start();
    let files = |text: &str, seed| {
        [
            ("config.json", text.as_bytes().to_vec()),
            ("tokenizer.json", b"{}".to_vec()),
            ("model.safetensors", bytes(3000, seed)),
        ]
    };
    server.publish(REPO, "main", COMMIT, &files("old", 1));
    let cache = tempfile::tempdir().unwrap();
    let hub = server.hub(&cache);
    server.fail("storage", 1, Fault::Status(403, ""));
    assert!(hub.model("someone/small", "main").is_err());
    server.publish(REPO, "main", LATER, &files("new", 2));
    let directory = hub.model("someone/small", "main").unwrap();
    assert_eq!(read(&directory, "config.json"), b"new");
    assert_eq!(read(&directory, "model.safetensors"), bytes(3000, 2));
}

#[test]
fn what_is_no_model_is_answered_with_what_is_there() {
    let server = Server::start();
    let files = [("config.json", b"{}".to_vec()), ("tokenizer.json", b"{}".to_vec()), ("model.bin", b"x".to_vec())];
    server.publish(REPO, "main", COMMIT, &files);
    let cache = tempfile::tempdir().unwrap();
    let error = server.hub(&cache).model("someone/small", "main").unwrap_err().to_string();
    assert_eq!(
        error,
        "someone/small at revision main: model.safetensors is not among its files (config.json, model.bin, \
         tokenizer.json); expected config.json, tokenizer.json and weights as safetensors, or an adapter of PEFT: \
         convert it, or name another revision"
    );
}

#[test]
fn an_index_cannot_lead_out_of_the_cache() {
    for outside in ["../../../escaped", "/tmp/escaped"] {
        let index = format!(r#"{{"weight_map":{{"a":"{outside}"}}}}"#);
        let server = Server::start();
        let files = [
            ("config.json", b"{}".to_vec()),
            ("tokenizer.json", b"{}".to_vec()),
            ("model.safetensors.index.json", index.into_bytes()),
        ];
        server.publish(REPO, "main", COMMIT, &files);
        let cache = tempfile::tempdir().unwrap();
        let error = server.hub(&cache).model("someone/small", "main").unwrap_err().to_string();
        assert!(error.contains("no file of the repository"), "{error}");
    }
}

#[test]
fn offline_says_what_is_missing_and_what_is_there() {
    let server = Server::start();
    server.publish(REPO, "main", COMMIT, &sharded());
    let cache = tempfile::tempdir().unwrap();
    let place = cache.path().display();
    let error = offline(&cache).model("someone/small", "main").unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "someone/small at revision main: config.json is not in the cache {place} and offline mode is on; fetch it \
             once while online"
        )
    );
    let directory = server.hub(&cache).model("someone/small", "main").unwrap();
    let error = offline(&cache).model("someone/small", "v2").unwrap_err().to_string();
    assert!(error.ends_with("fetch it once while online (the cache holds revision main)"), "{error}");
    std::fs::remove_file(directory.join("model-00002-of-00002.safetensors")).unwrap();
    let error = offline(&cache).model("someone/small", "main").unwrap_err().to_string();
    assert!(error.contains(": model-00002-of-00002.safetensors is not in the cache"), "{error}");
}

#[test]
fn names_that_are_none_are_refused() {
    let cache = tempfile::tempdir().unwrap();
    let hub = offline(&cache);
    for revision in ["", "../main", "/main", "a b", "a\\b"] {
        assert!(hub.model("a/b", revision).unwrap_err().to_string().contains("no revision"), "{revision}");
    }
    for name in ["", "a/b/c", "a/..", "a b/c", "a\\b"] {
        assert!(hub.model(name, "main").unwrap_err().to_string().contains("no repository name"), "{name}");
    }
    for file in ["", "../x", "/etc/passwd"] {
        assert!(hub.dataset_file("a/b", "main", file).unwrap_err().to_string().contains("is no file"), "{file}");
    }
}
