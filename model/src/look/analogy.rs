//! Directions between words mean something: `E(queen) - E(king)` and `E(woman) - E(man)` point the same way.

use super::{Look, Scored, Word, combined, cosine, dot, norm};
use crate::RunError;

/// A signed sum of words, or two of them with `=` between.
#[derive(Debug, Clone)]
pub struct Expression {
    /// What stands left of `=`, or everything.
    pub left: Vec<(f32, Word)>,
    /// What stands right of it; empty without one.
    pub right: Vec<(f32, Word)>,
}

/// What an expression says.
#[derive(Debug, Clone)]
pub struct Analogy {
    /// The words nearest to the left side by cosine, those of the expression left out in every spelling.
    pub answers: Vec<Scored>,
    /// `cos(left, right)`, with both sides.
    pub sides: Option<f64>,
    /// The place of the right side among the answers, if it is a single word; 1 is the first.
    pub rank: Option<usize>,
    /// `cos(a - b, c - d)` of the two ways to read four words as two equal steps, with those words: `[a, b, c, d]`.
    pub steps: Vec<([Word; 4], f64)>,
    /// The four words in a plane.
    pub picture: Option<Parallelogram>,
}

/// Four words `a, b, d, c` with `a - b ~ c - d`, projected into the plane of their mean steps.
#[derive(Debug, Clone)]
pub struct Parallelogram {
    /// Around the figure.
    pub corners: [Word; 4],
    /// Their places; the middle is `[0, 0]`.
    pub points: [[f64; 2]; 4],
    /// Share of the squared distances from the middle that lies in the plane.
    pub kept: f64,
}

impl Look {
    /// Reads `king - man + woman` or `Rome + Germany = Berlin + Italy`.
    ///
    /// A `-` inside a word belongs to it unless the whole expression is written without spaces.
    ///
    /// # Errors
    /// [`RunError::Option`] for what is no expression, [`RunError::NotOneToken`] for a word without a token of its own.
    pub fn expression(&self, text: &str) -> Result<Expression, RunError> {
        let mut sides = Vec::new();
        for side in text.split('=') {
            let mut terms = Vec::new();
            for (sign, word) in terms_of(side) {
                terms.push((sign, self.word(&word)?));
            }
            sides.push(terms);
        }
        let right = if sides.len() == 2 { sides.pop() } else { Some(Vec::new()) };
        match (sides.pop(), right) {
            (Some(left), Some(right)) if sides.is_empty() && !left.is_empty() => {
                let one_sided = !text.contains('=');
                if one_sided || !right.is_empty() {
                    return Ok(Expression { left, right });
                }
            }
            _ => {}
        }
        Err(RunError::Option {
            name: "expression",
            found: format!("{text:?}"),
            allowed: "words with + and - between them, and at most one = with words on both sides",
        })
    }

    /// `sum sign E(word)`
    ///
    /// # Errors
    /// None for words of this vocabulary.
    pub fn sum(&self, terms: &[(f32, Word)]) -> Result<Vec<f32>, RunError> {
        let mut vectors = Vec::with_capacity(terms.len());
        for (sign, word) in terms {
            vectors.push((*sign, self.embedding(word.id)?));
        }
        Ok(combined(vectors.iter().map(|(sign, vector)| (*sign, vector.as_slice()))))
    }

