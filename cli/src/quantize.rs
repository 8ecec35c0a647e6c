//! `gable quantize`: the same model with other element types.
//!
//! Flags and log lines are those of llama-quantize, and so is the choice of each tensor's type. Beside its size, every
//! converted tensor's line says how far it is from its source.

mod budget;
mod report;

use crate::exit::{Interrupted, say};
use crate::interrupt::Interrupt;
use crate::locate;
use crate::new_file::NewFile;
use crate::options::{ThreadArgs, usage};
use anyhow::{Context, Result, bail};
use gable_kernels::quant::Format;
use gable_model::finite::not_finite;
use gable_model::gguf::writer::TensorWriter;
use gable_model::imatrix::Imatrix;
use gable_model::quantize::{
    Choice, FILE_TYPES, FileType, ImatrixUse, Quantizer, Recipe, Source, format_by_name, importances,
};
use gable_model::tensor_table::TensorInfo;
use regex::Regex;
use report::Report;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Options of `gable quantize`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Types: F32 F16 BF16 Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S IQ4_XS IQ4_NL Q4_1 Q4_0, \
                  in any case, or their numbers in llama.cpp.\n\nExamples:\n  gable quantize model-f16.gguf model-q4.gguf Q4_K_M\n  \
                  gable quantize --imatrix model.imatrix.gguf model-f16.gguf model-q4.gguf q4_k_m 8\n  \
                  gable quantize --allow-requantize --dry-run smollm2 Q4_0\n  \
                  gable perplexity -m model-q4.gguf --vs model-f16.gguf -f text.txt -c 128 --blame --json > blame.json\n  \
                  gable quantize --budget 5.0bpw --blame blame.json model-f16.gguf model-q4+.gguf Q4_0"
)]
pub struct QuantizeArgs {
    /// GGUF file or Hugging Face folder to read, file to write (left out: ggml-model-TYPE.gguf beside or in it), type, number of threads
    #[arg(value_names = ["IN", "OUT", "TYPE", "NTHREADS"], num_args = 2..=4, required = true)]
    words: Vec<String>,
    /// Also converts tensors that are quantized already, which loses more than converting the original
    #[arg(long)]
    allow_requantize: bool,
    /// Leaves output.weight as it is
    #[arg(long, visible_alias = "keep-output")]
    leave_output_tensor: bool,
    /// One type for all tensors that are converted
    #[arg(long)]
    pure: bool,
    /// Importance of columns, as `gable imatrix` writes it
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// For output.weight
    #[arg(long, value_name = "TYPE", value_parser = tensor_format, ignore_case = true)]
    output_tensor_type: Option<Format>,
    /// For token_embd.weight
    #[arg(long, value_name = "TYPE", value_parser = tensor_format, ignore_case = true)]
    token_embedding_type: Option<Format>,
    /// For tensors in whose names the pattern is found; the first that fits decides
    #[arg(long, value_name = "REGEX=TYPE", value_parser = pattern)]
    tensor_type: Vec<(Regex, Format)>,
    /// Gives better types to the tensors of --blame until all tensors together have so many bits per weight: 4.5bpw
    #[arg(long, value_name = "BPW", value_parser = budget::bits_per_weight, requires = "blame")]
    budget: Option<f64>,
    /// What the tensors' quantization costs, as `gable perplexity --vs ORIGINAL --blame --json` prints it
    #[arg(long, value_name = "FILE", requires = "budget")]
    blame: Option<PathBuf>,
    /// Says what would be done, and writes nothing
    #[arg(long)]
    dry_run: bool,
    /// One JSON object instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    threads: ThreadArgs,
}

fn tensor_format(text: &str) -> Result<Format, String> {
    let names =
        || Format::ALL.iter().filter(|f| f.can_quantize()).map(|f| f.name()).collect::<Vec<_>>().join(", ");
    format_by_name(text).ok_or_else(|| format!("no type of a tensor that can be made; allowed: {}", names()))
}

