//! Which tensor gets which format.
//!
//! The rules are llama.cpp's (`llama_tensor_get_type`), so that a file of a given name is here what it is there: the
//! output matrix is worth six bits, values and the second feed-forward matrix more than the others in the first and last
//! eighth of the layers and in every third between them.

use super::file_type::{FileType, Mix};
use crate::tensor_table::TensorInfo;
use gable_kernels::quant::Format;
use regex::Regex;

/// What the user wants.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The file's type.
    pub file_type: &'static FileType,
    /// One format for everything that is converted at all.
    pub pure: bool,
    /// Keeps `output.weight` as it is.
    pub leave_output: bool,
    /// For the output matrix.
    pub output_format: Option<Format>,
    /// For the embedding.
    pub embedding_format: Option<Format>,
    /// For tensors whose name a pattern is found in; the first that fits decides.
    pub overrides: Vec<(Regex, Format)>,
    /// Whether there is an importance matrix, which makes one precaution of the rules needless and brings another.
    pub has_imatrix: bool,
}

/// What becomes of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Its format in the new file.
    pub format: Format,
    /// What the rules wanted, where the tensor's rows do not divide into its blocks.
    pub instead_of: Option<Format>,
}

impl Recipe {
    /// Of only the main format and the rules.
    pub fn new(file_type: &'static FileType) -> Recipe {
        Recipe {
            file_type,
            pure: false,
            leave_output: false,
            output_format: None,
            embedding_format: None,
            overrides: Vec::new(),
            has_imatrix: false,
        }
    }

    /// A format for every tensor, in their order.
    pub fn choose(&self, tensors: &[TensorInfo]) -> Vec<Choice> {
        let layers = Layers {
            // Without an output matrix, the embedding is used in its place and deserves its bits.
            tied: !tensors.iter().any(|t| &*t.name == "output.weight"),
            shared_values: shared_values(tensors),
            n_values: count(tensors, is_values),
            n_down: count(tensors, is_down),
        };
        tensors.iter().map(|t| self.choice(t, &layers)).collect()
    }

    fn choice(&self, tensor: &TensorInfo, layers: &Layers) -> Choice {
        if !self.converts(tensor) {
            return Choice { format: tensor.format, instead_of: None };
        }
        let name = &*tensor.name;
        let explicit = match name {
            "token_embd.weight" => self.embedding_format,
            "output.weight" => self.output_format,
            _ => None,
        };
        // As elsewhere, one flag for a kind of tensor goes before patterns.
        let explicit =
            explicit.or_else(|| self.overrides.iter().find(|(re, _)| re.is_match(name)).map(|(_, f)| *f));
        let wanted =
            explicit.unwrap_or_else(|| match self.file_type.format.is_block_quantized() && !self.pure {
                true => self.by_rule(tensor, layers),
                false => self.file_type.format,
            });
        let format = fitting(wanted, tensor.dims.cols());
        Choice { format, instead_of: (format != wanted).then_some(wanted) }
    }

    /// Matrices are converted; vectors, norms, position tables and the gates of experts are not.
    fn converts(&self, tensor: &TensorInfo) -> bool {
        let name = &*tensor.name;
        let kept = ["_norm.weight", "ffn_gate_inp.weight"];
        let tables = ["position_embd.weight", "token_types.weight", "rope_freqs.weight"];
        name.ends_with("weight")
            && tensor.dims.iter().filter(|d| **d > 1).count() >= 2
            && !kept.iter().any(|part| name.contains(part))
            && !tables.contains(&name)
            && !(self.leave_output && name == "output.weight")
    }

    fn by_rule(&self, tensor: &TensorInfo, layers: &Layers) -> Format {
        let (name, FileType { format, mix, .. }) = (&*tensor.name, *self.file_type);
        let layer = layer_of(name);
        if name == "output.weight" || (layers.tied && name == "token_embd.weight") {
            let divides = tensor.dims.cols().is_multiple_of(format.block_len());
            return if format == Format::Q8_0 || !divides { Format::Q8_0 } else { Format::Q6_K };
        }
        if is_values(name) {
            return match mix {
                Mix::Medium if more_bits(layer, layers.n_values) => Format::Q6_K,
                Mix::Small if format == Format::Q4_K && layer < 4 => Format::Q5_K,
                _ if is_nonlinear(format) && layers.shared_values => Format::Q5_K,
                _ => format,
            };
        }
        if is_down(name) {
            let early = layer < layers.n_down / 8;
            return match (mix, format) {
                (Mix::Medium, _) if more_bits(layer, layers.n_down) => Format::Q6_K,
                (Mix::Small, Format::Q4_K) if early => Format::Q5_K,
                _ if is_nonlinear(format) && early && !self.has_imatrix => Format::Q5_K,
                // Importance can lead a scale without minimum astray in the first layers.
                (Mix::Plain, Format::Q4_0) if early && self.has_imatrix => Format::Q4_1,
                (Mix::Plain, Format::Q5_0) if early && self.has_imatrix => Format::Q5_1,
                _ => format,
            };
        }
        if name.contains("attn_qkv.weight") && mix == Mix::Medium {
            return if format == Format::Q4_K { Format::Q5_K } else { Format::Q6_K };
        }
        format
    }
}

