//! What is known about a template before a parser sees it.
//!
//! A recursive-descent parser spends native stack on every level of nesting, and a stack that overflows cannot be
//! caught. So one flat pass over the source bounds every kind of depth first:
//!
//! - open statements (`{% if %}` inside `{% for %}` ...), where each `elif` counts as one more level, because it is
//!   an `if` inside the `else` for most parsers;
//! - open brackets inside one tag;
//! - links of one expression: `a ~ b ~ c`, `not not x`, `x if y else z if w else ...`, `a.b.c|f|g`. Such a chain is a
//!   tree as deep as it is long. A comma ends a link, so a long list or dictionary is no deep one.
//!
//! The pass follows the lexer's rules for what is a tag, a string, a comment or a raw block, so it sees the tags that
//! the parser will see. It also turns `{% generation %}`, which marks the assistant's words for training and has no
//! effect on the text, into `{% if true %}`.

/// Levels of open statements, and of open brackets.
const MAX_NESTING: usize = 64;
/// Links of one expression, over all its open brackets.
const MAX_CHAIN: usize = 512;

/// Statements with a body, closed by `end` + name. `set` is one only where it has no `=`.
const BODIES: [&str; 8] = ["if", "for", "macro", "call", "filter", "with", "autoescape", "block"];

/// The source with `generation` tags replaced, or why it is refused.
pub(super) fn prepare(source: &str) -> Result<String, String> {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    // One entry per open statement: the levels it stands for.
    let mut open: Vec<usize> = Vec::new();
    while let Some(start) = next_marker(rest) {
        let (text, tag) = rest.split_at(start);
        out.push_str(text);
        let consumed = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map_or(tag.len(), |end| end.saturating_add(2)),
            Some(b'%') => match raw_block(tag) {
                Some(length) => length,
                None => {
                    let (length, words) = scan_tag(tag, "%}")?;
                    statement(&words, &mut open)?;
                    if let Some(replaced) = without_generation(tag.get(..length).unwrap_or(tag), &words) {
                        out.push_str(&replaced);
                        rest = tag.get(length..).unwrap_or("");
                        continue;
                    }
                    length
                }
            },
            _ => scan_tag(tag, "}}")?.0,
        };
        let (tag, after) = tag.split_at_checked(consumed).unwrap_or((tag, ""));
        out.push_str(tag);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// The next `{{`, `{%` or `{#`.
fn next_marker(text: &str) -> Option<usize> {
    text.as_bytes().windows(2).position(|pair| matches!(pair, [b'{', b'{' | b'%' | b'#']))
}

/// What of a tag tells its kind: the first word, and whether an `=` stands outside all brackets.
struct Words<'t> {
    first: &'t str,
    assigns: bool,
}

/// Length of the tag at the start of `tag`, which ends with `end` outside strings and brackets.
fn scan_tag<'t>(tag: &'t str, end: &str) -> Result<(usize, Words<'t>), String> {
    let bytes = tag.as_bytes();
    let mut at = 2;
    if matches!(bytes.get(at), Some(b'-' | b'+')) {
        at = 3;
    }
    let mut words = Words { first: "", assigns: false };
    let mut chains = vec![0usize]; // one count per open bracket, the tag itself first
    let mut total = 0usize;
    while let Some(&byte) = bytes.get(at) {
        let here = tag.get(at..).unwrap_or("");
        if chains.len() == 1 && here.starts_with(end) {
            return Ok((at.saturating_add(end.len()), words));
        }
        let mut length = 1usize;
        let mut links = 0usize;
        match byte {
            b'\'' | b'"' => {
                length = string_length(here);
                links = 1; // adjacent literals are joined
            }
            b'(' | b'[' | b'{' => {
                bump(&mut chains, &mut total, 1);
                chains.push(0);
                if chains.len() > MAX_NESTING {
                    return Err(format!("more than {MAX_NESTING} brackets are open at once"));
                }
            }
            b')' | b']' | b'}' if chains.len() > 1 => total = total.saturating_sub(chains.pop().unwrap_or(0)),
            b',' => {
                if let Some(last) = chains.last_mut() {
                    total = total.saturating_sub(*last);
                    *last = 0;
                }
            }
            b'=' => {
                let doubled = bytes.get(at.saturating_add(1)) == Some(&b'=');
                let compares =
                    at > 0 && matches!(bytes.get(at.saturating_sub(1)), Some(b'=' | b'!' | b'<' | b'>'));
                words.assigns |= chains.len() == 1 && !doubled && !compares;
                links = 1;
            }
            b'+' | b'-' | b'*' | b'/' | b'%' | b'~' | b'|' | b'.' | b'<' | b'>' | b'!' => links = 1,
            _ if byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii() => {
                length = here
                    .find(|c: char| c.is_ascii() && !c.is_ascii_alphanumeric() && c != '_')
                    .unwrap_or(here.len());
                let word = here.get(..length).unwrap_or("");
                if words.first.is_empty() {
                    words.first = word;
                }
                if matches!(word, "if" | "else" | "not" | "and" | "or" | "in" | "is") {
                    links = 1;
                }
            }
            _ => {}
        }
        bump(&mut chains, &mut total, links);
        if total > MAX_CHAIN {
            return Err(format!("an expression has more than {MAX_CHAIN} links"));
        }
        at = at.saturating_add(length);
    }
    // An unclosed tag is the parser's to report; it sees no more than was counted here.
    Ok((tag.len(), words))
}

