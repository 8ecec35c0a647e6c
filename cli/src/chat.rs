//! `gable chat`: talks with a model.
//!
//! Every turn renders the whole conversation and turns it into tokens again; what the session has already read of them
//! stays, and only the rest passes through the model.

mod input;
pub mod prompt;

use crate::catalogue;
use crate::exit::{Interrupted, say};
use crate::interrupt::Interrupt;
use crate::options::{ContinueArgs, Saving, ShiftArgs, read_text, usage};
use crate::run::{Checked, say_timings};
use anyhow::{Context, Result, bail};
use gable_kernels::Kernels;
use gable_model::chat_template::{Message, PlainTranscript};
use gable_model::generate::{GenerateOptions, StopReason, generate};
use gable_model::model::Model;
use gable_model::sampler::Sampler;
use gable_model::session::{Session, remaining};
use gable_model::{LoadError, RunError};
use input::{Input, Line};
use prompt::Form;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Options of `gable chat`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gable chat
  gable chat --system \"You're an apple.\" --show-prompt
  gable chat -m gemma3 --plain --names User,Apple
  gable chat -m model.gguf --temp 0 -n 64 < questions.txt

In the conversation: /clear begins anew, /regen answers again, /exit leaves, Ctrl-C stops an answer.")]
pub struct ChatArgs {
    #[command(flatten)]
    conversation: ConversationArgs,
    #[command(flatten)]
    how: ContinueArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Conversation")]
struct ConversationArgs {
    /// What the model is told first (-sys)
    #[arg(long, visible_alias = "system-prompt", value_name = "TEXT")]
    system: Option<String>,
    /// Shows on stderr the exact text that the model is given
    #[arg(long)]
    show_prompt: bool,
    /// Jinja source to use instead of the model's chat template
    #[arg(long, value_name = "JINJA")]
    chat_template: Option<String>,
    /// The same, from a file
    #[arg(long, value_name = "FILE", conflicts_with = "chat_template")]
    chat_template_file: Option<PathBuf>,
    /// Writes the conversation as a plain transcript, for base models
    #[arg(long, conflicts_with_all = ["chat_template", "chat_template_file"])]
    plain: bool,
    /// Names in the transcript: yours and the model's
    #[arg(long, value_name = "YOU,MODEL", requires = "plain", default_value = "User,Assistant")]
    names: String,
    /// Shows the timings of every reply
    #[arg(long)]
    show_timings: bool,
}

const HELP: &str = "/regen  another reply   /read FILE  a file's text, before your next message\n\
                    /clear  begin anew      /exit  or Ctrl-D ends";

/// Runs the command.
pub fn run(args: &ChatArgs) -> Result<()> {
    let how = &args.how;
    how.session.threads.placement.pin()?;
    let mut config = how.sampling.config()?;
    let kernels = Kernels::new().map_err(|error| usage(error.to_string()))?;
    let model = how.model.open_to_run()?;
    let form = form(&args.conversation, &model)?;
    how.generation.ban_end(&mut config, model.tokenizer());
    let seed = config.seed;
    let mut sampler = Sampler::new(config, model.config().vocab_size)?;
    how.form.constrain(&mut sampler, model.tokenizer())?;
    let mut session = how.session.session(&model, how.draft.max_logits())?;
    let mut input = Input::open(&catalogue::cache_dir().join("history"))?;
    let interrupt = Interrupt::watch()?;
    session.set_cancel(interrupt.flag());
    say(&format!("{}: {}, seed {seed}", model.name(), how.session.features(kernels)));
    if input.is_terminal() {
        say(HELP);
    }
    let mut options = GenerateOptions { draft: how.draft.draft, ..how.generation.options() };
    options.stop.extend(form.stop_strings());
    let restored = kept_messages(&how.saved.restore(&mut session)?)?;
    let shift = &how.shift;
    let mut chat = Chat {
        args: &args.conversation,
        shift,
        first_prompt: None,
        model,
        form,
        session,
        sampler,
        interrupt,
        options,
    };
    let mut messages = restored.unwrap_or_else(|| chat.beginning());
    let done = chat.talk(&mut input, &mut messages);
    if how.saved.saving() != Saving::Never {
        how.saved.save(&chat.session, &note_of(&messages))?;
    }
    done
}

/// Messages as they are kept with a session.
fn note_of(messages: &[Message]) -> Vec<u8> {
    let messages: Vec<_> =
        messages.iter().map(|m| serde_json::json!({ "role": m.role, "content": m.content })).collect();
    serde_json::Value::from(messages).to_string().into_bytes()
}

/// The messages of a chat that was kept, if it was one.
fn kept_messages(note: &[u8]) -> Result<Option<Vec<Message>>> {
    if note.is_empty() {
        return Ok(None);
    }
    let list: serde_json::Value = serde_json::from_slice(note).context("the saved messages are damaged")?;
    if list.is_object() {
        return Ok(None); // a text's
    }
    let message = |m: &serde_json::Value| {
        let text = |key: &str| m.get(key)?.as_str().map(str::to_owned);
        Some(Message::new(text("role")?, text("content")?))
    };
    let messages: Option<Vec<Message>> = list.as_array().and_then(|list| list.iter().map(message).collect());
    let messages = messages.context("the saved messages are damaged")?;
    say(&format!("the conversation has {} messages; /clear begins anew", messages.len()));
    Ok(Some(messages))
}

/// How the conversation is written: by a template, or as a transcript if asked for.
fn form(args: &ConversationArgs, model: &Arc<Model>) -> Result<Form> {
    if args.plain {
        let Some((you, it)) = args.names.split_once(',') else {
            return Err(usage("--names needs two names, e.g. --names User,Apple"));
        };
        let names = (you.trim().to_owned(), it.trim().to_owned());
        let system = args.system.clone().unwrap_or_default();
        let transcript = PlainTranscript::new(names, system).map_err(|error| usage(error.to_string()))?;
        return Ok(Form::Plain(transcript));
    }
    let from_file = args.chat_template_file.as_deref().map(read_text).transpose()?;
    let source = args.chat_template.as_deref().or(from_file.as_deref()).or(model.chat_template());
    let Some(source) = source else {
        bail!(
            "{}: base model, no chat template; continue a text with `gable run`, or converse with \
             `gable chat --plain --names User,Apple --system \"You're an apple.\"`",
            model.name()
        );
    };
    let template = prompt::template(source, model.tokenizer()).map_err(|error| match error {
        LoadError::Template(_) => anyhow::anyhow!("{error}; --chat-template-file gives another"),
        error => error.into(),
    })?;
    Ok(Form::Template(Box::new(template)))
}

struct Chat<'a> {
    args: &'a ConversationArgs,
    shift: &'a ShiftArgs,
    /// Tokens of the first prompt.
    first_prompt: Option<usize>,
    model: Arc<Model>,
    form: Form,
    session: Session,
    sampler: Sampler,
    interrupt: Interrupt,
    options: GenerateOptions,
}

