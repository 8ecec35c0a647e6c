//! Conversation with a model that was never taught to converse.
//!
//! A base model continues text. Given a transcript with names it writes the next line of the transcript, and then the
//! other speaker's, so its text is cut at the next name:
//!
//! ```text
//! You're an apple.
//! User: Give me a bunnn
//! Apple:
//! ```

use super::Message;
use crate::RunError;

/// A conversation written as a transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainTranscript {
    names: (String, String),
    system: String,
}

impl PlainTranscript {
    /// A transcript between `names.0`, the user, and `names.1`, the model, under the heading `system`, which may be
    /// empty.
    ///
    /// Errors: a name that is empty, has a colon or a line break, or two equal names.
    pub fn new(names: (String, String), system: String) -> Result<PlainTranscript, RunError> {
        let bad = |name: &str| name.trim().is_empty() || name.contains([':', '\n', '\r']);
        if bad(&names.0) || bad(&names.1) || names.0 == names.1 {
            return Err(RunError::Option {
                name: "names",
                found: format!("{:?}, {:?}", names.0, names.1),
                allowed: "two different names without colon and line break",
            });
        }
        Ok(PlainTranscript { names, system })
    }

    /// The transcript up to the colon after which the model's reply begins. Turns of the role `assistant` are the
    /// model's, those of `system` stand without a name, all others are the user's.
    pub fn render(&self, messages: &[Message]) -> String {
        let mut text = String::new();
        if !self.system.trim().is_empty() {
            text.push_str(self.system.trim());
            text.push('\n');
        }
        for message in messages {
            let content = message.content.trim();
            match message.role.as_str() {
                "system" => text.push_str(content),
                "assistant" => text.push_str(&format!("{}: {content}", self.names.1)),
                _ => text.push_str(&format!("{}: {content}", self.names.0)),
            }
            text.push('\n');
        }
        text.push_str(&self.names.1);
        text.push(':');
        text
    }

    /// Texts before which a reply ends: a line that begins with either name.
    pub fn stop_strings(&self) -> [String; 2] {
        [format!("\n{}:", self.names.0), format!("\n{}:", self.names.1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apple() -> PlainTranscript {
        PlainTranscript::new(("User".to_owned(), "Apple".to_owned()), "You're an apple.".to_owned()).unwrap()
    }

    #[test]
    fn the_apple_of_the_notes_is_asked() {
        let turns = [Message::new("user", "Give me a bunnn")];
        assert_eq!(apple().render(&turns), "You're an apple.\nUser: Give me a bunnn\nApple:");
        assert_eq!(apple().stop_strings(), ["\nUser:", "\nApple:"]);
    }

    #[test]
    fn later_turns_follow_line_by_line() {
        let turns =
            [Message::new("user", "a "), Message::new("assistant", " b\n"), Message::new("user", "c")];
        assert_eq!(apple().render(&turns), "You're an apple.\nUser: a\nApple: b\nUser: c\nApple:");
        let bare = PlainTranscript::new(("A".to_owned(), "B".to_owned()), String::new()).unwrap();
        assert_eq!(bare.render(&[]), "B:");
    }

    #[test]
    fn names_that_could_not_be_found_again_are_refused() {
        for (user, model) in [("", "B"), ("A:", "B"), ("A", "B\nC"), ("A", "A"), (" ", "B")] {
            let error = PlainTranscript::new((user.to_owned(), model.to_owned()), String::new()).unwrap_err();
            assert!(error.to_string().contains("two different names"), "{error}");
        }
    }
}
