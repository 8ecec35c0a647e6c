//! Chat templates: from a list of messages to the text a model was trained on.
//!
//! A template is a small Jinja program that comes with the model file, so it comes from a stranger. What it may use is
//! bounded before it runs and while it runs:
//!
//! | danger | bound |
//! |---|---|
//! | deep nesting, long expression chains | `scan` before the parser sees them, source at most 256 KiB |
//! | endless loops, doubling strings | fuel: 1 000 000 steps, a step also paying for 64 bytes |
//! | macros that call themselves | recursion limit of the engine |
//! | `range(10**9)` | ranges of at most 100 000 numbers |
//! | endless output | 8 MiB |
//! | values nested so deep that freeing them recurses | a thread of its own with 256 MiB of stack, address space only until used |
//! | comparing values that share their parts, which takes exponential time and no fuel | 10 seconds, then the caller has an error; the thread is left behind |
//! | files, environment, other templates | there is no loader, no `include`, `import` or `extends`, no host object |
//!
//! What breaks a bound is an error, like a `raise_exception` of the template itself.
//!
//! The dialect is that of Hugging Face's `apply_chat_template`: blocks trimmed on both sides, `break` and `continue`,
//! Python's string and dictionary methods, `tojson` without HTML escapes, `raise_exception`, `strftime_now` (in UTC),
//! `{% generation %}`. A test compares renderings with those of Jinja2 itself.
//!
//! Text and control tokens: a template's own words hold control tokens (`<|im_start|>`), a user's words must never
//! become one. [`ChatTemplate::render_segments`] keeps them apart, so that only the former are parsed as control tokens.

mod functions;
mod plain;
mod scan;
mod segments;

pub use plain::PlainTranscript;
pub use segments::Segment;

use crate::{LoadError, RunError};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use std::io;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Longest template; the longest known ones have about 40 KiB.
const MAX_SOURCE: usize = 256 << 10;
/// Steps of one rendering.
const FUEL: u64 = 1_000_000;
/// Frames of one rendering, a macro call counting as several.
const MAX_RECURSION: usize = 200;
/// Bytes of one rendering.
const MAX_OUTPUT: usize = 8 << 20;
/// Stack for parsing and rendering. A step can nest a value one level deeper, and freeing a level takes less than 256
/// bytes of stack: this covers every value that the fuel can pay for.
const STACK: usize = 256 << 20;
/// How long a caller waits. A usual rendering takes milliseconds, one that uses up all fuel a few seconds.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// The name in error messages.
const NAME: &str = "chat template";

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Arc<Environment<'static>>,
    source: String,
    bos: String,
    eos: String,
    control_tokens: Vec<String>,
    time_limit: Duration,
}

impl ChatTemplate {
    /// Compiles `source`; `bos` and `eos` are the texts of the model's first and last token, empty where it has none.
    ///
    /// Errors: a template that is too long, too deep or not well-formed.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<ChatTemplate, LoadError> {
        if source.len() > MAX_SOURCE {
            return Err(LoadError::Template(format!("it has {} bytes; allowed: {MAX_SOURCE}", source.len())));
        }
        let prepared = scan::prepare(source).map_err(LoadError::Template)?;
        let env = with_large_stack(TIME_LIMIT, || compile(prepared)).map_err(LoadError::Template)?;
        let env = env.map_err(|error| LoadError::Template(explain(&error)))?;
        Ok(ChatTemplate {
            env: Arc::new(env),
            source: source.to_owned(),
            bos: bos.to_owned(),
            eos: eos.to_owned(),
            control_tokens: Vec::new(),
            time_limit: TIME_LIMIT,
        })
    }

    /// Tells the template the texts of the vocabulary's control tokens. With them, [`Self::render_segments`] can treat
    /// more of an unusual template's text as its own: see there.
    pub fn set_control_tokens(&mut self, tokens: Vec<String>) {
        self.control_tokens = tokens.into_iter().filter(|t| !t.is_empty()).collect();
    }

    /// How long a rendering may take before it is given up; 10 seconds unless set.
    pub fn set_time_limit(&mut self, limit: Duration) {
        self.time_limit = limit;
    }

    /// The template as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The conversation as the model reads it. With `add_generation_prompt` it ends where the assistant's reply begins.
    ///
    /// Errors: what the template raises itself (roles that do not alternate, for instance), and broken bounds.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, RunError> {
        let env = Arc::clone(&self.env);
        let (bos, eos) = (Value::from(self.bos.as_str()), Value::from(self.eos.as_str()));
        let messages: Vec<Value> = messages
            .iter()
            .map(|m| Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())]))
            .collect();
        let context = [
            ("messages", Value::from(messages)),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            ("bos_token", bos),
            ("eos_token", eos),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ];
        with_large_stack(self.time_limit, move || render(&env, Value::from_pairs(context)))
            .and_then(|result| result)
            .map_err(RunError::Template)
    }
}

fn render(env: &Environment<'_>, context: Value) -> Result<String, String> {
    let template = env.get_template(NAME).map_err(|error| explain(&error))?;
    let mut output = Output { bytes: Vec::new(), overflowed: false };
    let result = template.render_captured_to(context, &mut output).map(drop);
    if output.overflowed {
        return Err(format!("it wrote more than {MAX_OUTPUT} bytes; shorten the conversation"));
    }
    result.map_err(|error| explain(&error))?;
    String::from_utf8(output.bytes).map_err(|error| error.to_string())
}

fn compile(source: String) -> Result<Environment<'static>, minijinja::Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(unknown_method_callback);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(MAX_RECURSION);
    // Debugging aids: one prints the engine's state, the other takes time with the square of a value's depth.
    env.remove_global("debug");
    env.remove_filter("pprint");
    functions::register(&mut env);
    env.add_template_owned(NAME, source)?;
    Ok(env)
}

/// Runs `work` on a thread with a stack of [`STACK`] bytes and waits for it at most as long as `limit`. A panic of the
/// engine ends there and becomes an error.
fn with_large_stack<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("chat-template".to_owned())
        .stack_size(STACK)
        .spawn(move || sender.send(work()))
        .map_err(|error| format!("no thread with {} MiB of stack: {error}", STACK >> 20))?;
    receiver.recv_timeout(limit).map_err(|error| match error {
        mpsc::RecvTimeoutError::Timeout => {
            format!("it was not finished after {} seconds", limit.as_secs_f32())
        }
        mpsc::RecvTimeoutError::Disconnected => {
            "the template engine failed; this is a defect, please report the template".to_owned()
        }
    })
}

/// The engine's message with its line, and what to make of a broken bound.
fn explain(error: &minijinja::Error) -> String {
    let line = error.line().map_or_else(String::new, |line| format!("line {line}: "));
    if error.kind() == ErrorKind::OutOfFuel {
        return format!("{line}more than {FUEL} steps; it loops, or the conversation is too long");
    }
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let mut text = format!("{line}{detail}");
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    if text.len() > 2000 {
        text = text.chars().take(2000).collect();
    }
    text
}

/// Collects a rendering up to [`MAX_OUTPUT`] bytes.
struct Output {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl io::Write for &mut Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len().saturating_add(bytes.len()) > MAX_OUTPUT {
            self.overflowed = true;
            return Err(io::Error::other("output too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
