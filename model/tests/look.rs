//! The demonstrations of looking inside, on the real models: ranks and margins, not digits.

mod common;

use common::{model, pool};
use gable_kernels::Kernels;
use gable_kernels::attention::{CacheShape, CacheType, KvCache};
use gable_kernels::gemm::Phase;
use gable_model::RunError;
use gable_model::forward::{Batch, Ending, Numerics, Row, forward};
use gable_model::look::{
    Direction, Distribution, Guess, HeadLink, Look, Recording, Scored, Word, cosine, group_words, kept,
    leave_one_out, lens_sites, merge_words, norm, rank, softmax, top,
};
use gable_model::model::{Model, OpenOptions};
use gable_model::observer::Site;
use gable_model::sampler::{SamplerConfig, Stage};
use gable_model::scratch::{Scratch, ScratchOptions};
use std::ops::ControlFlow;
use std::sync::Arc;

fn look_with(name: &'static str, numerics: Numerics) -> Look {
    Look::new(model(name), Kernels::new().unwrap(), pool(), numerics)
}

fn look(name: &'static str) -> Look {
    look_with(name, Numerics::Fast)
}

const CREATURE: &str = "a fluffy blue creature roamed the verdant forest";
const MOLES: [&str; 3] = ["American shrew mole", "One mole of carbon dioxide", "Take a biopsy of the mole"];

fn pieces(look: &Look, list: &[Scored]) -> Vec<String> {
    list.iter().map(|s| look.piece(s.id)).collect()
}

#[test]
fn pieces_of_a_word_are_joined() {
    let look = look("smollm2");
    let ids = look.encode(CREATURE).unwrap();
    let shown: Vec<String> = ids.iter().map(|&id| look.piece(id)).collect();
    let expected = ["a", " fluffy", " blue", " creature", " roamed", " the", " ver", "d", "ant", " forest"];
    assert_eq!(shown, expected);
    let words = group_words(look.model().tokenizer(), &ids);
    assert_eq!(words, [0..1, 1..2, 2..3, 3..4, 4..5, 5..6, 6..9, 9..10]);
    assert_eq!(look.find_word(&ids, "Verdant").unwrap(), 6..9);
    let none = look.find_word(&ids, "creat").unwrap_err().to_string();
    assert!(none.contains("creat") && none.contains("stands in the text"), "{none}");
    let signs = look.encode("Yes, it's 3 o'clock!").unwrap();
    let words = group_words(look.model().tokenizer(), &signs);
    assert!(words.windows(2).all(|w| w[0].end == w[1].start), "no token is left out: {words:?}");
    assert_eq!(words.last().unwrap().end, signs.len());
}

