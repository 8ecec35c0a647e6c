//! Every file of every corpus through its target, and each file cut short at every length.

use gable_fuzz::TARGETS;
use std::path::Path;

#[test]
fn the_corpus_passes() {
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{} holds no inputs", folder.display());
        for file in &files {
            let data = std::fs::read(file).unwrap();
            target(&data);
            let step = (data.len() / 64).max(1);
            for len in (0..data.len()).step_by(step) {
                target(&data[..len]);
            }
        }
        println!("{name}: {} inputs", files.len());
    }
}
