//! From what stands after `-m` to a path.
//!
//! ```text
//! a name of the catalogue (fetched) ── a path that exists ── org/repo[:FILE] in the Hugging Face cache
//!                                                         ── name[:TAG] in Ollama's blob folder
//! ```
//!
//! A folder that is called as a model of the catalogue is written `./smollm2`.
//! Other programs' folders are only read; what is not there is never fetched, but the command that does it is named.

use crate::{catalogue, pull};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// The file or folder of a model.
pub fn model(name: &str) -> Result<PathBuf> {
    if catalogue::find(name).is_some() {
        return pull::ensure(name);
    }
    let path = Path::new(name);
    if path.exists() {
        return existing(path);
    }
    if let Some(repo) = Repo::parse(name)
        && let Some(found) = repo.find(&hub_folder())?
    {
        return Ok(found);
    }
    if let Some(found) = ollama(name, &ollama_folder())? {
        return Ok(found);
    }
    bail!("{}", advice(name))
}

/// Why nothing was found and how to get it.
fn advice(name: &str) -> String {
    let ids: Vec<&str> = catalogue::MODELS.iter().map(|entry| entry.id).collect();
    let looks_like_a_path = name.ends_with(".gguf") || name.starts_with(['/', '.', '~']);
    match Repo::parse(name) {
        Some(repo) if !looks_like_a_path => format!(
            "{name}: no such file, and not in the Hugging Face cache; fetch it with `{}`",
            repo.download_command()
        ),
        _ if looks_like_a_path || name.is_empty() => format!("{name}: no such file or folder"),
        _ => format!(
            "{name}: no such file or folder, none of {} (`gable pull`), and not downloaded by Ollama; \
             fetch it with `ollama pull {name}`",
            ids.join(", ")
        ),
    }
}

fn existing(path: &Path) -> Result<PathBuf> {
    if path.is_dir() && !path.join("config.json").is_file() {
        bail!("{}: a folder without config.json; name a GGUF file or a Hugging Face folder", path.display());
    }
    Ok(path.to_path_buf())
}

/// `org/repo[:FILE]`.
#[derive(Debug, PartialEq, Eq)]
struct Repo<'n> {
    org: &'n str,
    repo: &'n str,
    file: Option<&'n str>,
}

impl<'n> Repo<'n> {
    fn parse(name: &'n str) -> Option<Repo<'n>> {
        let (id, file) = name.split_once(':').map_or((name, None), |(id, file)| (id, Some(file)));
        let (org, repo) = id.split_once('/')?;
        // The file may lie in a folder of the repository, but never outside it.
        let inside = file.is_none_or(|file| file.split('/').all(is_plain));
        (is_plain(org) && is_plain(repo) && inside).then_some(Repo { org, repo, file })
    }

    /// In the snapshot that `main` points at, or else in any.
    fn find(&self, hub: &Path) -> Result<Option<PathBuf>> {
        let folder = hub.join(format!("models--{}--{}", self.org, self.repo));
        let main = fs::read_to_string(folder.join("refs").join("main")).unwrap_or_default();
        let snapshots = folder.join("snapshots");
        let mut candidates: Vec<PathBuf> = Vec::new();
        if is_plain(main.trim()) {
            candidates.push(snapshots.join(main.trim()));
        }
        candidates.extend(children(&snapshots));
        for snapshot in candidates.iter().filter(|path| path.is_dir()) {
            if let Some(found) = self.in_snapshot(snapshot)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn in_snapshot(&self, snapshot: &Path) -> Result<Option<PathBuf>> {
        if let Some(file) = self.file {
            let path = snapshot.join(file);
            if path.is_file() {
                return Ok(Some(path));
            }
        } else if snapshot.join("config.json").is_file() && has(snapshot, ".safetensors") {
            return Ok(Some(snapshot.to_path_buf()));
        }
        // Otherwise FILE is a quantization's name, such as Q4_K_M.
        let wanted = self.file.unwrap_or("").to_ascii_lowercase();
        let fits = |path: &PathBuf| {
            let name = file_name(path).to_ascii_lowercase();
            let first = !name.contains("-of-") || name.contains("-00001-of-");
            name.ends_with(".gguf") && name.contains(&wanted) && first && !name.starts_with("mmproj")
        };
        let found: Vec<PathBuf> = children(snapshot).into_iter().filter(fits).collect();
        match found.as_slice() {
            [] => Ok(None),
            [only] => Ok(Some(only.clone())),
            several => {
                let names: Vec<String> = several.iter().map(|path| file_name(path)).collect();
                bail!(
                    "{}/{} holds several models; add :FILE, one of {}",
                    self.org,
                    self.repo,
                    names.join(", ")
                )
            }
        }
    }

    fn download_command(&self) -> String {
        match self.file {
            Some(file) if file.contains('.') => format!("hf download {}/{} {file}", self.org, self.repo),
            Some(quant) => format!("hf download {}/{} --include '*{quant}*'", self.org, self.repo),
            None => format!("hf download {}/{}", self.org, self.repo),
        }
    }
}

/// The blob that an Ollama name stands for.
fn ollama(name: &str, models: &Path) -> Result<Option<PathBuf>> {
    let (id, tag) = name.split_once(':').unwrap_or((name, "latest"));
    let (owner, model) = id.split_once('/').unwrap_or(("library", id));
    if ![owner, model, tag].into_iter().all(is_plain) {
        return Ok(None);
    }
    // The first level is named after the server that the model came from.
    let manifest = children(&models.join("manifests"))
        .into_iter()
        .map(|server| server.join(owner).join(model).join(tag))
        .find(|path| path.is_file());
    let Some(manifest) = manifest else { return Ok(None) };
    let text = fs::read(&manifest).with_context(|| format!("could not read {}", manifest.display()))?;
    let json: serde_json::Value =
        serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", manifest.display()))?;
    let layers = json.get("layers").and_then(|layers| layers.as_array()).map_or(&[][..], Vec::as_slice);
    let digest = layers
        .iter()
        .find(|layer| {
            layer.get("mediaType").and_then(|t| t.as_str()).is_some_and(|t| t.ends_with(".image.model"))
        })
        .and_then(|layer| layer.get("digest")?.as_str()?.strip_prefix("sha256:"))
        .filter(|digest| digest.bytes().all(|b| b.is_ascii_hexdigit()));
    let Some(digest) = digest else { bail!("{} names no model", manifest.display()) };
    let blob = models.join("blobs").join(format!("sha256-{digest}"));
    if !blob.is_file() {
        bail!("{} is missing; fetch it with `ollama pull {name}`", blob.display());
    }
    Ok(Some(blob))
}

fn hub_folder() -> PathBuf {
    if let Some(path) = folder_in("HF_HUB_CACHE") {
        return path;
    }
    let home = folder_in("HF_HOME").unwrap_or_else(|| home().join(".cache").join("huggingface"));
    home.join("hub")
}

fn ollama_folder() -> PathBuf {
    folder_in("OLLAMA_MODELS").unwrap_or_else(|| home().join(".ollama").join("models"))
}

fn folder_in(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn home() -> PathBuf {
    std::env::home_dir().unwrap_or_default()
}

/// Whether a word can be a name in a folder and cannot lead out of it.
fn is_plain(word: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !word.is_empty() && !word.starts_with('.') && word.chars().all(allowed)
}

/// What lies in a folder, sorted; nothing if it cannot be read.
fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn has(folder: &Path, ending: &str) -> bool {
    children(folder).iter().any(|path| file_name(path).ends_with(ending))
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
