//! GBNF's text to rules.

use super::{Node, Rules, is_name};
use std::collections::HashMap;
use std::fmt::Write;

/// Parentheses in parentheses: what the reader of the result can take.
const DEEPEST: usize = 24;
/// Most repetitions that can be asked for.
const MOST_REPEATED: u32 = 2000;
/// Most rules.
const MOST_RULES: usize = 4096;

/// A grammar's text and what was read of it.
pub(super) struct Reader<'g> {
    text: &'g str,
    at: usize,
    depth: usize,
    names: HashMap<String, usize>,
    bodies: Vec<Option<Node>>,
}

impl<'g> Reader<'g> {
    pub(super) fn new(text: &'g str) -> Reader<'g> {
        Reader { text, at: 0, depth: 0, names: HashMap::new(), bodies: Vec::new() }
    }

    /// All rules, each once, and none missing.
    pub(super) fn rules(mut self) -> Result<Rules, String> {
        loop {
            self.blank();
            if self.rest().is_empty() {
                break;
            }
            let name = self.name().ok_or_else(|| self.error("a rule is expected: name ::= ..."))?.to_owned();
            self.blank();
            if !self.take("::=") {
                return Err(self.error(&format!("::= is expected after {name}")));
            }
            let rule = self.rule(&name)?;
            let body = self.choice()?;
            match self.bodies.get_mut(rule) {
                Some(place @ None) => *place = Some(body),
                _ => return Err(self.error(&format!("rule {name} stands twice"))),
            }
        }
        let missing = |i: usize| self.names.iter().find(|(_, rule)| **rule == i).map_or("", |(name, _)| name);
        let bodies = self.bodies.iter_mut().map(Option::take).collect::<Vec<_>>();
        let bodies: Result<Vec<Node>, String> = bodies
            .into_iter()
            .enumerate()
            .map(|(i, body)| body.ok_or_else(|| format!("GBNF: there is no rule {}", missing(i))))
            .collect();
        Ok(Rules { bodies: bodies?, names: self.names })
    }

    /// The number of a rule, which may be read later.
    fn rule(&mut self, name: &str) -> Result<usize, String> {
        if let Some(rule) = self.names.get(name) {
            return Ok(*rule);
        }
        if self.bodies.len() >= MOST_RULES {
            return Err(self.error(&format!("more than {MOST_RULES} rules")));
        }
        self.bodies.push(None);
        let rule = self.bodies.len().saturating_sub(1);
        self.names.insert(name.to_owned(), rule);
        Ok(rule)
    }

    fn choice(&mut self) -> Result<Node, String> {
        let mut choices = vec![self.sequence()?];
        while self.take("|") {
            choices.push(self.sequence()?);
        }
        Ok(if choices.len() == 1 { choices.swap_remove(0) } else { Node::Choice(choices) })
    }

    /// Ends before `|`, `)`, the next rule, or the end.
    fn sequence(&mut self) -> Result<Node, String> {
        let mut nodes = Vec::new();
        loop {
            self.blank();
            let node = match self.rest().chars().next() {
                None | Some('|' | ')') => break,
                Some('"') => self.literal()?,
                Some('[') => self.class()?,
                Some('.') => {
                    self.take(".");
                    Node::Characters("(?s:.)".to_owned())
                }
                Some('(') => self.group()?,
                Some(c) if is_name(c) => {
                    let before = self.at;
                    let name = self.name().unwrap_or_default();
                    self.blank();
                    if self.rest().starts_with("::=") {
                        self.at = before;
                        break;
                    }
                    Node::Rule(self.rule(name)?)
                }
                Some('<' | '!') => return Err(self.error("tokens in grammars are not supported; write text")),
                Some(c) => return Err(self.error(&format!("{c:?} is not expected here"))),
            };
            nodes.push(self.repetition(node)?);
        }
        Ok(match nodes.len() {
            0 => Node::Empty,
            1 => nodes.swap_remove(0),
            _ => Node::Sequence(nodes),
        })
    }

    fn group(&mut self) -> Result<Node, String> {
        self.take("(");
        self.depth = self.depth.saturating_add(1);
        if self.depth > DEEPEST {
            return Err(self.error(&format!("more than {DEEPEST} parentheses in each other")));
        }
        let node = self.choice()?;
        if !self.take(")") {
            return Err(self.error(") is expected"));
        }
        self.depth = self.depth.saturating_sub(1);
        Ok(node)
    }

    /// What stands behind a node: nothing, or how often it is to be repeated.
    fn repetition(&mut self, node: Node) -> Result<Node, String> {
        self.blank();
        let (least, most) = match self.rest().chars().next() {
            Some('?') => (0, Some(1)),
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('{') => {
                let inside = self.rest().strip_prefix('{').and_then(|rest| rest.split_once('}'));
                let (inside, _) = inside.ok_or_else(|| self.error("} is expected"))?;
                let number = |text: &str| {
                    let n = text.trim().parse::<u32>().ok().filter(|n| *n <= MOST_REPEATED);
                    n.ok_or_else(|| {
                        self.error(&format!("{{{inside}}}: numbers up to {MOST_REPEATED} are expected"))
                    })
                };
                let range = match inside.split_once(',') {
                    None => (number(inside)?, Some(number(inside)?)),
                    Some((least, "")) => (number(least)?, None),
                    Some((least, most)) => (number(least)?, Some(number(most)?)),
                };
                if range.1.is_some_and(|most| most < range.0) {
                    return Err(self.error(&format!("{{{inside}}}: the second number is the smaller one")));
                }
                self.at = self.at.saturating_add(inside.len()).saturating_add(1);
                range
            }
            _ => return Ok(node),
        };
        self.at = self.at.saturating_add(1);
        Ok(Node::Repeated(Box::new(node), least, most))
    }

    fn literal(&mut self) -> Result<Node, String> {
        self.take("\"");
        let mut regex = String::new();
        while !self.take("\"") {
            escaped(self.character("\"")?, &mut regex);
        }
        Ok(if regex.is_empty() { Node::Empty } else { Node::Characters(regex) })
    }

    fn class(&mut self) -> Result<Node, String> {
        self.take("[");
        let mut regex = if self.take("^") { "[^".to_owned() } else { "[".to_owned() };
        let begin = regex.len();
        while !self.take("]") {
            let first = self.character("]")?;
            escaped(first, &mut regex);
            if self.rest().starts_with('-') && !self.rest().starts_with("-]") {
                self.take("-");
                let last = self.character("]")?;
                if last < first {
                    return Err(
                        self.error(&format!("{first:?}-{last:?}: the second character is the smaller one"))
                    );
                }
                regex.push('-');
                escaped(last, &mut regex);
            }
        }
        if regex.len() == begin {
            return Err(self.error("a class without characters"));
        }
        regex.push(']');
        Ok(Node::Characters(regex))
    }

    /// The next character of a literal or a class that `end` ends.
    fn character(&mut self, end: &str) -> Result<char, String> {
        let mut chars = self.rest().chars();
        let c = match chars.next() {
            None | Some('\n') => return Err(self.error(&format!("{end} is expected"))),
            Some('\\') => chars.next().unwrap_or('\\'),
            Some(c) => {
                self.at = self.at.saturating_add(c.len_utf8());
                return Ok(c);
            }
        };
        let digits = match c {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => 0,
        };
        self.at = self.at.saturating_add(1).saturating_add(c.len_utf8());
        let plain = match c {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            '\\' | '"' | '[' | ']' | '-' | '^' => c,
            _ if digits > 0 => {
                let hex = self.rest().get(..digits).filter(|hex| hex.chars().all(|c| c.is_ascii_hexdigit()));
                let code = hex.and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
                let Some(code) = code else {
                    return Err(
                        self.error(&format!("\\{c} needs {digits} hexadecimal digits of a character"))
                    );
                };
                self.at = self.at.saturating_add(digits);
                code
            }
            _ => return Err(self.error(&format!("\\{c} means nothing"))),
        };
        Ok(plain)
    }

    fn rest(&self) -> &'g str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, what: &str) -> bool {
        let found = self.rest().starts_with(what);
        if found {
            self.at = self.at.saturating_add(what.len());
        }
        found
    }

    fn name(&mut self) -> Option<&'g str> {
        let rest = self.rest();
        let after = rest.trim_start_matches(is_name);
        let name = rest.get(..rest.len().saturating_sub(after.len())).filter(|name| !name.is_empty())?;
        self.at = self.at.saturating_add(name.len());
        Some(name)
    }

    /// Passes over blanks, line breaks and comments.
    fn blank(&mut self) {
        loop {
            let rest = self.rest();
            let after = rest.trim_start();
            let comment = if after.starts_with('#') { after.lines().next().map_or(0, str::len) } else { 0 };
            self.at = self.text.len().saturating_sub(after.len()).saturating_add(comment);
            if comment == 0 {
                return;
            }
        }
    }

    fn error(&self, what: &str) -> String {
        let line = self.text.get(..self.at).unwrap_or(self.text).matches('\n').count().saturating_add(1);
        format!("GBNF, line {line}: {what}")
    }
}

/// A character in a regular expression, inside of a class or outside.
fn escaped(c: char, out: &mut String) {
    if c.is_ascii_alphanumeric() {
        out.push(c);
    } else {
        // Writing to a string cannot fail.
        let _ = write!(out, "\\u{{{:X}}}", u32::from(c));
    }
}
