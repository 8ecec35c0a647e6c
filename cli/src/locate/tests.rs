use super::*;

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("gable-locate-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn names_of_repositories_cannot_lead_out_of_the_cache() {
    assert_eq!(Repo::parse("a/b:c.gguf"), Some(Repo { org: "a", repo: "b", file: Some("c.gguf") }));
    for bad in ["a", "../b", "a/..", "a/b/c", "a/b:../c", "a/b:/c", "/a/b", "a/b:"] {
        assert_eq!(Repo::parse(bad), None, "{bad}");
    }
}

#[test]
fn the_hugging_face_cache_is_searched_by_file_and_by_quantization() {
    let hub = folder("hub");
    let snapshot = hub.join("models--o--r/snapshots/abc");
    write(&hub.join("models--o--r/refs/main"), "abc");
    write(&snapshot.join("m-Q4_K_M.gguf"), "");
    write(&snapshot.join("m-Q8_0.gguf"), "");
    let find = |name| Repo::parse(name).unwrap().find(&hub);
    assert_eq!(find("o/r:m-Q8_0.gguf").unwrap(), Some(snapshot.join("m-Q8_0.gguf")));
    assert_eq!(find("o/r:q4_k_m").unwrap(), Some(snapshot.join("m-Q4_K_M.gguf")));
    assert!(find("o/r").unwrap_err().to_string().contains("several models"));
    assert_eq!(find("o/r:Q6_K").unwrap(), None);
    assert_eq!(find("o/other").unwrap(), None);
    fs::remove_dir_all(hub).unwrap();
}

#[test]
fn an_ollama_name_leads_to_its_blob() {
    let models = folder("ollama");
    let layer = r#"{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:00ff"}"#;
    write(&models.join("manifests/server/library/tiny/latest"), &format!(r#"{{"layers":[{layer}]}}"#));
    assert!(ollama("tiny", &models).unwrap_err().to_string().contains("ollama pull tiny"));
    write(&models.join("blobs/sha256-00ff"), "");
    assert_eq!(ollama("tiny", &models).unwrap(), Some(models.join("blobs/sha256-00ff")));
    assert_eq!(ollama("tiny:8b", &models).unwrap(), None);
    assert_eq!(ollama("../tiny", &models).unwrap(), None);
    fs::remove_dir_all(models).unwrap();
}

#[test]
fn what_is_nowhere_comes_with_the_command_that_fetches_it() {
    assert!(advice("a/b:Q4_0").contains("hf download a/b --include '*Q4_0*'"));
    assert!(advice("llama3:8b").contains("ollama pull llama3:8b"));
    assert!(advice("./no.gguf").ends_with("no such file or folder"));
}
