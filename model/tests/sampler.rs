//! The sampler against a naive one that sorts everything, its stream of random numbers, and its limits.

use gable_model::RunError;
use gable_model::sampler::{Sampler, SamplerConfig, Stage};
use proptest::prelude::*;

fn sampler(config: SamplerConfig, vocab_size: usize) -> Sampler {
    Sampler::new(config, vocab_size).unwrap()
}

/// No stage but the draw.
fn bare() -> SamplerConfig {
    SamplerConfig { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplerConfig::default() }
}

/// The probabilities after all stages, by id, by sorting the whole vocabulary before every stage.
fn reference(config: &SamplerConfig, logits: &[f32], recent: &[u32]) -> Vec<f64> {
    let mut list: Vec<(f32, usize)> = logits.iter().copied().zip(0..).collect();
    for (id, bias) in &config.logit_bias {
        list[*id as usize].0 += bias;
    }
    list.retain(|(logit, _)| *logit > f32::NEG_INFINITY);
    let softmax = |list: &[(f32, usize)]| {
        let sum: f64 = list.iter().map(|(l, _)| (f64::from(*l) - f64::from(list[0].0)).exp()).sum();
        list.iter().map(|(l, _)| (f64::from(*l) - f64::from(list[0].0)).exp() / sum).collect::<Vec<f64>>()
    };
    let sort = |list: &mut Vec<(f32, usize)>| {
        list.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap().then(a.1.cmp(&b.1)))
    };
    sort(&mut list);
    for stage in &config.order {
        match stage {
            Stage::Penalties => {
                let window = &recent[recent.len().saturating_sub(config.repeat_last_n)..];
                for (logit, id) in &mut list {
                    let count = window.iter().filter(|t| **t as usize == *id).count() as f32;
                    if count > 0.0 {
                        *logit = if *logit > 0.0 {
                            *logit / config.repeat_penalty
                        } else {
                            *logit * config.repeat_penalty
                        };
                        *logit = *logit - count * config.frequency_penalty - config.presence_penalty;
                    }
                }
            }
            Stage::TopK if config.top_k > 0 => list.truncate(config.top_k),
            Stage::TopP if config.top_p < 1.0 => {
                let mut sum = 0.0;
                let kept = softmax(&list)
                    .iter()
                    .take_while(|p| {
                        let go = sum < f64::from(config.top_p);
                        sum += **p;
                        go
                    })
                    .count();
                list.truncate(kept.max(1));
            }
            Stage::MinP if config.min_p > 0.0 => {
                let least = list[0].0 + config.min_p.ln();
                list.retain(|(logit, _)| *logit >= least);
            }
            Stage::Temperature => list.iter_mut().for_each(|(logit, _)| *logit /= config.temperature),
            _ => {}
        }
        sort(&mut list);
    }
    let mut by_id = vec![0.0; logits.len()];
    for ((_, id), p) in list.iter().zip(softmax(&list)) {
        by_id[*id] = p;
    }
    by_id
}

/// How often each token is drawn.
fn frequencies(sampler: &mut Sampler, logits: &[f32], draws: usize) -> Vec<f64> {
    let mut counts = vec![0.0; logits.len()];
    for _ in 0..draws {
        counts[sampler.sample(logits).unwrap() as usize] += 1.0 / draws as f64;
    }
    counts
}