    /// Answers an expression with the `k` nearest words, and compares the steps that it takes.
    ///
    /// # Errors
    /// None for words of this vocabulary.
    pub fn analogy(&self, expression: &Expression, k: usize) -> Result<Analogy, RunError> {
        let Expression { left, right } = expression;
        let dictionary = self.embeddings()?;
        let vector = self.sum(left)?;
        let mut except: Vec<u32> = Vec::new();
        for (_, word) in left {
            except.extend(self.spellings(word)?);
        }
        let answers = dictionary.nearest(&vector, k.max(1), &except)?;
        let sides = if right.is_empty() { None } else { Some(cosine(&vector, &self.sum(right)?)) };
        let rank = match right.as_slice() {
            [(sign, word)] if *sign > 0.0 && !except.contains(&word.id) => {
                let all = dictionary.nearest(&vector, usize::MAX, &except)?;
                all.iter().position(|answer| answer.id == word.id).map(|at| at.saturating_add(1))
            }
            _ => None,
        };
        // Everything on one side: p + p' - n - n' = 0 is the parallelogram p, n, p', n'.
        let mut terms = left.clone();
        match answers.first() {
            Some(best) if right.is_empty() => {
                let text = self.piece(best.id).trim().to_owned();
                terms.push((-1.0, Word { text, id: best.id }));
            }
            _ => terms.extend(right.iter().map(|(sign, word)| (-sign, word.clone()))),
        }
        let side = |positive: bool| -> Vec<Word> {
            terms.iter().filter(|(sign, _)| (*sign > 0.0) == positive).map(|(_, word)| word.clone()).collect()
        };
        let (plus, minus): (Vec<Word>, Vec<Word>) = (side(true), side(false));
        let mut analogy = Analogy { answers, sides, rank, steps: Vec::new(), picture: None };
        if let ([a, d], [b, c]) = (plus.as_slice(), minus.as_slice()) {
            for (b, c) in [(b, c), (c, b)] {
                let words = [a, b, c, d].map(Word::clone);
                let [va, vb, vc, vd] = self.four(&words)?;
                let step = |x: &[f32], y: &[f32]| combined([(1.0, x), (-1.0, y)]);
                analogy.steps.push((words, cosine(&step(&va, &vb), &step(&vc, &vd))));
            }
            analogy.picture = Some(self.parallelogram([a, b, d, c].map(Word::clone))?);
        }
        Ok(analogy)
    }

    fn four(&self, words: &[Word; 4]) -> Result<[Vec<f32>; 4], RunError> {
        let [a, b, c, d] = words.each_ref().map(|word| self.embedding(word.id));
        Ok([a?, b?, c?, d?])
    }

    fn parallelogram(&self, corners: [Word; 4]) -> Result<Parallelogram, RunError> {
        let vectors = self.four(&corners)?;
        let middle = combined(vectors.each_ref().map(|v| (0.25, v.as_slice())));
        let [a, b, d, c] = vectors.map(|v| combined([(1.0, v.as_slice()), (-1.0, &middle)]));
        let unit = |v: Vec<f32>| {
            let length = norm(&v).max(f64::MIN_POSITIVE);
            combined([((1.0 / length) as f32, v.as_slice())])
        };
        let x = unit(combined([(1.0, b.as_slice()), (-1.0, &a), (1.0, &d), (-1.0, &c)]));
        let y = combined([(1.0, a.as_slice()), (-1.0, &c), (1.0, &b), (-1.0, &d)]);
        let along = dot(&y, &x) as f32;
        let y = unit(combined([(1.0, y.as_slice()), (-along, &x)]));
        let centred = [a, b, d, c];
        let points = centred.each_ref().map(|v| [dot(v, &x), dot(v, &y)]);
        let inside: f64 = points.iter().flatten().map(|x| x * x).sum();
        let all: f64 = centred.iter().map(|v| dot(v, v)).sum();
        Ok(Parallelogram { corners, points, kept: if all > 0.0 { inside / all } else { 1.0 } })
    }
}

/// The signed words of one side. Words with nothing between them stay together.
fn terms_of(side: &str) -> Vec<(f32, String)> {
    let glued = !side.trim().contains(char::is_whitespace);
    let mut terms: Vec<(f32, String)> = Vec::new();
    let mut sign = 1.0;
    let mut begins = true; // whether a `-` here is a sign
    let mut word = String::new();
    let flush = |word: &mut String, sign: f32, terms: &mut Vec<(f32, String)>| {
        let text = std::mem::take(word).trim().to_owned();
        if !text.is_empty() {
            terms.push((sign, text));
        }
    };
    for c in side.chars() {
        match c {
            '+' | '\u{2212}' | '-' if c != '-' || begins || glued => {
                flush(&mut word, sign, &mut terms);
                sign = if c == '+' { 1.0 } else { -1.0 };
            }
            _ => word.push(c),
        }
        begins = c.is_whitespace();
    }
    flush(&mut word, sign, &mut terms);
    terms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_with_and_without_spaces() {
        let read = |text| terms_of(text).into_iter().map(|(s, w)| format!("{s}{w}")).collect::<Vec<_>>();
        assert_eq!(read("king - man + woman"), ["1king", "-1man", "1woman"]);
        assert_eq!(read("king-man+woman"), ["1king", "-1man", "1woman"]);
        assert_eq!(read("-man + x-ray \u{2212} New York"), ["-1man", "1x-ray", "-1New York"]);
        assert!(read(" + - ").is_empty());
    }
}
