//! GBNF, llama.cpp's notation of grammars, as Lark.
//!
//! GBNF knows characters only, Lark's matcher has terminals, which are regular, above them. So everything in a grammar that
//! is regular becomes terminals: whole rules as long as they lead to no rule that leads back to itself, and in the others
//! the longest runs of neighbours.
//!
//! ```text
//! root ::= "(" ws root ws ")" | [0-9]+ ws          start: r0
//! ws   ::= " "?                                    T1: (/ /)?
//!                                                  r0: X0 r0 X1 | X2
//!                                                  X0: /\(/ T1      X1: T1 /\)/      X2: /[0-9]/+ T1
//! ```

mod reader;

use reader::Reader;
use std::collections::HashMap;

/// Whether a line begins a rule of GBNF.
pub(super) fn looks_like(grammar: &str) -> bool {
    grammar.lines().any(|line| {
        let rest = line.trim_start().trim_start_matches(is_name);
        rest.len() < line.trim_start().len() && rest.trim_start().starts_with("::=")
    })
}

/// The same language as a Lark grammar; the error names a line.
pub(super) fn to_lark(grammar: &str) -> Result<String, String> {
    let Rules { names, bodies } = Reader::new(grammar).rules()?;
    let root = names.get("root").copied().ok_or("GBNF: there is no rule root")?;
    let mut writer = Writer { regular: regular(&bodies), out: String::new(), terminals: 0 };
    writer.out = format!("start: {}\n", writer.name(root));
    for (i, body) in bodies.iter().enumerate() {
        let line = format!("{}: {}\n", writer.name(i), writer.body(i, body));
        writer.out.push_str(&line);
    }
    Ok(writer.out)
}

#[derive(Debug)]
enum Node {
    /// A regular expression for a literal's or a class's characters.
    Characters(String),
    Empty,
    Rule(usize),
    Sequence(Vec<Node>),
    Choice(Vec<Node>),
    Repeated(Box<Node>, u32, Option<u32>),
}

struct Rules {
    names: HashMap<String, usize>,
    bodies: Vec<Node>,
}

/// For each rule, whether it leads to none that leads back to itself.
fn regular(bodies: &[Node]) -> Vec<bool> {
    let mut known = vec![false; bodies.len()];
    loop {
        let before = known.clone();
        for (place, body) in known.iter_mut().zip(bodies) {
            *place = *place || is_regular(body, &before);
        }
        if known == before {
            return known;
        }
    }
}

fn is_regular(node: &Node, rules: &[bool]) -> bool {
    match node {
        Node::Characters(_) | Node::Empty => true,
        Node::Rule(i) => rules.get(*i).copied().unwrap_or(false),
        Node::Sequence(nodes) | Node::Choice(nodes) => nodes.iter().all(|node| is_regular(node, rules)),
        Node::Repeated(node, ..) => is_regular(node, rules),
    }
}

struct Writer {
    regular: Vec<bool>,
    out: String,
    /// Terminals made of neighbours so far.
    terminals: usize,
}

impl Writer {
    fn name(&self, rule: usize) -> String {
        let letter = if self.regular.get(rule) == Some(&true) { 'T' } else { 'r' };
        format!("{letter}{rule}")
    }

    fn body(&mut self, rule: usize, body: &Node) -> String {
        if self.regular.get(rule) == Some(&true) { self.terminal(body) } else { self.rule(body) }
    }

    /// A node as part of a terminal.
    fn terminal(&self, node: &Node) -> String {
        let all = |nodes: &[Node], between: &str| {
            nodes.iter().map(|node| self.terminal(node)).collect::<Vec<_>>().join(between)
        };
        match node {
            Node::Characters(regex) => format!("/{regex}/"),
            Node::Empty => "\"\"".to_owned(),
            Node::Rule(i) => self.name(*i),
            Node::Sequence(nodes) => all(nodes, " "),
            Node::Choice(nodes) => format!("({})", all(nodes, " | ")),
            Node::Repeated(node, least, most) => repeated(&self.terminal(node), *least, *most),
        }
    }