fn configs() -> impl Strategy<Value = SamplerConfig> {
    let order = Just(Stage::DEFAULT_ORDER.to_vec())
        .prop_shuffle()
        .prop_flat_map(|order| (0..=order.len()).prop_map(move |n| order[..n].to_vec()));
    let penalties = (prop_oneof![Just(1.0f32), 0.5f32..2.0], -1.0f32..1.0, -1.0f32..1.0, 0usize..20);
    (0.1f32..3.0, 0usize..30, 0.0f32..1.2, 0.0f32..0.5, penalties, any::<u64>(), order).prop_map(
        |(
            temperature,
            top_k,
            top_p,
            min_p,
            (repeat_penalty, presence_penalty, frequency_penalty, repeat_last_n),
            seed,
            order,
        )| SamplerConfig {
            temperature,
            top_k,
            top_p: top_p.min(1.0),
            min_p,
            repeat_penalty,
            repeat_last_n,
            presence_penalty,
            frequency_penalty,
            seed,
            order,
            logit_bias: vec![(1, 0.5), (0, -2.0)],
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn draws_follow_the_naive_reference(
        config in configs(),
        logits in prop::collection::vec(prop_oneof![9 => -4.0f32..4.0, 1 => Just(f32::NEG_INFINITY), 1 => Just(1.0f32)], 3..60),
        recent in prop::collection::vec(0u32..3, 0..30),
    ) {
        prop_assume!(logits.iter().any(|l| l.is_finite()));
        let expected = reference(&config, &logits, &recent);
        let mut sampler = sampler(config, logits.len());
        for token in &recent {
            sampler.accept(*token).unwrap();
        }
        let draws = 3_000;
        for (id, (got, want)) in frequencies(&mut sampler, &logits, draws).iter().zip(&expected).enumerate() {
            // Six standard deviations of a binomial count, and one draw for the rare ones.
            let bound = 6.0 * (want * (1.0 - want) / draws as f64).sqrt() + 3.0 / draws as f64;
            prop_assert!((got - want).abs() <= bound, "token {}: {} of {}", id, got, want);
            prop_assert!(*want > 0.0 || *got == 0.0, "token {} is ruled out", id);
        }
    }

    #[test]
    fn temperature_zero_is_the_first_maximum(logits in prop::collection::vec(-3i8..3, 1..50)) {
        let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
        let best = logits.iter().copied().fold(f32::MIN, f32::max);
        let first = logits.iter().position(|l| *l == best).unwrap();
        prop_assert_eq!(sampler(SamplerConfig::greedy(), logits.len()).sample(&logits).unwrap() as usize, first);
    }

    #[test]
    fn any_logits_give_a_token_or_an_error(bits in prop::collection::vec(any::<u32>(), 1..40), config in configs(), greedy: bool) {
        let logits: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let mut config = config;
        config.logit_bias.clear();
        if greedy { config.temperature = 0.0; }
        match sampler(config, logits.len()).sample(&logits) {
            Ok(id) => prop_assert!(logits[id as usize] > f32::NEG_INFINITY),
            Err(RunError::NanLogits { id }) => prop_assert_eq!(logits.iter().position(|l| l.is_nan()), Some(id as usize)),
            Err(RunError::NoCandidate) => prop_assert!(logits.iter().all(|l| *l == f32::NEG_INFINITY)),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

#[test]
fn the_stream_of_a_seed_never_changes() {
    let logits: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut drawn = sampler(SamplerConfig { seed: 42, ..bare() }, 1000);
    let first: Vec<u32> = (0..8).map(|_| drawn.sample(&logits).unwrap()).collect();
    assert_eq!(first, PINNED, "a printed seed must give the same text in every version");
    let mut again = sampler(SamplerConfig { seed: 42, ..bare() }, 1000);
    let second: Vec<u32> = (0..8).map(|_| again.sample(&logits).unwrap()).collect();
    assert_eq!(first, second);
    let mut other = sampler(SamplerConfig { seed: 43, ..bare() }, 1000);
    let third: Vec<u32> = (0..8).map(|_| other.sample(&logits).unwrap()).collect();
    assert_ne!(first, third);
}
const PINNED: [u32; 8] = [429, 158, 668, 684, 69, 141, 272, 74];

#[test]
fn a_greedy_choice_takes_no_random_number() {
    let logits = [0.0, 1.0, 0.5];
    let greedy = SamplerConfig { logit_bias: vec![(2, 1.0)], ..SamplerConfig::greedy() };
    assert_eq!(sampler(greedy, 3).sample(&logits).unwrap(), 2);
}

#[test]
fn the_lower_id_wins_a_tie_at_every_threshold() {
    let flat = vec![0.5f32; 5000];
    for config in [
        SamplerConfig { top_k: 1, ..bare() },
        SamplerConfig { top_p: 0.0, ..bare() },
        SamplerConfig { top_p: 1e-9, ..bare() },
        SamplerConfig::greedy(),
    ] {
        assert_eq!(sampler(config, 5000).sample(&flat).unwrap(), 0);
    }
    let half = SamplerConfig { top_p: 0.5, seed: 7, ..bare() };
    let mut half = sampler(half, 5000);
    assert!((0..2000).all(|_| half.sample(&flat).unwrap() < 2500));
    let signs = [-0.0f32, 0.0];
    assert_eq!(sampler(SamplerConfig::greedy(), 2).sample(&signs).unwrap(), 0);
}

#[test]
fn infinities_rule_out_or_take_all() {
    let inf = f32::INFINITY;
    let mut all = sampler(SamplerConfig::default(), 4);
    assert!(matches!(all.sample(&[-inf; 4]), Err(RunError::NoCandidate)));
    assert_eq!(all.sample(&[-inf, -inf, -3e38, -inf]).unwrap(), 2);
    assert_eq!(all.sample(&[3e38, inf, -inf, 0.0]).unwrap(), 1);
    let seen = frequencies(&mut all, &[inf, 0.0, inf, -inf], 400);
    assert!(seen[0] > 0.3 && seen[2] > 0.3 && seen[0] + seen[2] > 0.999);
    for bias in [(0, -inf), (3, inf)] {
        let config = SamplerConfig { logit_bias: vec![bias], ..SamplerConfig::greedy() };
        let id = sampler(config, 4).sample(&[9.0, 1.0, 0.0, -inf]).unwrap();
        assert_eq!(id, if bias.0 == 0 { 1 } else { 3 });
    }
    assert!(matches!(all.sample(&[0.0, f32::NAN, 0.0, f32::NAN]), Err(RunError::NanLogits { id: 1 })));
    assert!(matches!(all.sample(&[0.0; 3]), Err(RunError::LogitsLength { found: 3, vocab_size: 4 })));
    assert!(matches!(sampler(bare(), 0).sample(&[]), Err(RunError::NoCandidate)));
    let cold = SamplerConfig { temperature: f32::MIN_POSITIVE, ..bare() };
    assert_eq!(sampler(cold, 3).sample(&[1.0, 2.0, -5.0]).unwrap(), 1);
}

/// A temperature so low that both logits saturate must still prefer the higher one.
#[test]
fn the_coldest_temperature_is_greedy() {
    let cold = SamplerConfig { temperature: 1e-40, ..bare() };
    let mut cold = sampler(cold, 3);
    assert!((0..100).all(|_| cold.sample(&[7.0, 8.0, 7.5]).unwrap() == 1));
}

#[test]
fn penalties_forget_what_is_older_than_the_window() {
    let config = SamplerConfig { presence_penalty: 10.0, repeat_last_n: 2, ..SamplerConfig::greedy() };
    let mut sampler = sampler(config, 3);
    let logits = [3.0, 2.0, 1.0];
    let mut seen = Vec::new();
    for _ in 0..6 {
        let id = sampler.sample(&logits).unwrap();
        sampler.accept(id).unwrap();
        seen.push(id);
    }
    assert_eq!(seen, [0, 1, 2, 0, 1, 2]);
    sampler.forget();
    assert_eq!(sampler.sample(&logits).unwrap(), 0);
    assert!(matches!(sampler.accept(3), Err(RunError::TokenOutOfRange { id: 3, vocab_size: 3 })));
}

#[test]
fn options_outside_their_range_are_named() {
    let refused = [
        (SamplerConfig { temperature: -1.0, ..bare() }, "temperature is -1"),
        (SamplerConfig { temperature: f32::NAN, ..bare() }, "temperature is NaN"),
        (SamplerConfig { top_p: 1.5, ..bare() }, "top-p is 1.5"),
        (SamplerConfig { min_p: f32::NAN, ..bare() }, "min-p is NaN"),
        (SamplerConfig { repeat_penalty: 0.0, ..bare() }, "repeat-penalty is 0"),
        (SamplerConfig { presence_penalty: f32::INFINITY, ..bare() }, "presence-penalty is inf"),
        (SamplerConfig { repeat_last_n: usize::MAX, ..bare() }, "repeat-last-n is"),
        (SamplerConfig { logit_bias: vec![(0, f32::NAN)], ..bare() }, "logit-bias is NaN"),
        (SamplerConfig { logit_bias: vec![(9, 1.0)], ..bare() }, "token id 9 is outside the vocabulary of 4"),
        (SamplerConfig { order: vec![Stage::TopK, Stage::TopK], ..bare() }, "samplers is top_k"),
    ];
    for (config, message) in refused {
        let error = Sampler::new(config, 4).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn the_order_is_read_as_it_is_written() {
    assert_eq!(Stage::parse_order("penalties;top_k;top_p;min_p;temperature").unwrap(), Stage::DEFAULT_ORDER);
    assert_eq!(Stage::parse_order(" Top-K ; temp;").unwrap(), [Stage::TopK, Stage::Temperature]);
    assert_eq!(Stage::parse_order("").unwrap(), []);
    assert!(Stage::parse_order("top_k;dry").unwrap_err().to_string().contains("dry"));
    assert!(Stage::parse_order("top_k;top_k").unwrap_err().to_string().contains("once"));
}

proptest! {
    #[test]
    fn what_is_passed_over_unlisted_changes_no_draw(
        coarse in prop::collection::vec(-40i8..40, 1..400), infinite in prop::collection::vec((0usize..400, any::<bool>()), 0..4),
        nan in prop::option::weighted(0.1, 0usize..400), top_k in 1usize..200, greedy: bool, seed: u64,
    ) {
        let mut logits: Vec<f32> = coarse.iter().map(|x| f32::from(*x) / 8.0).collect();
        for (at, positive) in infinite {
            if let Some(logit) = logits.get_mut(at) {
                *logit = if positive { f32::INFINITY } else { f32::NEG_INFINITY };
            }
        }
        if let Some(logit) = nan.and_then(|at| logits.get_mut(at)) {
            *logit = f32::NAN;
        }
        let config = SamplerConfig { top_k, seed, temperature: if greedy { 0.0 } else { 0.8 }, ..SamplerConfig::default() };
        // A bias of nothing changes no logit, but makes the sampler list them all.
        let listing = SamplerConfig { logit_bias: vec![(0, 0.0)], ..config.clone() };
        let (mut sampler, mut listing) = (sampler(config, logits.len()), sampler(listing, logits.len()));
        for _ in 0..5 {
            let list = |sampler: &mut Sampler| {
                sampler.candidates(&logits).map(Iterator::collect::<Vec<_>>).map_err(|e| e.to_string())
            };
            prop_assert_eq!(list(&mut sampler), list(&mut listing));
            let draw = |sampler: &mut Sampler| sampler.sample(&logits).map_err(|e| e.to_string());
            prop_assert_eq!(draw(&mut sampler), draw(&mut listing));
        }
    }
}

#[test]
fn a_large_vocabulary_is_narrowed_as_a_small_one() {
    let n = 262_144;
    let logits: Vec<f32> = (0..n).map(|i| ((i * 7919 % n) as f32 / n as f32) * 8.0).collect();
    let config =
        SamplerConfig { top_k: 0, top_p: 0.9, min_p: 0.0, temperature: 1.0, ..SamplerConfig::default() };
    let allowed = reference(&config, &logits, &[]);
    let mut sampler = sampler(config, n);
    assert!((0..20).all(|_| allowed[sampler.sample(&logits).unwrap() as usize] > 0.0));
}

#[test]
fn the_k_likeliest_are_those_of_a_full_sort_ties_and_all() {
    let n = 5000_u32;
    // Ascending, descending, and all mixed up with a hundred values in all.
    let mixed = |i: u32| (i.wrapping_mul(2_654_435_761) >> 16) % 100;
    for (name, logits) in [
        ("ascending", (0..n).map(|i| i as f32).collect::<Vec<_>>()),
        ("descending", (0..n).map(|i| -(i as f32)).collect()),
        ("mixed", (0..n).map(|i| mixed(i) as f32).collect()),
        ("equal", vec![1.0; n as usize]),
    ] {
        let mut sorted: Vec<u32> = (0..n).collect();
        sorted.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        for k in [1, 2, 40, 2499, 2500, 2501, 4999, 5000] {
            let mut expected = sorted[..k].to_vec();
            expected.sort_unstable();
            let mut sampler = sampler(SamplerConfig { top_k: k, ..bare() }, n as usize);
            let found: Vec<u32> = sampler.candidates(&logits).unwrap().map(|c| c.0).collect();
            assert_eq!(found, expected, "{name}, {k}");
        }
    }
}

#[test]
fn a_hook_changes_what_is_drawn_before_biases_and_sees_every_draw() {
    let mut drawn = sampler(SamplerConfig { logit_bias: vec![(3, 1.0)], ..SamplerConfig::greedy() }, 4);
    let logits = [5.0, 4.0, 3.0, 2.5];
    assert_eq!(drawn.sample(&logits).unwrap(), 0);
    let (sender, seen) = std::sync::mpsc::channel();
    let mut calls = 0;
    drawn.set_logits_hook(move |logits| {
        sender.send(logits.to_vec()).unwrap();
        logits[calls] = f32::NEG_INFINITY;
        calls += 1;
    });
    // What the hook did to one draw's logits is gone at the next.
    assert_eq!([0; 3].map(|_| drawn.sample(&logits).unwrap()), [1, 0, 0]);
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), vec![logits.to_vec(); 3]);
    let mut biased = sampler(SamplerConfig { logit_bias: vec![(3, 3.0)], ..SamplerConfig::greedy() }, 4);
    biased.set_logits_hook(|logits| logits[3] = 2.1);
    assert_eq!(biased.sample(&logits).unwrap(), 3, "the bias comes on top of it");
    biased.set_logits_hook(|logits| logits.fill(f32::NAN));
    assert!(matches!(biased.sample(&logits), Err(RunError::NanLogits { .. })));
}