/// What the rules need to know of all tensors.
struct Layers {
    tied: bool,
    /// Four query heads or more share the values of one.
    shared_values: bool,
    n_values: usize,
    n_down: usize,
}

fn count(tensors: &[TensorInfo], is: fn(&str) -> bool) -> usize {
    tensors.iter().filter(|t| is(&t.name)).count()
}

fn shared_values(tensors: &[TensorInfo]) -> bool {
    let rows = |part| tensors.iter().find(|t| t.name.contains(part)).map(|t| t.dims.rows());
    let (queries, values) = (rows("attn_q.weight"), rows("attn_v.weight"));
    queries.zip(values).is_some_and(|(queries, values)| queries >= values.saturating_mul(4))
}

fn is_nonlinear(format: Format) -> bool {
    matches!(format, Format::IQ4_NL | Format::IQ4_XS)
}

fn is_values(name: &str) -> bool {
    name.contains("attn_v.weight")
}

fn is_down(name: &str) -> bool {
    name.contains("ffn_down")
}

fn layer_of(name: &str) -> usize {
    name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok()).unwrap_or(0)
}

/// The first and the last eighth of the layers, and every third between them.
fn more_bits(layer: usize, n_layers: usize) -> bool {
    let eighth = n_layers / 8;
    layer < eighth
        || layer >= n_layers.saturating_mul(7) / 8
        || layer.checked_sub(eighth).is_some_and(|i| i % 3 == 2)
}

