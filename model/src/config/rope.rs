//! How RoPE's frequencies were stretched, from both kinds of files.
//!
//! The two say YaRN's magnitude differently: a folder gives it whole (or lets it follow from the factor), a GGUF file gives
//! what it is multiplied with beyond what follows from the factor.

use super::{Keys, RopeFactors, bad};
use crate::LoadError;
use gable_kernels::rope::RopeScaling;
use serde_json::Value as Json;

/// Turns within the original context that bound YaRN's mixture, where a file does not say.
const BETA_FAST: f32 = 32.0;
const BETA_SLOW: f32 = 1.0;

/// `1 + m ln(factor) / 10`: by how much YaRN makes turned vectors longer.
pub(crate) fn yarn_magnitude(factor: f32, m: f32) -> f32 {
    if factor > 1.0 { 0.1 * m * factor.ln() + 1.0 } else { 1.0 }
}

pub(super) fn from_gguf(keys: &Keys<'_>, max_seq_len: usize) -> Result<RopeScaling, LoadError> {
    let factor: f32 = match keys.get("rope.scaling.factor")? {
        Some(factor) => factor,
        None => keys.get("rope.scale_linear")?.unwrap_or(1.0),
    };
    let kind: Option<&str> = keys.get("rope.scaling.type")?;
    match kind {
        None | Some("linear") if factor != 1.0 && factor != 0.0 => Ok(RopeScaling::Linear { factor }),
        None | Some("none" | "linear") => Ok(RopeScaling::None),
        Some("longrope") => long(keys, max_seq_len),
        Some("yarn") => {
            let number = |name: &str, default: f32| -> Result<f32, LoadError> {
                Ok(keys.get(&format!("rope.scaling.{name}"))?.unwrap_or(default))
            };
            for (name, usual) in [("yarn_ext_factor", 1.0), ("yarn_log_multiplier", 0.0)] {
                let found = number(name, usual)?;
                if found != usual {
                    return Err(bad(
                        &format!("rope.scaling.{name}"),
                        format!("is {found}; supported: {usual}"),
                    ));
                }
            }
            Ok(RopeScaling::Yarn {
                factor,
                original_context: original_context(
                    keys.get::<u64>("rope.scaling.original_context_length")?,
                    max_seq_len,
                )?,
                beta_fast: number("yarn_beta_fast", BETA_FAST)?,
                beta_slow: number("yarn_beta_slow", BETA_SLOW)?,
                truncate: true,
                attention_factor: yarn_magnitude(factor, 1.0)
                    * number("attn_factor", 1.0)?
                    * number("yarn_attn_factor", 1.0)?,
            })
        }
        Some(other) => Err(unsupported(other)),
    }
}

/// LongRoPE, whose factors are tensors.
pub(super) fn long(keys: &Keys<'_>, max_seq_len: usize) -> Result<RopeScaling, LoadError> {
    Ok(RopeScaling::LongRope {
        original_context: original_context(
            keys.get::<u64>("rope.scaling.original_context_length")?,
            max_seq_len,
        )?,
        attention_factor: keys.get("rope.scaling.attn_factor")?.unwrap_or(1.0),
    })
}

/// `json` are the RoPE parameters, `config` all that is around them.
pub(super) fn from_hf(
    json: Option<&Json>,
    config: &Json,
    max_seq_len: usize,
) -> Result<RopeScaling, LoadError> {
    let Some(json) = json.filter(|j| j.is_object()) else { return Ok(RopeScaling::None) };
    let number = |name: &str| json.get(name).and_then(Json::as_f64).map(|x| x as f32);
    let need =
        |name: &str| number(name).ok_or_else(|| bad(name, "is missing from the RoPE parameters".to_owned()));
    // Beside the parameters in configurations of Phi 3.
    let original = json.get(ORIGINAL).or(config.get(ORIGINAL)).and_then(Json::as_u64);
    match json.get("rope_type").or(json.get("type")).and_then(Json::as_str) {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: need("factor")? }),
        Some("llama3") => Ok(RopeScaling::Llama3 {
            factor: need("factor")?,
            low_freq_factor: need("low_freq_factor")?,
            high_freq_factor: need("high_freq_factor")?,
            original_context: need(ORIGINAL)? as u32,
        }),
        Some("yarn") => {
            let original_context = original_context(original, max_seq_len)?;
            let factor = number("factor").unwrap_or(max_seq_len as f32 / original_context as f32);
            let usual = match (number("mscale"), number("mscale_all_dim")) {
                (Some(above), Some(below)) if above != 0.0 && below != 0.0 => {
                    yarn_magnitude(factor, above) / yarn_magnitude(factor, below)
                }
                _ => yarn_magnitude(factor, 1.0),
            };
            Ok(RopeScaling::Yarn {
                factor,
                original_context,
                beta_fast: number("beta_fast").unwrap_or(BETA_FAST),
                beta_slow: number("beta_slow").unwrap_or(BETA_SLOW),
                truncate: json.get("truncate").and_then(Json::as_bool).unwrap_or(true),
                attention_factor: number("attention_factor").unwrap_or(usual),
            })
        }
        // "su" in the first configurations of Phi 3.
        Some("longrope" | "su") => {
            let original_context = original_context(original, max_seq_len)?;
            let factor = number("factor").unwrap_or(max_seq_len as f32 / original_context as f32);
            let usual = match factor > 1.0 {
                true => (1.0 + factor.ln() / (original_context as f32).ln()).sqrt(),
                false => 1.0,
            };
            Ok(RopeScaling::LongRope {
                original_context,
                attention_factor: number("attention_factor").unwrap_or(usual),
            })
        }
        Some(other) => Err(unsupported(other)),
    }
}

