//! Options that several subcommands share, under the names that llama.cpp gave them.

mod form;
mod generation;
mod machine;
mod saved;
mod session;

pub use form::FormArgs;
pub use generation::{DraftArgs, GenerationArgs, PromptArgs, SamplingArgs, ShiftArgs, read_text};
pub use machine::{AccessArgs, PlacementArgs, ThreadArgs};
pub use saved::{SavedArgs, Saving};
pub use session::{CacheTypeName, NumericsName, SessionArgs};

use crate::catalogue;
use crate::exit::{Usage, say};
use crate::locate;
use anyhow::Result;
use gable_kernels::rope::RopeScaling;
use gable_model::gguf::OverrideValue;
use gable_model::model::{Model, OpenOptions};
use gable_model::tokenizer::EncodeOptions;
use std::path::PathBuf;
use std::sync::Arc;

/// Which model, and what about it is to be different.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// GGUF file, folder with config.json, name from `gable pull --list`, org/repo[:FILE] or name[:TAG] that another
    /// program has downloaded
    #[arg(short, long, value_name = "MODEL", env = "GABLE_MODEL", default_value = catalogue::DEFAULT_MODEL)]
    pub model: String,
    /// Pre-tokenizer, where the file's is wrong or unknown
    #[arg(long, value_name = "NAME")]
    pub pre: Option<String>,
    /// Replaces a metadata value: KEY=int|float|bool|str:VALUE
    #[arg(long, value_name = "KEY=TYPE:VALUE", value_parser = metadata_override)]
    pub override_kv: Vec<(String, OverrideValue)>,
    /// RoPE base frequency
    #[arg(long, value_name = "BASE", value_parser = positive)]
    pub rope_freq_base: Option<f32>,
    /// RoPE frequencies are multiplied with this (1/N makes the context N times as long)
    #[arg(long, value_name = "SCALE", value_parser = positive, conflicts_with = "rope_scale")]
    pub rope_freq_scale: Option<f32>,
    /// RoPE context scaling factor N, the same as --rope-freq-scale 1/N
    #[arg(long, value_name = "N", value_parser = positive)]
    pub rope_scale: Option<f32>,
    #[command(flatten)]
    pub access: AccessArgs,
}

impl ModelArgs {
    /// Where the model lies; one of the catalogue is fetched if it is not there.
    pub fn path(&self) -> Result<PathBuf> {
        locate::model(&self.model)
    }

    /// What to open it with.
    pub fn open_options(&self) -> OpenOptions {
        let factor = self.rope_scale.or(self.rope_freq_scale.map(|scale| 1.0 / scale));
        OpenOptions {
            overrides: self.override_kv.clone(),
            pre_tokenizer: self.pre.clone(),
            rope_base: self.rope_freq_base,
            rope_scaling: factor.map(|factor| RopeScaling::Linear { factor }),
            access: self.access.access(),
        }
    }

    /// Finds and opens it.
    pub fn open(&self) -> Result<Arc<Model>> {
        Ok(Arc::new(Model::open(&self.path()?, &self.open_options())?))
    }

    /// The same for a model whose weights will all be read soon.
    pub fn open_to_run(&self) -> Result<Arc<Model>> {
        Ok(Arc::new(self.access.open_to_run(&self.path()?, &self.open_options())?))
    }
}

/// A model that reads texts as they are given: which one, how texts become tokens, and how it computes.
#[derive(Debug, clap::Args)]
pub struct ReadingArgs {
    /// Reads names of control tokens in texts as those tokens
    #[arg(long)]
    pub parse_special: bool,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub session: SessionArgs,
}

impl ReadingArgs {
    /// With what a text begins and ends, and what its control tokens are.
    pub fn encoding(&self) -> EncodeOptions {
        EncodeOptions { add_special: true, parse_special: self.parse_special }
    }
}

/// How one text is continued: with what, for how long, in which form.
#[derive(Debug, clap::Args)]
pub struct ContinueArgs {
    #[command(flatten)]
    pub generation: GenerationArgs,
    #[command(flatten)]
    pub shift: ShiftArgs,
    #[command(flatten)]
    pub draft: DraftArgs,
    #[command(flatten)]
    pub form: FormArgs,
    #[command(flatten)]
    pub saved: SavedArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub session: SessionArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// Flags of llama.cpp that people type out of habit and that change nothing here.
#[derive(Debug, clap::Args)]
pub struct HabitArgs {
    #[arg(long = "gpu-layers", visible_alias = "n-gpu-layers", value_name = "N", hide = true)]
    gpu_layers: Option<String>,
    #[arg(long = "flash-attn", value_name = "STATE", num_args = 0..=1, hide = true)]
    flash_attn: Option<Option<String>>,
}

impl HabitArgs {
    /// Says on stderr what has no effect, and why.
    pub fn say_what_is_ignored(&self) {
        if self.gpu_layers.is_some() {
            say("warning: -ngl has no effect: everything runs on the CPU");
        }
        if matches!(&self.flash_attn, Some(Some(state)) if !matches!(state.as_str(), "on" | "auto" | "1")) {
            say("warning: -fa has no effect: attention is always fused");
        }
    }
}

/// llama.cpp's options of one dash and several letters as long ones; everything else as it is.
pub fn with_long_names(args: impl Iterator<Item = std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    const LONG: [(&str, &str); 17] = [
        ("-jf", "--json-schema-file"),
        ("-np", "--parallel"),
        ("-pg", "--pg"),
        ("-tb", "--threads-batch"),
        ("-ub", "--ubatch-size"),
        ("-ctk", "--cache-type-k"),
        ("-ctv", "--cache-type-v"),
        ("-ngl", "--gpu-layers"),
        ("-sys", "--system"),
        ("-fa", "--flash-attn"),
        ("-mg", "--main-gpu"),
        ("-oe", "--output-err"),
        ("-mmp", "--mmap"),
        ("-embd", "--embeddings"),
        ("-sm", "--split-mode"),
        ("-dev", "--device"),
        ("-ts", "--tensor-split"),
    ];
    let mut options = true; // until `--`
    args.map(|arg| {
        options &= arg != "--";
        let long = LONG.iter().find(|(short, _)| options && arg == *short);
        long.map_or(arg, |(_, long)| long.into())
    })
    .collect()
}

/// A parser for numbers from `min` to `max`.
pub fn count(
    min: usize,
    max: usize,
) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| match text.parse::<usize>() {
        Ok(n) if (min..=max).contains(&n) => Ok(n),
        _ => Err(format!("allowed: {min} to {max}")),
    }
}

fn positive(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if x.is_finite() && x > 0.0 => Ok(x),
        _ => Err("allowed: positive numbers".to_owned()),
    }
}

fn metadata_override(text: &str) -> Result<(String, OverrideValue), String> {
    OverrideValue::parse(text).map_err(|error| error.to_string())
}

/// An error about the command line.
pub fn usage(text: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Usage(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_several_letters_become_long_ones_up_to_the_double_dash() {
        let args = ["gable", "-tb", "2", "-ctk", "f16", "--", "-ub"];
        let long = with_long_names(args.iter().map(std::ffi::OsString::from));
        assert_eq!(long, ["gable", "--threads-batch", "2", "--cache-type-k", "f16", "--", "-ub"]);
    }
}
