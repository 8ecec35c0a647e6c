//! Importance matrices: how large the inputs of every linear layer are, column by column.
//!
//! A rounding error of weight `w[i, j]` moves the output by `error * x[j]`, so its square counts with the mean of
//! `x[j]^2`. [`Collector`] watches forward passes and sums these squares; [`Imatrix`] is the result, in llama.cpp's GGUF
//! form:
//!
//! ```text
//! general.type = "imatrix"   imatrix.datasets [str]   imatrix.chunk_count u32   imatrix.chunk_size u32
//! NAME.in_sum2  f32 [columns, n]   sums of squares over all rows seen
//! NAME.counts   f32 [1, n]         how many rows
//! ```
//!
//! `n` is 1, or the number of experts, whose matrices are one tensor: each has seen only the rows that chose it.

use crate::LoadError;
use crate::arch::{Role, gguf_name};
use crate::gguf::{Array, Gguf, writer::GgufWriter};
use crate::model::Model;
use crate::observer::{Observer, Site};
use crate::weights::FeedForward;
use gable_kernels::MatRef;
use gable_kernels::quant::Format;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// Squares of the inputs of a matrix, or of each expert's.
#[derive(Debug, Clone, PartialEq, Default)]
struct Squares {
    /// One sum per column, matrix after matrix.
    sums: Vec<f64>,
    /// Rows that were added, one number per matrix.
    rows: Vec<f64>,
}

impl Squares {
    /// Adds rows that the matrix with a number has read.
    fn add(&mut self, matrix: usize, values: MatRef<'_>) {
        self.make_room(matrix.saturating_add(1), values.cols());
        let sums = self.sums.chunks_exact_mut(values.cols().max(1)).nth(matrix).unwrap_or_default();
        for i in 0..values.rows() {
            for (sum, x) in sums.iter_mut().zip(values.row(i)) {
                *sum += f64::from(*x) * f64::from(*x);
            }
        }
        if let Some(rows) = self.rows.get_mut(matrix) {
            *rows += values.rows() as f64;
        }
    }

    /// At least so many matrices.
    fn make_room(&mut self, matrices: usize, columns: usize) {
        if self.rows.len() < matrices {
            self.rows.resize(matrices, 0.0);
            self.sums.resize(matrices.saturating_mul(columns), 0.0);
        }
    }

    fn columns(&self) -> usize {
        self.sums.len() / self.rows.len().max(1)
    }

    /// The matrices' sums, with their rows.
    fn matrices(&self) -> impl Iterator<Item = (&[f64], f64)> {
        self.sums.chunks_exact(self.columns().max(1)).zip(self.rows.iter().copied())
    }
}

/// Mean squares of the inputs of matrices, by the matrices' names.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Imatrix {
    /// The texts it was collected on.
    pub datasets: Vec<String>,
    /// Chunks of text.
    pub chunk_count: u32,
    /// Tokens of a chunk.
    pub chunk_size: u32,
    entries: BTreeMap<String, Squares>,
}

impl Imatrix {
    /// Reads a file.
    ///
    /// # Errors
    /// No GGUF file, another kind of GGUF file, sums without counts or of another shape, values that are negative or not
    /// finite.
    pub fn open(path: &Path) -> Result<Imatrix, LoadError> {
        Imatrix::read(&Gguf::open(path)?).map_err(|e| e.in_file(path))
    }

    fn read(gguf: &Gguf) -> Result<Imatrix, LoadError> {
        let metadata = gguf.metadata();
        let kind = metadata.get_str("general.type")?.unwrap_or_default();
        if kind != "imatrix" {
            let reason = format!("is {kind:?}, but \"imatrix\" is needed: this file is no importance matrix");
            return Err(LoadError::Metadata { key: "general.type".to_owned(), reason });
        }
        let datasets = match metadata.get_array("imatrix.datasets")? {
            Some(names) => strings(&names)?,
            None => Vec::new(),
        };
        let mut entries = BTreeMap::new();
        for tensor in gguf.tensors() {
            let Some(name) = tensor.name.strip_suffix(SUMS) else { continue };
            let counts = gguf.table().require(&format!("{name}{COUNTS}"))?;
            let fault = |reason: String| LoadError::Tensor { name: tensor.name.to_string(), reason };
            let (matrices, counted) = (tensor.dims.rows(), counts.dims.elements());
            if matrices != counted || matrices == 0 {
                return Err(fault(format!(
                    "holds the inputs of {matrices} matrices, but {counted} counts of rows"
                )));
            }
            let (sums, rows) = (floats(gguf, tensor)?, floats(gguf, counts)?);
            entries.insert(name.to_owned(), Squares { sums, rows });
        }
        if entries.is_empty() {
            return Err(LoadError::MissingTensor { name: format!("*{SUMS}") });
        }
        Ok(Imatrix {
            datasets,
            chunk_count: metadata.get_u32("imatrix.chunk_count")?.unwrap_or(0),
            chunk_size: metadata.get_u32("imatrix.chunk_size")?.unwrap_or(0),
            entries,
        })
    }

