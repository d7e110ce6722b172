//! The hub client against a server on this machine that answers as the Hub does.
#![expect(clippy::unwrap_used, clippy::disallowed_types, reason = "a test with a server of its own")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;

use candlewick_hub::{Hub, Options};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves the files of one repository; `/denied/…` answers 401.
fn serve(files: HashMap<&'static str, Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().take(200) {
            answer(stream.unwrap(), &files);
        }
    });
    address
}

fn answer(mut stream: TcpStream, files: &HashMap<&'static str, Vec<u8>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let request = lines.next().unwrap().unwrap();
    let mut start = 0usize;
    let mut probe = false;
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            probe = range == "0-0";
            start = range.split('-').next().unwrap().parse().unwrap();
        }
    }
    let path = request.split(' ').nth(1).unwrap();
    let file = path.rsplit("/resolve/main/").next().unwrap();
    let head = match files.get(file) {
        _ if path.starts_with("/denied/") => {
            "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned()
        }
        None => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
        Some(bytes) => {
            let body = if probe { &bytes[..1] } else { &bytes[start..] };
            let end = start + body.len() - 1;
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\ncontent-range: bytes {start}-{end}/{}\r\netag: \"{file}\"\r\nx-repo-commit: {COMMIT}\r\nconnection: close\r\n\r\n",
                body.len(),
                bytes.len()
            );
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(body).unwrap();
            return;
        }
    };
    stream.write_all(head.as_bytes()).unwrap();
}

fn options(endpoint: String, cache: PathBuf) -> Options {
    Options { cache: Some(cache), endpoint: Some(endpoint), token: None, offline: false }
}

#[test]
fn a_sharded_model_lands_in_the_cache_and_is_found_offline() {
    let index = br#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors","c":"model-00002-of-00002.safetensors"}}"#;
    let endpoint = serve(HashMap::from([
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{\"t\":1}".to_vec()),
        ("model.safetensors.index.json", index.to_vec()),
        ("model-00001-of-00002.safetensors", vec![1; 5000]),
        ("model-00002-of-00002.safetensors", vec![2; 7000]),
    ]));
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::new(options(endpoint, cache.path().into())).unwrap();
    let directory = hub.model("someone/small", "main").unwrap();
    assert_eq!(std::fs::read(directory.join("model-00002-of-00002.safetensors")).unwrap(), vec![2; 7000]);
    assert!(!directory.join("tokenizer_config.json").exists(), "an absent optional file is no error");

    let offline = Options { cache: Some(cache.path().into()), offline: true, ..Options::default() };
    let offline = Hub::new(offline).unwrap();
    assert_eq!(offline.model("someone/small", "main").unwrap(), directory);
    let error = offline.model("someone/other", "main").unwrap_err().to_string();
    assert!(error.contains("offline") && error.contains("config.json"), "{error}");
}

#[test]
fn an_index_cannot_lead_out_of_the_cache() {
    for outside in ["../../../escaped", "/tmp/escaped"] {
        let index = format!(r#"{{"weight_map":{{"a":"{outside}"}}}}"#);
        let endpoint = serve(HashMap::from([
            ("config.json", b"{}".to_vec()),
            ("tokenizer.json", b"{}".to_vec()),
            ("model.safetensors.index.json", index.into_bytes()),
        ]));
        let cache = tempfile::tempdir().unwrap();
        let hub = Hub::new(options(endpoint, cache.path().into())).unwrap();
        let error = hub.model("someone/hostile", "main").unwrap_err().to_string();
        assert!(error.contains("no file of the repository"), "{error}");
    }
}

#[test]
fn a_token_is_not_printed() {
    let options = Options { token: Some("hf_secret".into()), ..Options::default() };
    assert!(!format!("{options:?}").contains("secret"));
}

#[test]
fn refusals_say_what_to_do() {
    let endpoint = serve(HashMap::new());
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::new(options(endpoint, cache.path().into())).unwrap();
    let missing = hub.model("someone/absent", "main").unwrap_err().to_string();
    assert!(missing.contains("404") && missing.contains("someone/absent"), "{missing}");
    let denied = hub.model("denied/model", "main").unwrap_err().to_string();
    assert!(denied.contains("401") && denied.contains("HF_TOKEN"), "{denied}");
    for revision in ["", "../main", "/main"] {
        assert!(hub.model("a/b", revision).unwrap_err().to_string().contains("no revision"), "{revision}");
    }
    for name in ["", "a/b/c", "a/..", "a b/c"] {
        assert!(hub.model(name, "main").unwrap_err().to_string().contains("no repository name"), "{name}");
    }
}