    /// A node as part of a rule.
    fn rule(&mut self, node: &Node) -> String {
        match node {
            _ if is_regular(node, &self.regular) => self.neighbours(std::slice::from_ref(node)),
            Node::Sequence(nodes) => {
                let mut parts = Vec::new();
                let mut rest = nodes.as_slice();
                while let Some((first, after)) = rest.split_first() {
                    let run = rest.iter().take_while(|node| is_regular(node, &self.regular)).count();
                    match rest.split_at_checked(run) {
                        Some((run, after)) if !run.is_empty() => {
                            parts.push(self.neighbours(run));
                            rest = after;
                        }
                        _ => {
                            parts.push(self.rule(first));
                            rest = after;
                        }
                    }
                }
                parts.join(" ")
            }
            Node::Choice(nodes) => {
                let parts: Vec<_> = nodes.iter().map(|node| self.rule(node)).collect();
                format!("({})", parts.join(" | "))
            }
            Node::Repeated(node, least, most) => repeated(&self.rule(node), *least, *most),
            Node::Rule(i) => self.name(*i),
            Node::Characters(_) | Node::Empty => self.terminal(node),
        }
    }

    /// A terminal of its own for nodes that follow each other.
    fn neighbours(&mut self, nodes: &[Node]) -> String {
        if let [Node::Rule(i)] = nodes {
            return self.name(*i);
        }
        let name = format!("X{}", self.terminals);
        self.terminals = self.terminals.saturating_add(1);
        let parts: Vec<_> = nodes.iter().map(|node| self.terminal(node)).collect();
        let line = format!("{name}: {}\n", parts.join(" "));
        self.out.push_str(&line);
        name
    }
}

fn repeated(what: &str, least: u32, most: Option<u32>) -> String {
    match (least, most) {
        (0, None) => format!("({what})*"),
        (1, None) => format!("({what})+"),
        (0, Some(1)) => format!("({what})?"),
        (n, None) => format!("({what}){{{n},}}"),
        (n, Some(m)) => format!("({what}){{{n},{m}}}"),
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_lead_to_themselves_stay_rules_and_their_neighbours_become_terminals() {
        let lark =
            to_lark("root ::= \"(\" ws root ws \")\" | [0-9]+ ws # a comment\nws ::= \" \"?\n").unwrap();
        assert_eq!(
            lark,
            "start: r0\nX0: /\\u{28}/ T1\nX1: T1 /\\u{29}/\nX2: (/[0-9]/)+ T1\nr0: (X0 r0 X1 | X2)\nT1: (/\\u{20}/)?\n"
        );
        assert_eq!(to_lark("root ::= \"a\\x41\\u00e9\"").unwrap(), "start: T0\nT0: /aA\\u{E9}/\n");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (grammar, wrong) in [
            ("", "no rule root"),
            ("root ::= x", "no rule x"),
            ("root ::= \"a\"\nroot ::= \"b\"", "line 2: rule root stands twice"),
            ("root ::= \"a", "\" is expected"),
            ("root ::=\n [a", "line 2: ] is expected"),
            ("root ::= [z-a]", "the smaller one"),
            ("root ::= \"a\"{3,2}", "the smaller one"),
            ("root ::= \"a\"{9999}", "up to 2000"),
            ("root ::= (\"a\"", ") is expected"),
            ("root ::= \"a\")", "a rule is expected"),
            ("root ::= <think>", "tokens in grammars"),
            ("root ::= \"\\ud800\"", "hexadecimal"),
            ("root ::= []", "without characters"),
        ] {
            let error = to_lark(grammar).unwrap_err();
            assert!(error.contains(wrong), "{grammar:?}: {error}");
        }
        assert!(to_lark(&format!("root ::= {}\"a\"", "(".repeat(100))).unwrap_err().contains("parentheses"));
    }

    #[test]
    fn gbnf_is_told_from_lark() {
        assert!(looks_like("# json\nroot ::= \"a\"") && looks_like("  my-rule::= x"));
        assert!(!looks_like("start: \"::=\"") && !looks_like("start: A\nA: /a::=/"));
    }
}
