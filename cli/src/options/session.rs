//! Options of a session: threads, room, numbers.

use super::{HabitArgs, ThreadArgs, count, usage};
use crate::exit::say;
use anyhow::Result;
use clap::ValueEnum;
use gable_kernels::Kernels;
use gable_kernels::attention::CacheType;
use gable_model::forward::Numerics;
use gable_model::model::Model;
use gable_model::session::{Session, SessionOptions};
use std::sync::Arc;

/// Longest context where none is asked for.
const DEFAULT_CONTEXT: usize = 4096;

/// How a session computes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Computation")]
pub struct SessionArgs {
    #[command(flatten)]
    pub threads: ThreadArgs,
    /// Context in tokens; 0 for all the model was made for [default: the model's, at most 4096]
    #[arg(short, long, value_name = "N", value_parser = count(0, 1 << 24))]
    pub ctx_size: Option<usize>,
    /// Tokens of a prompt that are read together at most
    #[arg(short, long, value_name = "N", default_value_t = 2048, value_parser = count(1, 1 << 20))]
    pub batch_size: usize,
    /// The same, for a single pass (-ub)
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = count(1, 1 << 16))]
    pub ubatch_size: usize,
    /// Numbers to compute with
    #[arg(long, value_name = "KIND", value_enum, env = "GABLE_NUMERICS", default_value_t = NumericsName::Fast)]
    pub numerics: NumericsName,
    /// One order of summation for prompts and generation: the same bits however a text is fed
    #[arg(long)]
    pub strict: bool,
    /// Element type of cached keys and values (-ctk) [default: f16, with exact numerics f32]
    #[arg(long, value_name = "TYPE", value_enum)]
    pub cache_type_k: Option<CacheTypeName>,
    /// The same (-ctv); both must be equal
    #[arg(long, value_name = "TYPE", value_enum)]
    pub cache_type_v: Option<CacheTypeName>,
    /// Keeps what sliding windows have left behind: more memory, but a reply can be taken back without reading again
    #[arg(long)]
    pub swa_full: bool,
    #[command(flatten)]
    pub habits: HabitArgs,
}

/// `--numerics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NumericsName {
    /// int8 activations against quantized weights, f16 cache
    #[value(alias = "auto")] // generation is as precise as it can be without cost
    Fast,
    /// As fast, with activations of about 16 bits in prompts too
    Precise,
    /// f32 everywhere
    Exact,
}

impl NumericsName {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            NumericsName::Fast => "fast",
            NumericsName::Precise => "precise",
            NumericsName::Exact => "exact",
        }
    }
}

impl From<NumericsName> for Numerics {
    fn from(name: NumericsName) -> Numerics {
        match name {
            NumericsName::Fast => Numerics::Fast,
            NumericsName::Precise => Numerics::Precise,
            NumericsName::Exact => Numerics::Exact,
        }
    }
}

/// `-ctk` and `-ctv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CacheTypeName {
    /// 32-bit floats
    F32,
    /// IEEE halves
    F16,
    /// Upper halves of 32-bit floats
    Bf16,
    /// int8, one scale per 32 elements: half the memory of f16
    #[value(name = "q8_0")]
    Q8_0,
}

impl From<CacheTypeName> for CacheType {
    fn from(name: CacheTypeName) -> CacheType {
        match name {
            CacheTypeName::F32 => CacheType::F32,
            CacheTypeName::F16 => CacheType::F16,
            CacheTypeName::Bf16 => CacheType::Bf16,
            CacheTypeName::Q8_0 => CacheType::Q8_0,
        }
    }
}

impl CacheTypeName {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        CacheType::from(self).name()
    }
}

impl SessionArgs {
    /// The session's options for this model.
    pub fn session_options(&self, model: &Model) -> Result<SessionOptions> {
        let kernels = Kernels::new().map_err(|error| usage(error.to_string()))?;
        let mut options = SessionOptions::new(kernels, self.context(model));
        options.numerics = self.numerics.into();
        options.strict = self.strict;
        options.batch = self.batch_size.min(self.ubatch_size);
        options.cache_type = self.cache_type()?;
        options.keep_all = self.swa_full;
        Ok(options)
    }

    /// A session that can give the logits of `max_logits` tokens at once, after a word about flags without effect.
    pub fn session(&self, model: &Arc<Model>, max_logits: usize) -> Result<Session> {
        let mut options = self.session_options(model)?;
        options.max_logits = max_logits;
        let pool = self.threads.pool(&mut options);
        self.habits.say_what_is_ignored();
        if options.max_positions > model.config().max_seq_len {
            say(&format!(
                "warning: a context of {}, but the model was made for {} tokens",
                options.max_positions,
                model.config().max_seq_len
            ));
        }
        Ok(Session::new(Arc::clone(model), pool, options)?)
    }

    /// What computes, in one line: `isa avx2, threads 2, numerics fast`.
    pub fn features(&self, kernels: Kernels) -> String {
        let strict = if self.strict { ", strict" } else { "" };
        let (isa, threads) = (kernels.isa(), self.threads.describe());
        format!("isa {isa}, threads {threads}, numerics {}{strict}", self.numerics.name())
    }

    fn context(&self, model: &Model) -> usize {
        let made_for = model.config().max_seq_len;
        match self.ctx_size {
            None => made_for.min(DEFAULT_CONTEXT),
            Some(0) => made_for,
            Some(n) => n,
        }
    }

    fn cache_type(&self) -> Result<Option<CacheType>> {
        if let (Some(k), Some(v)) = (self.cache_type_k, self.cache_type_v)
            && k != v
        {
            return Err(usage("-ctk and -ctv differ; keys and values have one type: f32, f16, bf16 or q8_0"));
        }
        Ok(self.cache_type_k.or(self.cache_type_v).map(CacheType::from))
    }
}
