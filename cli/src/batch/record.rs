//! Records of the input, and what a model is asked for by each.

use crate::chat::prompt::{Form, template};
use anyhow::{Context, Result, bail};
use gable_model::batch::Request;
use gable_model::chat_template::Message;
use gable_model::constraint::{Constraint, Grammars};
use gable_model::generate::GenerateOptions;
use gable_model::model::Model;
use gable_model::sampler::{Sampler, SamplerConfig};
use gable_model::tokenizer::EncodeOptions;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::cell::OnceCell;
use std::collections::HashMap;
use std::path::Path;

/// Where a record's request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
}

/// A line of the input.
#[derive(Debug)]
pub struct Record {
    /// Its name, unique in the file.
    pub custom_id: String,
    /// `None` for one that is unknown, which is answered by an error.
    pub endpoint: Option<Endpoint>,
    url: String,
    body: Value,
}

/// All records of a file. Whatever has no name, or one that was there, makes the file useless and is an error.
pub fn read(path: &Path, text: &str) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut lines: HashMap<String, usize> = HashMap::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let number = i.saturating_add(1);
        let record = record(line).with_context(|| format!("{}, line {number}", path.display()))?;
        if let Some(first) = lines.insert(record.custom_id.clone(), number) {
            bail!(
                "{}: lines {first} and {number} have the same custom_id {:?}",
                path.display(),
                record.custom_id
            );
        }
        records.push(record);
    }
    Ok(records)
}

fn record(line: &str) -> Result<Record> {
    let mut value: Value = serde_json::from_str(line).context("is not JSON")?;
    let Some(id) = value.get("custom_id").and_then(Value::as_str).filter(|id| !id.is_empty()) else {
        bail!(
            "has no custom_id; write {{\"custom_id\": NAME, \"url\": \"/v1/chat/completions\", \"body\": {{...}}}}"
        );
    };
    let custom_id = id.to_owned();
    let url = value.get("url").and_then(Value::as_str).unwrap_or_default().to_owned();
    let endpoint = match url.as_str() {
        "/v1/chat/completions" => Some(Endpoint::Chat),
        "/v1/completions" => Some(Endpoint::Completions),
        _ => None,
    };
    let body = value.get_mut("body").map(Value::take).unwrap_or_default();
    Ok(Record { custom_id, endpoint, url, body })
}

/// Makes requests of records.
pub struct Requests<'a> {
    model: &'a Model,
    form: Option<Form>,
    sampling: SamplerConfig,
    options: GenerateOptions,
    /// Made when the first record asks for a form.
    grammars: OnceCell<Grammars>,
}

impl<'a> Requests<'a> {
    /// With these defaults.
    pub fn new(model: &'a Model, sampling: SamplerConfig, options: GenerateOptions) -> Result<Self> {
        let source = model.chat_template();
        let form =
            source.map(|source| template(source, model.tokenizer()).map(|t| Form::Template(Box::new(t))));
        Ok(Requests { model, form: form.transpose()?, sampling, options, grammars: OnceCell::new() })
    }

