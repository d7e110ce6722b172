//! probe
use candlewick_data::*;
#[test]
fn probe() {
    for path in std::env::args().skip(1) {
        let _ = path;
    }
    let root = std::path::PathBuf::from(std::env::var("CANDLEWICK_SHARED").unwrap()).join("assets");
    for dir in ["preferences", "ready"] {
        let mut files: Vec<_> = std::fs::read_dir(root.join(dir)).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        for f in files {
            let mut bytes = std::fs::read(&f).unwrap();
            if f.extension().unwrap() == "gz" {
                let mut o = Vec::new();
                std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(&bytes[..]), &mut o).unwrap();
                bytes = o;
            }
            if bytes.trim_ascii_start().starts_with(b"[") {
                let v: Vec<serde_json::Value> = serde_json::from_slice(&bytes).unwrap();
                bytes = v.iter().map(|v| v.to_string() + "\n").collect::<String>().into_bytes();
            }
            match Source::from_reader(
                std::io::Cursor::new(bytes),
                &SourceOptions::new(f.file_name().unwrap().to_str().unwrap()),
            ) {
                Ok(s) => println!("{} {:?}", f.display(), s.form()),
                Err(e) => println!("{} ERR {}", f.display(), e.to_string().chars().take(900).collect::<String>()),
            }
        }
    }
}