    /// Number of matrices.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Mean square of every input column of a matrix; of a tensor of experts, of one after the other, and 1 where none was
    /// ever chosen. `None` for a matrix that was not seen.
    #[expect(clippy::cast_possible_truncation, reason = "as f32 they are used")]
    pub fn importance(&self, name: &str) -> Option<Vec<f32>> {
        let entry = self.entries.get(name).filter(|e| e.rows.iter().any(|n| *n > 0.0))?;
        let mean = |sum: f64, rows: f64| if rows > 0.0 { (sum / rows) as f32 } else { 1.0 };
        Some(entry.matrices().flat_map(|(sums, rows)| sums.iter().map(move |s| mean(*s, rows))).collect())
    }

    /// Adds what another one holds.
    ///
    /// # Errors
    /// [`LoadError::Tensor`] for a matrix of another width, which is one of another model.
    pub fn merge(&mut self, other: &Imatrix) -> Result<(), LoadError> {
        for (name, from) in &other.entries {
            let to = self.entries.entry(name.clone()).or_default();
            to.make_room(if to.rows.is_empty() { from.rows.len() } else { 0 }, from.columns());
            if (to.columns(), to.rows.len()) != (from.columns(), from.rows.len()) {
                let reason = format!(
                    "has {} columns in one and {} in another importance matrix",
                    to.sums.len(),
                    from.sums.len()
                );
                return Err(LoadError::Tensor { name: name.clone(), reason });
            }
            let add =
                |to: &mut [f64], from: &[f64]| to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            add(&mut to.rows, &from.rows);
            add(&mut to.sums, &from.sums);
        }
        for name in &other.datasets {
            if !self.datasets.contains(name) {
                self.datasets.push(name.clone());
            }
        }
        self.chunk_count = self.chunk_count.saturating_add(other.chunk_count);
        self.chunk_size = self.chunk_size.max(other.chunk_size);
        Ok(())
    }

    /// Writes the file.
    ///
    /// # Errors
    /// What `out` says, or [`io::ErrorKind::InvalidData`] for names that no file can hold.
    #[expect(clippy::cast_possible_truncation, reason = "the file holds f32")]
    pub fn write<W: Write>(&self, out: W) -> io::Result<W> {
        let mut tensors = self
            .header(GgufWriter::new())
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?
            .start(out)?;
        let bytes =
            |values: &[f64]| values.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect::<Vec<u8>>();
        for entry in self.entries.values() {
            tensors.tensor(&bytes(&entry.sums))?;
            tensors.tensor(&bytes(&entry.rows))?;
        }
        tensors.finish()
    }

    fn header(&self, mut writer: GgufWriter) -> Result<GgufWriter, LoadError> {
        writer.set("general.type", "imatrix")?;
        writer.set_array("imatrix.datasets", &self.datasets)?;
        writer.set("imatrix.chunk_count", &self.chunk_count)?;
        writer.set("imatrix.chunk_size", &self.chunk_size)?;
        for (name, entry) in &self.entries {
            let [columns, matrices] =
                [entry.columns(), entry.rows.len()].map(|n| u64::try_from(n).unwrap_or(u64::MAX));
            writer.declare(&format!("{name}{SUMS}"), &[columns, matrices], Format::F32)?;
            writer.declare(&format!("{name}{COUNTS}"), &[1, matrices], Format::F32)?;
        }
        Ok(writer)
    }
}

fn strings(array: &Array<'_>) -> Result<Vec<String>, LoadError> {
    Ok(array.strings()?.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect())
}