fn pattern(text: &str) -> Result<(Regex, Format), String> {
    let (pattern, format) = text.rsplit_once('=').ok_or("write REGEX=TYPE, such as attn_v=q8_0")?;
    Ok((Regex::new(pattern).map_err(|e| e.to_string())?, tensor_format(format)?))
}

/// What the words of the command line mean.
struct Job {
    source: PathBuf,
    target: PathBuf,
    file_type: &'static FileType,
    threads: usize,
}

impl QuantizeArgs {
    fn job(&self) -> Result<Job> {
        let [source, rest @ ..] = &*self.words else { return Err(usage("IN is missing")) };
        // As in llama-quantize, OUT may be left out: then the second word is a type.
        let (target, rest) = match rest {
            [kind, rest @ ..] if rest.len() < 2 && FileType::parse(kind).is_some() && !is_type(rest) => {
                (None, [std::slice::from_ref(kind), rest].concat())
            }
            [target, rest @ ..] => (Some(target), rest.to_vec()),
            [] => return Err(usage("TYPE is missing")),
        };
        let (kind, threads) = match &*rest {
            [kind] => (kind, None),
            [kind, threads] => (kind, Some(threads)),
            _ => return Err(usage("write: gable quantize IN [OUT] TYPE [NTHREADS]")),
        };
        let Some(file_type) = FileType::parse(kind) else {
            let names: Vec<_> = FILE_TYPES.iter().map(|t| t.name).collect();
            return Err(usage(format!(
                "{kind:?} is no type; allowed: {} or their numbers",
                names.join(", ")
            )));
        };
        let threads = match threads.map(|n| n.parse::<usize>()) {
            None => self.threads.threads(),
            Some(Ok(n)) if (1..=1024).contains(&n) => n,
            Some(_) => return Err(usage("NTHREADS must be 1 to 1024")),
        };
        let source = locate::model(source)?;
        let name = format!("ggml-model-{}.gguf", file_type.name);
        let target = match target {
            Some(target) => PathBuf::from(target),
            None if source.is_dir() => source.join(name),
            None => source.with_file_name(name),
        };
        Ok(Job { source, target, file_type, threads })
    }

    fn recipe(&self, file_type: &'static FileType) -> Recipe {
        Recipe {
            pure: self.pure,
            leave_output: self.leave_output_tensor,
            output_format: self.output_tensor_type,
            embedding_format: self.token_embedding_type,
            overrides: self.tensor_type.clone(),
            has_imatrix: self.imatrix.is_some(),
            ..Recipe::new(file_type)
        }
    }
}

fn is_type(words: &[String]) -> bool {
    // `IN 2 8`: a type and eight threads; `IN 2 q8_0`: a file called 2.
    matches!(words, [word] if FileType::parse(word).is_some() && word.parse::<u32>().is_err())
}

/// Runs the command.
pub fn run(args: &QuantizeArgs) -> Result<()> {
    let job = args.job()?;
    let source = Source::open(&job.source)?;
    let imatrix = args.imatrix.as_deref().map(Imatrix::open).transpose()?;
    let mut choices = args.recipe(job.file_type).choose(source.tensors());
    if let (Some(bits), Some(blame)) = (args.budget, &args.blame) {
        budget::spend(bits, blame, source.tensors(), &mut choices)?;
    }
    check(&source, &choices, imatrix.as_ref(), args)?;
    let mut report = Report::new(&source, &choices, args.json)?;
    say(&format!(
        "quantizing '{}' to '{}' as {} using {} threads",
        job.source.display(),
        job.target.display(),
        job.file_type.name,
        job.threads
    ));
    if args.dry_run {
        for (tensor, choice) in source.tensors().iter().zip(&choices) {
            report.tensor(tensor, *choice, None)?;
        }
        return report.finish(true);
    }
    let file = NewFile::create(&job.target, &source.files())?;
    let name = args.imatrix.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
    let used = imatrix.as_ref().map(|m| ImatrixUse {
        file: &name,
        dataset: m.datasets.first().map_or("", String::as_str),
        entries: m.len(),
        chunks: m.chunk_count,
    });
    let writing = || format!("could not write {}", job.target.display());
    let out = source.header(&choices, job.file_type, used.as_ref())?.start(file).with_context(writing)?;
    let work = Work {
        source: &source,
        quantizer: Quantizer::new(job.threads)?,
        imatrix: imatrix.as_ref(),
        target: &job.target,
    };
    let interrupt = Interrupt::watch()?;
    let cancel = interrupt.flag();
    let (written, pressed) = interrupt.during(|| work.tensors(&choices, out, &mut report, &cancel));
    let Some(out) = written? else { return Err(Interrupted.into()) };
    let file = out.finish().with_context(writing)?;
    if pressed {
        return Err(Interrupted.into());
    }
    file.commit()?;
    report.finish(false)
}