    /// What answers name as the model.
    pub fn model_name(&self) -> &'a str {
        self.model.name()
    }

    /// What a record asks for, or what is wrong with it.
    pub fn request(&self, id: usize, record: &Record) -> Result<Request> {
        let Value::Object(body) = &record.body else { bail!("body is missing or no object") };
        let tokenizer = self.model.tokenizer();
        let prompt = match record.endpoint {
            Some(Endpoint::Completions) => {
                let Some(text) = body.get("prompt").and_then(Value::as_str) else {
                    bail!("prompt is missing or no string");
                };
                let encode = EncodeOptions { add_special: true, parse_special: false };
                let mut ids = tokenizer.encode(text, encode)?;
                if tokenizer.adds_eos() {
                    ids.pop();
                }
                ids
            }
            Some(Endpoint::Chat) => {
                let Some(form) = &self.form else {
                    bail!("{}: base model, no chat template; use /v1/completions", self.model.name());
                };
                form.prompt(&messages(body)?, tokenizer)?.ids
            }
            None => bail!("url is {:?}; allowed: /v1/chat/completions, /v1/completions", record.url),
        };
        let config = self.sampling(body, &record.custom_id)?;
        let mut sampler = Sampler::new(config, self.model.config().vocab_size)?;
        if let Some(form) = self.response_format(body)? {
            sampler.constrain(form);
        }
        Ok(Request { id, prompt, sampler, options: self.options(body)? })
    }

    /// What form the answer is to have, if any.
    fn response_format(&self, body: &Map<String, Value>) -> Result<Option<Constraint>> {
        let Some(format) = body.get("response_format").filter(|format| !format.is_null()) else {
            return Ok(None);
        };
        let schema = match format.get("type").and_then(Value::as_str) {
            Some("text") => return Ok(None),
            Some("json_object") => json!({ "type": "object" }),
            Some("json_schema") => {
                let schema = format.get("json_schema").and_then(|s| s.get("schema")).cloned();
                schema.context("response_format: json_schema has no schema")?
            }
            _ => bail!("response_format.type is none of text, json_object, json_schema"),
        };
        let grammars = match self.grammars.get() {
            Some(grammars) => grammars,
            None => {
                let grammars = Grammars::new(self.model.tokenizer())?;
                self.grammars.get_or_init(|| grammars)
            }
        };
        Ok(Some(grammars.json_schema_value(schema)?))
    }

    fn sampling(&self, body: &Map<String, Value>, custom_id: &str) -> Result<SamplerConfig> {
        let mut config = self.sampling.clone();
        config.seed = match whole(body, "seed")? {
            Some(seed) => seed,
            None => seed_of(self.sampling.seed, custom_id),
        };
        for (key, place) in [
            ("temperature", &mut config.temperature),
            ("top_p", &mut config.top_p),
            ("min_p", &mut config.min_p),
            ("presence_penalty", &mut config.presence_penalty),
            ("frequency_penalty", &mut config.frequency_penalty),
        ] {
            if let Some(value) = number(body, key)? {
                *place = value;
            }
        }
        if let Some(k) = whole(body, "top_k")? {
            config.top_k = usize::try_from(k).unwrap_or(usize::MAX);
        }
        match body.get("logit_bias") {
            None | Some(Value::Null) => {}
            Some(Value::Object(biases)) => {
                for id in biases.keys() {
                    let pair = id.parse().ok().zip(number(biases, id)?);
                    config
                        .logit_bias
                        .push(pair.with_context(|| format!("logit_bias: {id:?} is no token id"))?);
                }
            }
            Some(_) => bail!("logit_bias is no object of token ids and numbers"),
        }
        config.validate()?;
        Ok(config)
    }

    fn options(&self, body: &Map<String, Value>) -> Result<GenerateOptions> {
        for (key, value) in body {
            match (key.as_str(), value) {
                (_, Value::Null)
                | ("n", Value::Number(_))
                | ("stream", Value::Bool(false))
                | (
                    "model"
                    | "messages"
                    | "prompt"
                    | "max_tokens"
                    | "max_completion_tokens"
                    | "temperature"
                    | "top_p"
                    | "top_k"
                    | "min_p"
                    | "seed"
                    | "stop"
                    | "presence_penalty"
                    | "frequency_penalty"
                    | "logit_bias"
                    | "response_format"
                    | "user"
                    | "metadata"
                    | "store"
                    | "service_tier",
                    _,
                ) => {}
                _ => bail!("{key} is not supported"),
            }
        }
        if whole(body, "n")?.is_some_and(|n| n != 1) {
            bail!("n is not 1; write a record for each answer");
        }
        let mut options = self.options.clone();
        if let Some(n) = whole(body, "max_completion_tokens")?.or(whole(body, "max_tokens")?) {
            options.max_tokens = usize::try_from(n).unwrap_or(usize::MAX);
        }
        match body.get("stop") {
            None | Some(Value::Null) => {}
            Some(Value::String(stop)) => options.stop = vec![stop.clone()],
            Some(Value::Array(stops)) => {
                let stops: Option<Vec<_>> = stops.iter().map(|s| s.as_str().map(str::to_owned)).collect();
                options.stop = stops.context("stop holds something other than strings")?;
            }
            Some(_) => bail!("stop is no string and no list of strings"),
        }
        Ok(options)
    }
}

/// A seed that belongs to the record, wherever it stands.
fn seed_of(seed: u64, custom_id: &str) -> u64 {
    let hash = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(custom_id).finalize();
    hash.iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn number(body: &Map<String, Value>, key: &str) -> Result<Option<f32>> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "what a sampler takes; its range is checked there"
        )]
        Some(value) => match value.as_f64() {
            Some(x) => Ok(Some(x as f32)),
            None => bail!("{key} is {value}; allowed: a number"),
        },
    }
}

fn whole(body: &Map<String, Value>, key: &str) -> Result<Option<u64>> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(n) => Ok(Some(n)),
            None => bail!("{key} is {value}; allowed: whole numbers from 0"),
        },
    }
}

fn messages(body: &Map<String, Value>) -> Result<Vec<Message>> {
    let Some(list) = body.get("messages").and_then(Value::as_array).filter(|list| !list.is_empty()) else {
        bail!("messages are missing or no list");
    };
    list.iter()
        .map(|message| {
            let role = message.get("role").and_then(Value::as_str).context("a message has no role")?;
            let content = match message.get("content") {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Array(parts)) => {
                    let texts: Option<Vec<_>> =
                        parts.iter().map(|p| p.get("text").and_then(Value::as_str)).collect();
                    texts.context("a message has a part that is no text")?.concat()
                }
                _ => bail!("a message has no content"),
            };
            Ok(Message::new(role, content))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_whose_records_have_no_names_or_equal_ones_is_an_error() {
        let read = |text: &str| super::read(Path::new("in.jsonl"), text).map(|r| r.len());
        let error = |text: &str| format!("{:#}", read(text).unwrap_err());
        assert_eq!(read("\n{\"custom_id\": \"a\"}\n\n{\"custom_id\": \"b\", \"url\": \"/x\"}\n").unwrap(), 2);
        assert!(error("{").contains("in.jsonl, line 1: is not JSON"));
        assert!(error("\n{\"custom_id\": 7}").contains("line 2: has no custom_id"));
        let twice = "{\"custom_id\": \"a\"}\n\n{\"custom_id\": \"a\"}";
        assert!(error(twice).contains("lines 1 and 3 have the same custom_id \"a\""));
    }

    #[test]
    fn a_record_has_a_seed_of_its_own() {
        let seeds = [seed_of(0, "a"), seed_of(0, "b"), seed_of(1, "a")];
        assert!(seeds[0] != seeds[1] && seeds[0] != seeds[2]);
        assert_eq!(seeds[0], seed_of(0, "a"));
    }
}