fn bump(chains: &mut [usize], total: &mut usize, links: usize) {
    if let Some(last) = chains.last_mut() {
        *last = last.saturating_add(links);
        *total = total.saturating_add(links);
    }
}

/// Bytes of the string literal that `text` begins with, quotes and escapes included.
fn string_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let quote = bytes.first();
    let mut at = 1;
    while let Some(byte) = bytes.get(at) {
        if *byte == b'\\' {
            at = at.saturating_add(2);
            continue;
        }
        at = at.saturating_add(1);
        if Some(byte) == quote {
            break;
        }
    }
    at.min(bytes.len())
}

/// Counts the statement into the open ones.
fn statement(words: &Words<'_>, open: &mut Vec<usize>) -> Result<(), String> {
    let name = words.first;
    if BODIES.contains(&name) || name == "generation" || (name == "set" && !words.assigns) {
        open.push(1);
    } else if name == "elif" {
        if let Some(levels) = open.last_mut() {
            *levels = levels.saturating_add(1);
        }
    } else if name.strip_prefix("end").is_some_and(|n| BODIES.contains(&n) || n == "generation" || n == "set")
    {
        open.pop();
    }
    let depth: usize = open.iter().sum();
    if depth > MAX_NESTING {
        Err(format!("statements are nested {depth} deep; allowed: {MAX_NESTING}"))
    } else {
        Ok(())
    }
}

/// Length of a whole `{% raw %} ... {% endraw %}` at the start of `tag`; all of the rest where it is not closed.
fn raw_block(tag: &str) -> Option<usize> {
    let body = basic_tag(tag, "raw")?;
    let mut at = body;
    loop {
        let Some(found) = tag.get(at..).and_then(|rest| rest.find("{%")) else { return Some(tag.len()) };
        at = at.saturating_add(found);
        if let Some(length) = tag.get(at..).and_then(|rest| basic_tag(rest, "endraw")) {
            return Some(at.saturating_add(length));
        }
        at = at.saturating_add(2);
    }
}

/// Length of a tag that holds nothing but `name`.
fn basic_tag(tag: &str, name: &str) -> Option<usize> {
    let space = |c: char| c.is_ascii_whitespace();
    let rest = tag.strip_prefix("{%")?;
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).trim_start_matches(space);
    let rest = rest.strip_prefix(name)?.trim_start_matches(space);
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).strip_prefix("%}")?;
    tag.len().checked_sub(rest.len())
}

/// The tag with `generation` replaced, whitespace control kept.
fn without_generation(tag: &str, words: &Words<'_>) -> Option<String> {
    let stand_in = match words.first {
        "generation" => "if true",
        "endgeneration" => "endif",
        _ => return None,
    };
    Some(tag.replacen(words.first, stand_in, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_where_a_parser_would_recurse() {
        let deep = [
            "{% if a %}".repeat(65),
            format!("{{% if a %}}{}", "{% elif a %}".repeat(64)),
            format!("{{{{ {}1 }}}}", "(".repeat(64)),
            format!("{{{{ {}1 }}}}", "not ".repeat(513)),
            format!("{{{{ {}1 }}}}", "-".repeat(513)),
            format!("{{{{ a{} }}}}", ".a".repeat(513)),
            format!("{{{{ a{} }}}}", "|f".repeat(513)),
            format!("{{{{ a{} }}}}", "[0]".repeat(513)),
            format!("{{{{ a{} }}}}", " if a else a".repeat(257)),
            format!("{{{{ 'a'{} }}}}", " 'a'".repeat(513)),
            format!("{{# {{{{ ' #}}{}", "{% for a in b %}".repeat(65)),
            format!("{{% raw %}}{{{{ ' {{% endraw %}}{}", "{% set a %}".repeat(65)),
            format!("{{{{ '}}}}' ~ \"\\\"}}}}\" }}}}{}", "{% with %}".repeat(65)),
        ];
        for source in deep {
            assert!(prepare(&source).is_err(), "{}", source.get(..60).unwrap_or(&source));
        }
    }

    #[test]
    fn long_but_flat_templates_pass_unchanged() {
        let flat = [
            "{% if a %}x{% endif %}".repeat(5_000),
            "{% set a = 1 %}".repeat(5_000),
            format!("{{{{ [{}] }}}}", "'a' ~ b.c, ".repeat(5_000)),
            format!("{{% raw %}}{}{{% endraw %}}", "{% if a %}".repeat(5_000)),
            format!("{{# {} #}}", "{% if a %}".repeat(5_000)),
            format!("{{{{ '{}' }}}}", "{% if ( }}".repeat(5_000)),
            "{% set a %}x{% endset %}".repeat(5_000),
            "{{ {'a': {'b': 1}} }}{{ x }}{ ".repeat(5_000),
            "{{ unclosed (".to_owned(),
        ];
        for source in flat {
            let prepared = prepare(&source);
            assert!(prepared.as_ref() == Ok(&source), "{:?}: {:?}", source.get(..40), prepared.err());
        }
    }

    #[test]
    fn generation_tags_become_conditions_that_hold() {
        assert_eq!(
            prepare("a{%- generation -%} b {% endgeneration %}c").as_deref(),
            Ok("a{%- if true -%} b {% endif %}c")
        );
        assert_eq!(prepare("{{ 'generation' }}").as_deref(), Ok("{{ 'generation' }}"));
    }
}