/// Everything that can be known to go wrong before the work begins.
fn check(source: &Source, choices: &[Choice], imatrix: Option<&Imatrix>, args: &QuantizeArgs) -> Result<()> {
    let mut known = 0_usize;
    for (tensor, choice) in source.tensors().iter().zip(choices) {
        if tensor.format == choice.format {
            continue;
        }
        if tensor.format.is_block_quantized() && !args.allow_requantize {
            bail!(
                "tensor {:?} is {} already; convert the original, or give --allow-requantize",
                tensor.name,
                tensor.format
            );
        }
        let Some(importance) = imatrix.and_then(|m| m.importance(&tensor.name)) else { continue };
        let columns = importances(tensor);
        if importance.len() != columns {
            bail!(
                "tensor {:?} has {columns} columns, but {} in the importance matrix, which is of another model",
                tensor.name,
                importance.len()
            );
        }
        known = known.saturating_add(1);
    }
    if let Some(imatrix) = imatrix {
        if known == 0 {
            bail!(
                "the importance matrix knows none of the tensors that are converted; it is of another model"
            );
        }
        say(&format!(
            "have importance for {known} of the tensors that are converted ({} in all)",
            imatrix.len()
        ));
    }
    Ok(())
}

struct Work<'a> {
    source: &'a Source,
    quantizer: Quantizer,
    imatrix: Option<&'a Imatrix>,
    target: &'a Path,
}

impl Work<'_> {
    /// Writes all tensors; `None` if it was cancelled.
    fn tensors(
        &self,
        choices: &[Choice],
        mut out: TensorWriter<NewFile>,
        report: &mut Report,
        cancel: &AtomicBool,
    ) -> Result<Option<TensorWriter<NewFile>>> {
        let writing = || format!("could not write {}", self.target.display());
        for (i, (tensor, choice)) in self.source.tensors().iter().zip(choices).enumerate() {
            let bytes = self.source.bytes(i)?;
            if tensor.format == choice.format {
                copyable(tensor, &bytes)?;
                out.tensor(&bytes).with_context(writing)?;
                report.tensor(tensor, *choice, None)?;
                continue;
            }
            let importance = self.imatrix.and_then(|m| m.importance(&tensor.name));
            let made =
                self.quantizer.convert(tensor, &bytes, choice.format, importance.as_deref(), cancel)?;
            let Some(made) = made else { return Ok(None) };
            out.tensor(&made.bytes).with_context(writing)?;
            report.tensor(tensor, *choice, Some(made.deviation))?;
        }
        Ok(Some(out))
    }
}

/// A damaged source gives no new file, even where its tensors are only copied.
fn copyable(tensor: &TensorInfo, bytes: &[u8]) -> Result<()> {
    match not_finite(tensor, bytes) {
        Some(bad) => bail!("tensor {:?} is damaged: {bad}", tensor.name),
        None => Ok(()),
    }
}