/// LongRoPE's factors.
pub(super) fn factors_from_hf(json: Option<&Json>) -> Result<Option<RopeFactors>, LoadError> {
    let list = |name: &str| {
        let Some(value) = json.and_then(|json| json.get(name)) else { return Ok(None) };
        let numbers = value.as_array().map(|all| all.iter().map(|x| x.as_f64().map(|x| x as f32)).collect());
        match numbers {
            Some(Some(numbers)) => Ok(Some::<Vec<f32>>(numbers)),
            _ => Err(bad(name, "is not a list of numbers".to_owned())),
        }
    };
    match (list("short_factor")?, list("long_factor")?) {
        (Some(short), Some(long)) => Ok(Some(RopeFactors { short, long: Some(long) })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(bad("long_factor", "is missing, but there is a short_factor".to_owned())),
        (None, Some(_)) => Err(bad("short_factor", "is missing, but there is a long_factor".to_owned())),
    }
}

const ORIGINAL: &str = "original_max_position_embeddings";

/// The context of the first training: the model's own where the file does not say.
fn original_context(found: Option<u64>, max_seq_len: usize) -> Result<u32, LoadError> {
    let n = found.unwrap_or(u64::try_from(max_seq_len).unwrap_or(u64::MAX));
    match u32::try_from(n) {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(bad(ORIGINAL, format!("is {n}; allowed: 1 to {}", u32::MAX))),
    }
}

fn unsupported(found: &str) -> LoadError {
    let supported = "none, linear, llama3, yarn, longrope".to_owned();
    LoadError::Unsupported { what: "RoPE scaling", found: found.to_owned(), supported }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn yarn(parameters: &Json, config: &Json) -> RopeScaling {
        from_hf(Some(parameters), config, 131_072).unwrap()
    }

    #[test]
    fn what_yarn_leaves_out_follows_from_the_rest() {
        let of = |factor, original_context, attention_factor| RopeScaling::Yarn {
            factor,
            original_context,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            attention_factor,
        };
        let plain = json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768 });
        assert_eq!(yarn(&plain, &json!({})), of(4.0, 32_768, 1.0 + 0.1 * 4f32.ln()));
        let beside = json!({ "original_max_position_embeddings": 16384 });
        assert_eq!(yarn(&json!({ "rope_type": "yarn" }), &beside), of(8.0, 16_384, 1.0 + 0.1 * 8f32.ln()));
        let equal = json!({ "rope_type": "yarn", "factor": 40.0, "mscale": 0.7, "mscale_all_dim": 0.7 });
        assert_eq!(yarn(&equal, &json!({})), of(40.0, 131_072, 1.0));
        let given = json!({ "rope_type": "yarn", "factor": 2.0, "attention_factor": 1.5, "mscale": 9.0 });
        assert_eq!(yarn(&given, &json!({})), of(2.0, 131_072, 1.5));
    }

    #[test]
    fn an_unknown_kind_is_refused_with_those_that_are_known() {
        let error =
            from_hf(Some(&json!({ "rope_type": "dynamic" })), &json!({}), 64).unwrap_err().to_string();
        assert!(error.contains("\"dynamic\"") && error.contains("linear, llama3, yarn"), "{error}");
    }
}