#[test]
fn a_vector_is_its_row_of_the_file() {
    let look = look("smollm2");
    let matrix = &look.model().weights().embedding;
    assert_eq!((matrix.rows(), matrix.cols()), (49_152, 576));
    let id = look.word("king").unwrap().id;
    // Q8_0, decoded here once more: 34 bytes per 32 values, scale first.
    let view = matrix.view(look.model().files()).unwrap();
    let expected: Vec<f32> = view
        .row(id as usize)
        .chunks(34)
        .flat_map(|block| {
            let bits = u16::from_le_bytes([block[0], block[1]]);
            let exponent = i32::from(bits >> 10 & 31);
            let fraction = f32::from(bits & 1023) / 1024.0;
            let scale = if exponent == 0 {
                fraction * 2.0_f32.powi(-14)
            } else {
                (1.0 + fraction) * 2.0_f32.powi(exponent - 15)
            };
            let scale = if bits >> 15 == 1 { -scale } else { scale };
            block[2..].iter().map(move |&q| scale * f32::from(i8::from_le_bytes([q]))).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(look.embedding(id).unwrap(), expected);
    let near = look.embeddings().unwrap().nearest(&expected, 4, &[id]).unwrap();
    assert!(pieces(&look, &near).contains(&" queen".to_owned()), "{:?}", pieces(&look, &near));
    assert_eq!(look.embeddings().unwrap().norm(id), norm(&expected) as f32);
}

#[test]
fn king_minus_man_plus_woman_is_queen() {
    for name in ["smollm2", "gemma3"] {
        let look = look(name);
        for (expression, answer) in [
            ("king - man + woman", " queen"),
            ("Paris - France + Germany", " Berlin"),
            ("puppy - dog + cat", " kitten"),
            ("uncle - man + woman", " aunt"),
            ("France - Paris + Tokyo", " Japan"),
        ] {
            let analogy = look.analogy(&look.expression(expression).unwrap(), 3).unwrap();
            assert_eq!(look.piece(analogy.answers[0].id), answer, "{name}: {expression}");
            let picture = analogy.picture.unwrap();
            assert!(
                picture.kept > 0.7 && picture.kept <= 1.0 + 1e-6,
                "{name}: {expression}: {}",
                picture.kept
            );
        }
    }
}

#[test]
fn steps_between_words_point_the_same_way() {
    for (name, least) in [("smollm2", 0.4), ("gemma3", 0.3)] {
        let look = look(name);
        let analogy = look.analogy(&look.expression("queen - king = woman - man").unwrap(), 1).unwrap();
        let sides = analogy.sides.unwrap();
        assert!(sides > least && sides < 0.6, "{name}: {sides}");
        assert_eq!(analogy.steps.len(), 2);
        assert!((analogy.steps[0].1 - sides).abs() < 1e-6, "the first step is the one that was written");
        // Words that have nothing to do with each other are the control.
        let control = look.analogy(&look.expression("queen - king = pizza - seven").unwrap(), 1).unwrap();
        assert!(control.sides.unwrap() < sides / 2.0, "{name}: {:?}", control.sides);
        let capitals = look.expression("Rome + Germany = Berlin + Italy").unwrap();
        let capitals = look.analogy(&capitals, 1).unwrap();
        assert!(capitals.sides.unwrap() > 0.75, "{name}: {:?}", capitals.sides);
        assert!(capitals.steps.iter().all(|(_, cosine)| *cosine > 0.2), "{name}: {:?}", capitals.steps);
    }
}

#[test]
fn what_does_not_work_is_told_with_its_rank() {
    let look = look("smollm2");
    let of = |text| look.analogy(&look.expression(text).unwrap(), 1).unwrap().rank.unwrap();
    assert_eq!(of("king - man + woman = queen"), 1);
    assert!((20..200).contains(&of("Paris - France + Italy = Rome")));
    assert!((10..200).contains(&of("sushi - Japan + Italy = pizza")));
    let gemma = crate::look("gemma3");
    let rome = gemma.analogy(&gemma.expression("Paris - France + Italy = Rome").unwrap(), 1).unwrap();
    assert!(rome.rank.unwrap() <= 5, "the larger vocabulary has it nearly right: {:?}", rome.rank);
}

#[test]
fn a_word_of_several_pieces_is_named_with_them() {
    let error = look("smollm2").expression("niece - woman + man").unwrap_err();
    assert!(matches!(&error, RunError::NotOneToken { word, pieces } if word == "niece" && pieces.len() == 2));
    assert!(error.to_string().contains("\" n\" \"iece\""), "{error}");
    assert!(look("gemma3").expression("niece - woman + man").is_ok());
    for bad in ["", "=", "king =", "= king", "a = b = c", "+ -"] {
        assert!(matches!(look("smollm2").expression(bad), Err(RunError::Option { .. })), "{bad:?}");
    }
}

const PLURALS: [&str; 10] = ["cat", "dog", "car", "tree", "book", "girl", "hand", "king", "river", "song"];
const HELD_OUT: [&str; 14] = [
    "house", "bird", "boy", "letter", "window", "teacher", "road", "flower", "apple", "color", "friend",
    "game", "student", "word",
];

fn plurals(look: &Look, words: &[&str]) -> Vec<(Word, Word)> {
    let pair = |w: &&str| (look.word(w).unwrap(), look.word(&format!("{w}s")).unwrap());
    words.iter().map(pair).collect()
}

#[test]
fn the_plural_direction_is_right_on_all_held_out_pairs() {
    for name in ["smollm2", "gemma3"] {
        let look = look(name);
        let made_from = look.pairs(&plurals(&look, &PLURALS)).unwrap();
        let direction = Direction::new(&made_from).unwrap();
        let held_out = look.pairs(&plurals(&look, &HELD_OUT)).unwrap();
        let right =
            held_out.iter().filter(|(one, many)| direction.score(many) > direction.score(one)).count();
        assert_eq!(right, 14, "{name}");
        assert_eq!(leave_one_out(&made_from).unwrap(), [true; 10], "{name}");
        // One pair alone is nearly as good.
        let alone = Direction::new(&made_from[..1]).unwrap();
        let right = held_out.iter().filter(|(one, many)| alone.score(many) > alone.score(one)).count();
        assert!(right >= 12, "{name}: {right} of 14 by cats - cat");
    }
}

#[test]
fn number_words_are_the_more_plural_the_larger_up_to_a_point() {
    let look = look("smollm2");
    let direction = Direction::new(&look.pairs(&plurals(&look, &PLURALS)).unwrap()).unwrap();
    let score = |word: &str| direction.score(&look.embedding(look.word(word).unwrap().id).unwrap());
    assert!(score("one") < score("two") && score("two") < score("seven"));
    assert!(score("ten") < score("seven"), "it does not go on for ever");
}

#[test]
fn attention_rows_add_up_to_one_and_never_look_ahead() {
    for name in ["smollm2", "gemma3"] {
        let look = look_with(name, Numerics::Exact);
        let config = look.model().config();
        let ids = look.encode(CREATURE).unwrap();
        let pattern = look.head_pattern(&ids, 4, 2).unwrap();
        for i in 0..ids.len() {
            let sum: f64 = pattern.weights[i].iter().map(|w| f64::from(*w)).sum();
            assert!((sum - 1.0).abs() < 1e-6, "{name}: row {i} adds up to {sum}");
            assert!(pattern.weights[i][i + 1..].iter().all(|w| *w == 0.0));
            // The fused kernel's scores and weights are those of the formula.
            let scores: Vec<f32> = (0..=i)
                .map(|j| {
                    let dot: f64 = pattern.q[i]
                        .iter()
                        .zip(&pattern.k[j])
                        .map(|(q, k)| f64::from(*q) * f64::from(*k))
                        .sum();
                    (dot * f64::from(config.attention_scale)) as f32
                })
                .collect();
            let p = softmax(&scores, 1.0);
            for j in 0..=i {
                assert!((pattern.scores[i][j] - scores[j]).abs() < 1e-3, "{name}: score {i}, {j}");
                assert!((f64::from(pattern.weights[i][j]) - p[j]).abs() < 1e-4, "{name}: weight {i}, {j}");
            }
        }
        let words = group_words(look.model().tokenizer(), &ids);
        for row in merge_words(&pattern.weights, &words) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }
}

#[test]
fn the_adjective_head_is_found_and_previous_token_heads_are_marked() {
    let look = look("smollm2");
    let ids = look.encode(CREATURE).unwrap();
    let find = |word| look.find_word(&ids, word).unwrap();
    let heads = look.heads(&ids, &find("creature"), &[find("fluffy"), find("blue")]).unwrap();
    assert_eq!(heads.len(), 270);
    let best = heads.iter().find(|h| !h.is_previous_token_head()).unwrap();
    assert_eq!((best.layer, best.head), (10, 6));
    assert!(best.links.iter().all(|w| *w > 0.3), "{best:?}");
    // The next one is nearly as good, those behind it less so.
    let mut rest = heads.iter().filter(|h| !h.is_previous_token_head()).skip(1);
    let next = rest.next().unwrap();
    assert_eq!((next.layer, next.head), (11, 3));
    let weakest = |h: &HeadLink| h.links.iter().copied().fold(1.0, f32::min);
    assert!(weakest(next) > 0.3 && rest.next().map(weakest).unwrap() < 0.9 * weakest(best));
    let marked = |layer, head| {
        heads.iter().find(|h| (h.layer, h.head) == (layer, head)).unwrap().is_previous_token_head()
    };
    for (layer, head) in [(16, 0), (1, 2), (11, 1), (2, 1)] {
        assert!(marked(layer, head), "layer {layer}, head {head}");
    }
    // By the sum of both links the previous-token head would have won.
    let by_sum =
        heads.iter().max_by(|a, b| a.links.iter().sum::<f32>().total_cmp(&b.links.iter().sum())).unwrap();
    assert!(by_sum.is_previous_token_head(), "{by_sum:?}");
    assert!(look.heads(&ids, &find("blue"), &[find("forest")]).is_err(), "nobody looks ahead");
}

#[test]
fn what_all_heads_write_from_all_sources_is_what_attention_adds() {
    let look = look_with("smollm2", Numerics::Exact);
    let ids = look.encode("a fluffy blue creature").unwrap();
    let (layer, position) = (10, 3);
    let (recording, _) = look.record(&ids, |l, s| l == layer && s == Site::AttentionOut).unwrap();
    let whole = recording.row(layer, Site::AttentionOut, position);
    let mut sum = vec![0.0; whole.len()];
    for head in 0..look.model().config().n_heads {
        let pattern = look.head_pattern(&ids, layer, head).unwrap();
        let written = look.written(&ids, &pattern, position, 3).unwrap();
        assert_eq!(written.len(), 4);
        for w in &written {
            assert_eq!(w.weight, pattern.weights[position][w.position]);
            assert!((w.norm - norm(&w.added)).abs() < 1e-9 && w.words.len() == 3);
            sum.iter_mut().zip(&w.added).for_each(|(s, a)| *s += a);
        }
        if head == 6 {
            let of = |i: usize| written[i].norm;
            assert!(of(1) + of(2) > 2.0 * (of(0) + of(3)), "adjectives write most");
        }
    }
    let worst = sum.iter().zip(whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-3 * norm(whole) as f32, "{worst} of {}", norm(whole));
}

#[test]
fn three_moles_are_equal_before_the_first_layer_and_apart_after_the_last() {
    for name in ["smollm2", "gemma3"] {
        let look = look(name);
        let vectors: Vec<_> = MOLES
            .iter()
            .map(|text| {
                let ids = look.encode(text).unwrap();
                let at = look.find_word(&ids, "mole").unwrap().end - 1;
                look.word_vectors(&ids, &[at]).unwrap().remove(0)
            })
            .collect();
        let last = look.model().config().n_layers;
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let cosines = vectors[a].cosines(&vectors[b]);
            assert!((cosines[0] - 1.0).abs() < 1e-6, "{name}: {}", cosines[0]);
            let apart = if name == "smollm2" { 0.9 } else { 0.96 };
            assert!(cosines[last] < apart && cosines[last] < cosines[1], "{name}: {cosines:?}");
        }
        // The contextual vector has other neighbours than the word.
        let dictionary = look.embeddings().unwrap();
        let near =
            |layer: usize| pieces(&look, &dictionary.nearest(&vectors[0].layers[layer], 6, &[]).unwrap());
        assert_eq!(near(0)[0], " mole");
        assert_ne!(near(0), near(last), "{name}");
        assert_eq!(look.what_texts_add(&vectors, last, 4).unwrap().len(), 3);
    }
}

#[test]
fn a_chess_king_and_macbeth_are_told_apart() {
    let look = look("gemma3");
    let vectors: Vec<_> = ["The chess player moved his king", "Macbeth murdered the old king"]
        .iter()
        .map(|text| {
            let ids = look.encode(text).unwrap();
            let at = look.find_word(&ids, "king").unwrap().end - 1;
            look.word_vectors(&ids, &[at]).unwrap().remove(0)
        })
        .collect();
    let added = look.what_texts_add(&vectors, 16, 8).unwrap();
    let chess = pieces(&look, &added[0]).concat().to_lowercase();
    let macbeth = pieces(&look, &added[1]).concat();
    assert!(chess.contains("chess") && !macbeth.to_lowercase().contains("chess"), "{chess} | {macbeth}");
    assert!(macbeth.contains("Macbeth") && !chess.contains("macbeth"), "{chess} | {macbeth}");
}

#[test]
fn order_changes_nothing_before_the_first_layer_and_everything_after() {
    let look = look("smollm2");
    let (a, b) = (look.encode(" dog bites man").unwrap(), look.encode(" man bites dog").unwrap());
    let shared = look.shared_words(&a, &b).unwrap();
    assert_eq!(shared.iter().map(|w| w.text.as_str()).collect::<Vec<_>>(), ["dog", "bites", "man"]);
    for word in &shared {
        assert!((word.cosines[0] - 1.0).abs() < 1e-6, "{word:?}");
        assert!(word.cosines[1..].iter().all(|c| *c < 0.999), "{word:?}");
    }
    let best = |ids: &[u32]| top(&look.next_logits(ids).unwrap(), 1, |_| true)[0].id;
    assert_ne!(best(&a), best(&b));
}

#[test]
fn attention_knows_positions_only_by_their_distance() {
    let look = look_with("smollm2", Numerics::Exact);
    let ids = vec![look.word("dog").unwrap().id; 8];
    let (recording, _) = look.record(&ids, |_, site| site == Site::Embed).unwrap();
    assert!((1..8).all(|i| recording.residual(0, i) == recording.residual(0, 0)), "one word, one vector");
    for head in [0, 4, 8] {
        let scores = look.head_pattern(&ids, 0, head).unwrap().scores;
        let mut differs = false;
        for distance in 0..8 {
            for i in distance..8 {
                let (here, first) = (scores[i][i - distance], scores[distance][0]);
                assert!((here - first).abs() < 1e-3, "head {head}, distance {distance}: {here}, {first}");
            }
            differs |= (scores[distance][0] - scores[0][0]).abs() > 0.05;
        }
        assert!(differs, "head {head} is blind to distance");
    }
}

#[test]
fn paris_rises_to_the_first_place_through_the_layers() {
    let look = look("smollm2");
    let ids = look.encode("The capital of France is").unwrap();
    let (recording, logits) = look.record(&ids, lens_sites).unwrap();
    let paris = look.target("Paris").unwrap();
    let layers = look.lens(&recording, ids.len() - 1, Some(paris), 3).unwrap();
    let ranks: Vec<usize> = layers.iter().map(|l| l.target.unwrap().0).collect();
    assert_eq!(ranks.len(), 31);
    assert!(ranks[0] > 1000 && ranks[24] < 1000 && ranks[27] < 100 && ranks[30] == 1, "{ranks:?}");
    assert!(ranks[0] > ranks[24] && ranks[24] > ranks[27] && ranks[27] > ranks[30]);
    assert!(layers[30].target.unwrap().1 > 0.6);
    // The lens after the last layer is the model itself, up to its faster numbers.
    let p = Distribution::new(&logits, 1.0);
    assert!((layers[30].target.unwrap().1 - p.of(paris)).abs() < 0.05);
    assert!(layers[0].update.is_none() && layers[1..].iter().all(|l| l.update.is_some()));
    assert!(layers[1..].iter().all(|l| (0.0..=1.0).contains(&l.update.unwrap().attention_share())));
    let grid = look.lens_grid(&recording, ids.len()).unwrap();
    assert_eq!((grid.len(), grid[30][ids.len() - 1].0), (31, paris));
}

#[test]
fn updates_of_a_layer_add_up_to_the_next_vector() {
    for name in ["smollm2", "gemma3"] {
        let look = look_with(name, Numerics::Exact);
        let ids = look.encode("The capital of France is").unwrap();
        let (recording, _) = look.record(&ids, lens_sites).unwrap();
        for layer in [0, 5, 11] {
            let parts = [
                recording.residual(layer, 3),
                recording.row(layer, Site::AttentionOut, 3),
                recording.row(layer, Site::FfnOut, 3),
            ];
            let sum: Vec<f32> = (0..parts[0].len()).map(|i| parts.iter().map(|p| p[i]).sum()).collect();
            assert!(cosine(&sum, recording.residual(layer + 1, 3)) > 0.999_99, "{name}: layer {layer}");
        }
    }
}

#[test]
fn the_most_likely_professors_are_snape_and_mcgonagall() {
    let look = look("smollm2");
    let ids = look.encode("Harry Potter's least favorite teacher was Professor").unwrap();
    let mut two = pieces(&look, &top(&look.next_logits(&ids).unwrap(), 2, |_| true));
    two.sort();
    assert_eq!(two, [" McG", " Sn"]);
}

#[test]
fn only_what_is_in_the_context_reaches_the_guess() {
    let look = look("smollm2");
    let ids = look.encode("The Eiffel Tower is in the city of").unwrap();
    let paris = look.target("Paris").unwrap();
    let visible = look.visible(&ids, paris, 3).unwrap();
    let sizes: Vec<usize> = visible.iter().map(|v| v.tokens).collect();
    assert_eq!(sizes.last(), Some(&ids.len()));
    assert_eq!(sizes[0], 1);
    let (first, last) = (visible[0].target, visible.last().unwrap().target);
    assert_eq!(last.0, 1);
    assert!(last.1 > 0.5 && first.1 < 0.1, "{visible:?}");
    let rows = look.last_row(&ids).unwrap();
    assert_eq!(rows.len(), 30);
    assert!(rows.iter().all(|row| row.len() == ids.len() && (row.iter().sum::<f32>() - 1.0).abs() < 1e-4));
    // Only the last vector is unembedded.
    let mut session = common::session(look.model(), Kernels::new().unwrap(), Numerics::Fast, ids.len(), 1);
    session.prefill(&ids).unwrap();
    assert_eq!((session.calls().rows, session.calls().logits), (ids.len() as u64, 1));
}

#[test]
fn apples_bananas_and_bread_are_all_something() {
    let look = look("smollm2");
    let ids = look.encode("apple, banana, and bread are").unwrap();
    assert_eq!(pieces(&look, &top(&look.next_logits(&ids).unwrap(), 1, |_| true)), [" all"]);
}

#[test]
fn temperature_opens_the_choice() {
    let look = look("smollm2");
    let ids = look.encode("Once upon a time, there was a little").unwrap();
    let logits = look.next_logits(&ids).unwrap();
    let girl = look.target("girl").unwrap();
    assert_eq!(rank(&logits, girl), Some(1));
    let at: Vec<Distribution> = [0.1, 1.0, 2.0, 5.0].map(|t| Distribution::new(&logits, t)).to_vec();
    assert!(at[0].of(girl) > 0.9 && at[1].of(girl) < 0.6 && at[2].of(girl) < 0.1);
    assert!(at.windows(2).all(|w| w[0].entropy < w[1].entropy));
    assert!(at[3].entropy > 14.0 && at[3].entropy < (49_152_f64).log2());
    for (stage, expected) in [(Stage::TopK, 40..41), (Stage::TopP, 50..2000), (Stage::MinP, 2..20)] {
        let list = kept(&logits, &SamplerConfig::default(), stage).unwrap();
        assert!(expected.contains(&list.len()), "{stage:?} keeps {}", list.len());
        assert_eq!(list[0].id, girl);
    }
    let cold = SamplerConfig { temperature: 0.0, ..SamplerConfig::default() };
    let mut sampler = gable_model::sampler::Sampler::new(cold, logits.len()).unwrap();
    assert_eq!(sampler.candidates(&logits).unwrap().map(|c| c.0).collect::<Vec<_>>(), [girl]);
}

#[test]
fn a_logit_is_a_row_times_the_last_vector() {
    for name in ["smollm2", "gemma3"] {
        let look = look_with(name, Numerics::Exact);
        let ids = look.encode("The capital of France is").unwrap();
        let logits = look.next_logits(&ids).unwrap();
        let tokens = [look.target("Paris").unwrap(), look.target("London").unwrap()];
        for (id, why) in tokens.iter().zip(look.why(&ids, &tokens).unwrap()) {
            assert!((why.logit - f64::from(logits[*id as usize])).abs() < 0.01, "{name}: {why:?}");
            assert!((why.row_norm * why.vector_norm * why.cosine - why.logit).abs() < 1e-3);
        }
    }
}

#[test]
fn every_vector_guesses_what_comes_behind_it() {
    let look = look("smollm2");
    let ids = look.encode("The capital of France is Paris, and the capital of Italy is Rome.").unwrap();
    let mut guesses: Vec<Guess> = Vec::new();
    let mut collect = |guess| {
        guesses.push(guess);
        ControlFlow::Continue(())
    };
    look.positions(&ids, 3, &mut collect).unwrap();
    assert_eq!(guesses.len(), ids.len());
    assert!(guesses.last().unwrap().found.is_none());
    let behind = |word: &str| {
        let at = guesses.iter().rposition(|g| look.piece(g.id) == word).unwrap();
        look.piece(guesses[at].top[0].0)
    };
    assert_eq!(behind(" Italy"), " is");
    assert!(guesses.iter().filter(|g| g.found.is_some_and(|f| f.0 == 1)).count() > ids.len() / 2);
    // The last vector's guess is what `next_logits` says, whatever stood around it in the batch; that is summed in another
    // order, and with activations in two terms.
    let next = Distribution::new(&look.next_logits(&ids).unwrap(), 1.0);
    let (id, p) = guesses.last().unwrap().top[0];
    assert!((next.of(id) - p).abs() < 0.02, "{} and {p}", next.of(id));
}

#[test]
fn each_new_token_goes_back_in() {
    let look = look("smollm2");
    let prompt = look.encode("Once upon a time").unwrap();
    let tell = |config: &SamplerConfig| {
        let mut told = Vec::new();
        look.tell(&prompt, config, 12, 2, &mut |guess| {
            told.push(guess);
            ControlFlow::Continue(())
        })
        .unwrap();
        told
    };
    let greedy = tell(&SamplerConfig::greedy());
    assert_eq!(greedy.len(), 12);
    assert!(greedy.iter().all(|g| g.found.unwrap().0 == 1));
    // Round i reads what round i - 1 chose.
    assert!(greedy.windows(2).all(|w| w[0].next == Some(w[1].id) && w[1].position == w[0].position + 1));
    let hot = SamplerConfig { temperature: 5.0, order: vec![Stage::Temperature], ..SamplerConfig::default() };
    let filtered = SamplerConfig { temperature: 5.0, ..SamplerConfig::default() };
    let worst = |told: &[Guess]| told.iter().map(|g| g.found.unwrap().0).max().unwrap();
    assert!(worst(&tell(&hot)) > 1000 && worst(&tell(&filtered)) <= 40);
}

#[test]
fn neurons_fire_where_they_were_asked() {
    let look = look("smollm2");
    let ids = look.encode(CREATURE).unwrap();
    let neurons = look.neurons(&ids, 20, 3, 5, 4).unwrap();
    assert_eq!(neurons.len(), 5);
    assert!(neurons.windows(2).all(|w| w[0].activation.abs() >= w[1].activation.abs()));
    for n in &neurons {
        assert_eq!((n.everywhere.len(), n.asks.len(), n.writes.len()), (ids.len(), 4, 4));
        assert_eq!(n.everywhere[3], n.activation);
    }
    let (recording, _) = look.record(&ids, |l, s| l == 20 && s == Site::FfnActivation).unwrap();
    let row = recording.row(20, Site::FfnActivation, 3);
    let most = row.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
    assert_eq!((row.len(), row[neurons[0].index].abs()), (1536, most));
    assert!(look.neurons(&ids, 30, 3, 1, 1).is_err());
}

/// Where nothing can be heard, at the first token, every layer's feed-forward result has the same bits whatever else
/// goes through it at the same time.
#[test]
fn tokens_do_not_talk_in_the_feed_forward_layers() {
    let look = look("smollm2");
    let ids = look.encode(CREATURE).unwrap();
    let ffn = |ids: &[u32]| look.record(ids, |_, s| s == Site::FfnOut).unwrap().0;
    let (all, one) = (ffn(&ids), ffn(&ids[..1]));
    for layer in 0..look.model().config().n_layers {
        assert_eq!(all.row(layer, Site::FfnOut, 0), one.row(layer, Site::FfnOut, 0), "layer {layer}");
    }
}

/// What feed-forward layers read, in another order, gives what they write in that order, bit for bit: sequences of one
/// token each cannot hear one another, and their rows go through every layer together.
#[test]
fn shuffled_tokens_give_shuffled_feed_forward_results() {
    let look = look("smollm2");
    let model = look.model();
    let ids = look.encode(CREATURE).unwrap();
    let n = ids.len();
    let (shuffled, order): (Vec<u32>, Vec<usize>) = (0..n).map(|i| (ids[i * 7 % n], i * 7 % n)).unzip();
    let config = model.config();
    let ffn = |ids: &[u32]| {
        let mut cache = KvCache::new(CacheShape {
            n_layers: config.n_layers,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            cache_type: CacheType::F16,
            max_positions: 1,
            max_sequences: ids.len(),
            max_pages: ids.len() * config.n_layers,
        })
        .unwrap();
        let options = ScratchOptions {
            kernels: Kernels::new().unwrap(),
            numerics: Numerics::Fast,
            strict: false,
            max_rows: ids.len(),
            max_logits: 1,
            every_position: false,
            max_positions: 1,
            threads: 2,
        };
        let mut scratch = Scratch::new(model, options).unwrap();
        let row = |&token: &u32| Row {
            token,
            position: 0,
            sequence: cache.new_sequence().unwrap(),
            wants_logits: false,
        };
        let rows: Vec<Row> = ids.iter().map(row).collect();
        let batch = Batch { phase: Phase::Prompt, rows: &rows, ending: Ending::Logits };
        let mut recording = Recording::new(|_, site| site == Site::FfnOut);
        pool().enter(|team| forward(team, model, &mut cache, &batch, &mut scratch, &mut recording)).unwrap();
        recording
    };
    let (straight, mixed) = (ffn(&ids), ffn(&shuffled));
    for layer in 0..config.n_layers {
        for (i, &from) in order.iter().enumerate() {
            let (was, is) = (straight.row(layer, Site::FfnOut, from), mixed.row(layer, Site::FfnOut, i));
            assert!(!is.is_empty() && was == is, "layer {layer}, row {from} at {i}");
        }
        assert_ne!(straight.row(layer, Site::FfnOut, 0), straight.row(layer, Site::FfnOut, 1));
    }
}

#[test]
fn overviews_hold_every_head_of_every_layer() {
    let look = look("smollm2");
    let ids = look.encode(CREATURE).unwrap();
    let overview = look.overview(&ids).unwrap();
    let triangle = ids.len() * (ids.len() + 1) / 2;
    assert_eq!(overview.weights.len(), 270 * triangle);
    let pattern = look.head_pattern(&ids, 10, 6).unwrap();
    for i in 0..ids.len() {
        for j in 0..=i {
            let byte = overview.weights[(10 * 9 + 6) * triangle + i * (i + 1) / 2 + j];
            assert!((f32::from(byte) / 255.0 - pattern.weights[i][j]).abs() < 0.003);
        }
    }
}

#[test]
fn int8_activations_part_from_exact_ones_by_more_in_every_stretch_of_layers() {
    let (fast, exact) = (look("smollm2"), look_with("smollm2", Numerics::Exact));
    let ids = fast.encode(CREATURE).unwrap();
    let layers = exact.compare(&fast, &ids).unwrap();
    assert_eq!(layers.len(), 30);
    assert!(
        layers.iter().all(|l| l.cosine > 0.9 && l.cosine < 1.0 && l.link.difference() < 0.3),
        "{layers:?}"
    );
    assert!(layers[0].cosine > layers[29].cosine);
    let same = exact.compare(&exact, &ids).unwrap();
    assert!(same.iter().all(|l| l.cosine > 1.0 - 1e-6 && l.link.difference() == 0.0));
    let error = exact.compare(&look("gemma3"), &ids).unwrap_err().to_string();
    assert!(error.contains("(30, 9, 576, 49152)") && error.contains("another quantization"), "{error}");
}

/// Tied and untied heads, biases, norms behind blocks, learned positions, windows: the lens ends where the model does.
#[test]
fn every_family_can_be_looked_at() {
    for name in
        ["llama", "llama-tied", "llama3-rope", "mistral", "qwen2", "qwen3", "gemma3", "gemma3-scaled", "gpt2"]
    {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let model = Model::open(&folder.join("model.gguf"), &OpenOptions::default()).unwrap();
        let look = Look::new(Arc::new(model), Kernels::new().unwrap(), pool(), Numerics::Exact);
        let text = std::fs::read_to_string(folder.join("ids.json")).unwrap();
        let ids = common::ids(&serde_json::from_str(&text).unwrap());
        let config = look.model().config();
        let (n_layers, last) = (config.n_layers, ids.len() - 1);
        let (recording, logits) = look.record(&ids, lens_sites).unwrap();
        let lens = look.unembedding().logits(&[recording.residual(n_layers, last).to_vec()]).unwrap();
        let worst = lens[0].iter().zip(&logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-3, "{name}: the lens after the last layer is {worst} off the model's logits");
        let best = top(&logits, 1, |_| true)[0].id;
        let why = look.why(&ids, &[best]).unwrap()[0];
        assert!((why.logit - f64::from(logits[best as usize])).abs() < 1e-3, "{name}: {why:?}");
        for head in 0..config.n_heads {
            let pattern = look.head_pattern(&ids, n_layers - 1, head).unwrap();
            let sums = pattern.weights.iter().map(|row| row.iter().sum::<f32>());
            assert!(sums.into_iter().all(|sum| (sum - 1.0).abs() < 1e-5), "{name}: head {head}");
        }
        assert_eq!(look.neurons(&ids, 0, last, 2, 1).unwrap().len(), 2, "{name}");
    }
    let untied = Model::open(
        &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama/model.gguf"),
        &OpenOptions::default(),
    );
    assert!(untied.unwrap().weights().output.is_some(), "one of them has a W_U of its own");
}

/// The notes' murder mystery: all of the story has to end up in the last vector.
#[test]
fn the_murderer_is_whom_the_story_names() {
    let story = |guilty: &str, innocent: &str| {
        format!(
            "The old man was murdered at night. The {innocent} was innocent, for he was in London that night. The \
             {guilty} had blood on his coat, and the {guilty} had the knife. The {guilty} hated the victim. The \
             {guilty} confessed to the murder. Everyone was shocked that it was the {guilty}. Therefore, the \
             murderer was the"
        )
    };
    for name in ["smollm2", "gemma3"] {
        let look = look(name);
        for (a, b) in [("gardener", "cook"), ("doctor", "lawyer"), ("teacher", "farmer")] {
            for (guilty, innocent) in [(a, b), (b, a)] {
                let logits = look.next_logits(&look.encode(&story(guilty, innocent)).unwrap()).unwrap();
                let p = Distribution::new(&logits, 1.0);
                let [guilty_id, innocent_id] = [guilty, innocent].map(|w| look.target(w).unwrap());
                assert_eq!(rank(&logits, guilty_id), Some(1), "{name}: {guilty}, not {innocent}");
                assert!(p.of(guilty_id) > 1.2 * p.of(innocent_id), "{name}: {guilty} {innocent}");
            }
        }
    }
}

#[test]
fn what_cannot_be_looked_at_is_refused() {
    let look = look("smollm2");
    let long = vec![1; 513];
    assert!(matches!(look.overview(&long), Err(RunError::ContextFull { needed: 513, max: 512 })));
    assert!(matches!(look.encode(""), Err(RunError::Option { .. })));
    let ids = look.encode("a b").unwrap();
    for (layer, head) in [(30, 0), (0, 9), (usize::MAX, usize::MAX)] {
        let error = look.head_pattern(&ids, layer, head).unwrap_err().to_string();
        assert!(error.contains("the first is 0"), "{error}");
    }
    assert!(look.positions(&vec![1; 8193], 1, &mut |_| ControlFlow::Continue(())).is_err());
    assert!(look.target(" ").is_err() && look.word("").is_err());
}