impl Chat<'_> {
    fn talk(&mut self, input: &mut Input, messages: &mut Vec<Message>) -> Result<()> {
        let mut read = String::new(); // by /read, for the next message
        while let Some(line) = input.next()? {
            let line = match line {
                Line::Text(line) => line,
                Line::Interrupted => return Err(Interrupted.into()),
            };
            match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
                ("", _) => continue,
                ("/exit" | "/quit", "") => break,
                ("/help", "") => say(HELP),
                ("/clear", "") => {
                    *messages = self.beginning();
                    read.clear();
                }
                ("/read", path) => match read_text(Path::new(path.trim())) {
                    Ok(text) => {
                        say(&format!("{} bytes, to stand before your next message", text.len()));
                        read = text;
                    }
                    Err(error) => say(&format!("error: {error:#}")),
                },
                ("/regen", "") => {
                    if messages.last().is_some_and(|m| m.role == "assistant") {
                        messages.pop();
                        self.turn(messages, input)?;
                    } else {
                        say("there is no reply yet");
                    }
                }
                (word, _) if is_command(word) => {
                    say(&format!("no command is called {word}\n{HELP}"));
                }
                _ => {
                    let text = if read.is_empty() { line } else { format!("{read}\n\n{line}") };
                    read.clear();
                    messages.push(Message::new("user", text));
                    self.turn(messages, input)?;
                }
            }
        }
        Ok(())
    }

    /// The messages before the first of the user.
    fn beginning(&self) -> Vec<Message> {
        match (&self.form, &self.args.system) {
            (Form::Template(_), Some(system)) => vec![Message::new("system", system.clone())],
            _ => Vec::new(),
        }
    }

    /// One reply. A conversation that a person holds survives a turn that fails, without the message that failed.
    fn turn(&mut self, messages: &mut Vec<Message>, input: &Input) -> Result<()> {
        match self.reply(messages) {
            Ok(reply) => messages.push(Message::new("assistant", reply)),
            Err(error) => {
                // What is kept of the conversation ends with a reply.
                messages.pop();
                if !(input.is_terminal() && error.is::<RunError>()) {
                    return Err(error);
                }
                say(&format!("error: {error:#}; /clear begins anew"));
            }
        }
        Ok(())
    }

    fn reply(&mut self, messages: &[Message]) -> Result<String> {
        let model = Arc::clone(&self.model);
        let tokenizer = model.tokenizer();
        let mut prompt = self.form.prompt(messages, tokenizer)?;
        if self.args.show_prompt {
            say(&prompt.text);
        }
        let first_prompt = *self.first_prompt.get_or_insert(prompt.ids.len());
        self.options.shift = self.shift.keep(first_prompt, self.session.max_positions())?;
        while let Some(keep) = self.options.shift.filter(|_| prompt.ids.len() >= self.session.max_positions())
            && let Some(ids) = remaining(&prompt.ids, keep)
        {
            prompt.ids = ids;
        }
        if prompt.ids.len() > self.session.max_positions() {
            let (needed, max) = (prompt.ids.len(), self.session.max_positions());
            return Err(RunError::ContextFull { needed, max }.into());
        }
        let new = self.keep_common(&prompt.ids)?;
        let mut out = Checked::new();
        let mut reply = String::new();
        let (session, sampler, options) = (&mut self.session, &mut self.sampler, &self.options);
        let plain = matches!(self.form, Form::Plain(_));
        let (stats, pressed) = self.interrupt.during(|| {
            generate(session, tokenizer, sampler, new, options, &mut |text| {
                // A transcript goes on after "Apple:" with a space, which no reader needs to see.
                let shown = if plain && reply.is_empty() { text.trim_start() } else { text };
                reply.push_str(shown);
                out.write(shown)
            })
        });
        let stats = stats?;
        let _ = out.write("\n");
        out.finish()?;
        if self.args.show_timings {
            say_timings(&stats);
        }
        if pressed {
            say("(stopped)");
        } else if stats.stop == StopReason::ContextFull {
            say(&format!(
                "(the context of {} tokens is full; /clear begins anew, -c makes it longer, --context-shift goes on)",
                self.session.max_positions()
            ));
        }
        Ok(reply)
    }

    /// Forgets what the session holds beyond the tokens that it has in common with `ids`, and gives the rest of them.
    fn keep_common<'i>(&mut self, ids: &'i [u32]) -> Result<&'i [u32]> {
        let common = self.session.keep_common(ids)?;
        let (kept, new) = ids.split_at_checked(common).unwrap_or((&[], ids));
        self.sampler.forget();
        for &id in kept {
            self.sampler.accept(id)?;
        }
        Ok(new)
    }
}

/// `/word`, as opposed to a message that begins with a path.
fn is_command(word: &str) -> bool {
    word.strip_prefix('/').is_some_and(|name| !name.is_empty() && name.chars().all(char::is_alphabetic))
}