/// The format itself, or the nearest one whose blocks such rows divide into.
fn fitting(wanted: Format, cols: usize) -> Format {
    let next = match wanted {
        Format::Q4_K => Format::Q5_0,
        Format::Q5_K => Format::Q5_1,
        Format::Q6_K => Format::Q8_0,
        Format::IQ4_XS => Format::IQ4_NL,
        _ => Format::F16,
    };
    let fits = |format: Format| format.row_bytes(cols).is_some();
    [wanted, next].into_iter().find(|f| fits(*f)).unwrap_or(Format::F16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor_table::Dims;

    fn tensor(name: &str, dims: &[u64]) -> TensorInfo {
        let dims = Dims::new(dims).unwrap();
        TensorInfo { name: name.into(), dims, format: Format::F32, shard: 0, offset: 0, n_bytes: 0 }
    }

    fn of(recipe: &Recipe, tensors: &[TensorInfo]) -> Vec<Format> {
        recipe.choose(tensors).iter().map(|c| c.format).collect()
    }

    fn recipe(name: &str) -> Recipe {
        Recipe::new(FileType::parse(name).unwrap())
    }

    #[test]
    fn values_and_down_projections_get_six_bits_in_half_of_the_layers() {
        let tensors: Vec<_> = (0..16)
            .flat_map(|i| {
                ["attn_v", "ffn_down", "ffn_up"].map(|n| tensor(&format!("blk.{i}.{n}.weight"), &[256, 8]))
            })
            .collect();
        let formats = of(&recipe("Q4_K_M"), &tensors);
        for (i, layer) in formats.chunks(3).enumerate() {
            let more = [0, 1, 4, 7, 10, 13, 14, 15].contains(&i);
            let expected = if more { Format::Q6_K } else { Format::Q4_K };
            assert_eq!(layer, [expected, expected, Format::Q4_K], "layer {i}");
        }
        let small: Vec<_> = of(&recipe("q4_k_s"), &tensors).chunks(3).map(<[Format]>::to_vec).collect();
        assert_eq!(small[1], [Format::Q5_K, Format::Q5_K, Format::Q4_K]);
        assert_eq!(small[3], [Format::Q5_K, Format::Q4_K, Format::Q4_K]);
        assert_eq!(small[4], [Format::Q4_K; 3]);
        let pure = Recipe { pure: true, ..recipe("Q4_K_M") };
        assert!(of(&pure, &tensors).iter().all(|f| *f == Format::Q4_K));
    }

    #[test]
    fn levels_of_a_table_leave_shared_values_and_early_projections_to_five_bits() {
        let layer = |i, n_values| {
            let tensor = |(part, rows)| tensor(&format!("blk.{i}.{part}.weight"), &[256, rows]);
            [("attn_q", 64), ("attn_v", n_values), ("ffn_down", 64)].map(tensor)
        };
        let layers = |n_values| (0..8).flat_map(|i| layer(i, n_values)).collect::<Vec<_>>();
        let (five, four) = (Format::Q5_K, Format::IQ4_XS);
        let formats = of(&recipe("IQ4_XS"), &layers(16));
        assert_eq!(formats[..6], [four, five, five, four, five, four]);
        let with = Recipe { has_imatrix: true, ..recipe("IQ4_XS") };
        assert_eq!(of(&with, &layers(32))[..3], [four; 3]);
    }

    #[test]
    fn the_embedding_stands_in_for_a_missing_output_matrix() {
        let embedding = tensor("token_embd.weight", &[256, 100]);
        let output = tensor("output.weight", &[256, 100]);
        let q4 = recipe("Q4_0");
        assert_eq!(of(&q4, std::slice::from_ref(&embedding)), [Format::Q6_K]);
        let both = [embedding, output];
        assert_eq!(of(&q4, &both), [Format::Q4_0, Format::Q6_K]);
        assert_eq!(of(&recipe("Q8_0"), &both), [Format::Q8_0, Format::Q8_0]);
        let left = Recipe { leave_output: true, ..q4.clone() };
        assert_eq!(of(&left, &both), [Format::Q4_0, Format::F32]);
        let told = Recipe { output_format: Some(Format::F16), embedding_format: Some(Format::Q5_1), ..q4 };
        assert_eq!(of(&told, &both), [Format::Q5_1, Format::F16]);
        assert_eq!(of(&recipe("Q4_K_M"), &[tensor("output.weight", &[96, 9])]), [Format::Q8_0]);
    }

    #[test]
    fn rows_that_do_not_divide_fall_back_and_say_so() {
        let choice = |name: &str, cols| recipe(name).choose(&[tensor("blk.0.ffn_up.weight", &[cols, 8])])[0];
        for (name, wanted, got) in [
            ("Q4_K_S", Format::Q4_K, Format::Q5_0),
            ("Q5_K_S", Format::Q5_K, Format::Q5_1),
            ("Q6_K", Format::Q6_K, Format::Q8_0),
            ("IQ4_XS", Format::IQ4_XS, Format::IQ4_NL),
        ] {
            assert_eq!(choice(name, 576), Choice { format: got, instead_of: Some(wanted) });
            assert_eq!(choice(name, 512), Choice { format: wanted, instead_of: None });
            assert_eq!(choice(name, 100), Choice { format: Format::F16, instead_of: Some(wanted) });
        }
        assert_eq!(choice("Q8_0", 33).format, Format::F16);
    }

    #[test]
    fn vectors_norms_and_tables_stay_as_they_are() {
        let kept = [
            tensor("blk.0.attn_norm.weight", &[256]),
            tensor("blk.0.attn_q.bias", &[256]),
            tensor("blk.0.attn_q_norm.weight", &[64, 4]),
            tensor("position_embd.weight", &[256, 64]),
            tensor("blk.0.ffn_gate_inp.weight", &[256, 8]),
        ];
        assert!(of(&recipe("Q8_0"), &kept).iter().all(|f| *f == Format::F32));
    }

    #[test]
    fn the_first_pattern_that_is_found_in_a_name_decides() {
        let tensors = ["blk.1.ffn_up.weight", "blk.11.ffn_up.weight", "blk.1.attn_v.weight"];
        let tensors = tensors.map(|n| tensor(n, &[256, 8]));
        let overrides = [("blk.1\\.", Format::Q8_0), ("ffn", Format::Q6_K)];
        let overrides = overrides.map(|(p, f)| (Regex::new(p).unwrap(), f)).to_vec();
        let recipe = Recipe { overrides, ..recipe("Q4_0") };
        assert_eq!(of(&recipe, &tensors), [Format::Q8_0, Format::Q6_K, Format::Q8_0]);
    }

    #[test]
    fn importance_gives_the_first_down_projections_a_minimum() {
        let tensors: Vec<_> =
            (0..16).map(|i| tensor(&format!("blk.{i}.ffn_down.weight"), &[256, 8])).collect();
        let with = Recipe { has_imatrix: true, ..recipe("Q4_0") };
        assert_eq!(of(&with, &tensors)[..3], [Format::Q4_1, Format::Q4_1, Format::Q4_0]);
        assert!(of(&recipe("Q4_0"), &tensors).iter().all(|f| *f == Format::Q4_0));
    }
}