/// Non-negative finite f32 of a tensor.
fn floats(gguf: &Gguf, tensor: &crate::tensor_table::TensorInfo) -> Result<Vec<f64>, LoadError> {
    let fault = |reason: String| LoadError::Tensor { name: tensor.name.to_string(), reason };
    if tensor.format != Format::F32 {
        return Err(fault(format!("has type {}, but F32 is needed", tensor.format)));
    }
    let values = gguf.tensor_bytes(tensor).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
    values
        .map(|x| match x.is_finite() && x >= 0.0 {
            true => Ok(f64::from(x)),
            false => Err(fault(format!("holds {x}; a sum of squares is finite and not negative"))),
        })
        .collect()
}

/// Sums the squares of linear layers' inputs while the model runs.
#[derive(Debug)]
pub struct Collector {
    /// Whether the output matrix is one of them.
    output: bool,
    seen: BTreeMap<Place, Squares>,
}

/// A layer, which of [`INPUTS`], and whether experts read there.
type Place = (usize, usize, bool);

/// Where inputs can be seen, and which matrices take them.
const INPUTS: [(Site, &[Role]); 5] = [
    (Site::AttentionInput, &[Role::Q, Role::K, Role::V]),
    (Site::Heads, &[Role::AttentionOutput]),
    (Site::FfnInput, &[Role::Gate, Role::Up, Role::Router]),
    (Site::FfnActivation, &[Role::Down]),
    (Site::FinalNorm, &[Role::Output]),
];

fn place(site: Site) -> Option<usize> {
    INPUTS.iter().position(|(s, _)| *s == site)
}

impl Collector {
    /// Watches all matrices of the layers, and the output matrix if wanted. Only rows whose logits are computed reach it.
    pub fn new(output: bool) -> Collector {
        Collector { output, seen: BTreeMap::new() }
    }

    /// What was seen, under the names that GGUF files give the model's matrices.
    ///
    /// # Errors
    /// [`LoadError::Tensor`] if the inputs of a matrix were not finite, which no weighting survives.
    pub fn finish(self, model: &Model) -> Result<Imatrix, LoadError> {
        let mut entries = BTreeMap::new();
        for ((layer, site, of_experts), mut squares) in self.seen {
            if let (true, Some(experts)) = (of_experts, model.config().experts) {
                squares.make_room(experts.count, squares.columns());
            }
            for role in INPUTS.get(site).map_or(&[][..], |(_, roles)| roles) {
                let Some(role) = present(model, layer, *role, of_experts) else { continue };
                let name = format!("{}.weight", gguf_name(role).replace("{i}", &layer.to_string()));
                if !squares.sums.iter().all(|s| s.is_finite()) {
                    let reason = "has inputs that are not finite; the weights are damaged".to_owned();
                    return Err(LoadError::Tensor { name, reason });
                }
                entries.insert(name, squares.clone());
            }
        }
        Ok(Imatrix { entries, ..Imatrix::default() })
    }
}

/// The role under which the file has the matrix: Q, K and V may be one, as gate and up may be; a gate need not be there, and
/// experts stand in the place of a network.
fn present(model: &Model, layer: usize, role: Role, of_experts: bool) -> Option<Role> {
    let weights = model.weights();
    let Some(layer) = weights.layers.get(layer) else {
        return Some(if weights.output.is_some() { Role::Output } else { Role::Embedding });
    };
    match (&layer.ffn, role) {
        (_, Role::Q | Role::K | Role::V) if layer.q.weight.name() == layer.k.weight.name() => Some(Role::Qkv),
        (FeedForward::Dense(_), Role::Router) => None,
        (FeedForward::Dense(ffn), Role::Gate) if ffn.gate.is_none() => None,
        (FeedForward::Experts(_), Role::Gate | Role::Up | Role::Down) => of_experts.then_some(match role {
            Role::Gate => Role::ExpertGate(0),
            Role::Up => Role::ExpertUp(0),
            _ => Role::ExpertDown(0),
        }),
        (FeedForward::Experts(_), _) if of_experts => None,
        (_, role) => Some(role),
    }
}

impl Observer for Collector {
    fn wants(&self, _: usize, site: Site) -> bool {
        place(site).is_some() && (self.output || site != Site::FinalNorm)
    }

    fn observe(&mut self, layer: usize, site: Site, values: MatRef<'_>) {
        if let Some(site) = place(site) {
            self.seen.entry((layer, site, false)).or_default().add(0, values);
        }
    }

    fn observe_expert(&mut self, layer: usize, expert: usize, site: Site, values: MatRef<'_>) {
        if let Some(site) = place(site) {
            self.seen.entry((layer, site, true)).or_default().add(expert, values);
        }
    }
}
