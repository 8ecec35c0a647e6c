//! A session's memory, threads and limits, on the tiny models of `tests/fixtures`.

mod common;

use gable_kernels::attention::PAGE;
use gable_kernels::gemm::Phase;
use gable_kernels::{KernelError, Kernels, MatRef, Pool};
use gable_model::RunError;
use gable_model::forward::Numerics;
use gable_model::model::{Model, OpenOptions};
use gable_model::observer::{Observer, Operation, Site};
use gable_model::sampler::{Sampler, SamplerConfig};
use gable_model::session::{Session, SessionOptions};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn fixture(name: &str) -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name).join("model.gguf");
    Arc::new(Model::open(&path, &OpenOptions::default()).unwrap())
}

fn options(max_positions: usize) -> SessionOptions {
    SessionOptions::new(Kernels::best(), max_positions)
}

fn session(model: &Arc<Model>, options: SessionOptions) -> Session {
    Session::new(Arc::clone(model), common::pool(), options).unwrap()
}

/// Ids that look like a text to nobody, the same each time.
fn tokens(model: &Model, count: usize) -> Vec<u32> {
    let vocab = model.config().vocab_size as u32;
    (0..count as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 7).map(|x| x % vocab).collect()
}

fn pages_in_use(session: &Session) -> usize {
    session.cache().shape().max_pages - session.cache().free_pages()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// The fixtures' windows are of 8 positions, so their layers need two pages at most in batches of up to 57.
#[test]
fn layers_with_a_window_keep_only_it_and_compute_the_same_bits() {
    for (name, global_layers) in [("gemma3", 1), ("mistral", 0)] {
        let model = fixture(name);
        let n_layers = model.config().n_layers;
        assert_eq!(
            model.config().windows.iter().filter(|w| **w == Some(8)).count(),
            n_layers - global_layers
        );
        let ids = tokens(&model, 600);
        let (prompt, rest) = ids.split_at(400);
        for (numerics, batch) in [(Numerics::Exact, 57), (Numerics::Fast, 57), (Numerics::Fast, 1)] {
            let windows = SessionOptions { numerics, batch, ..options(600) };
            let mut windowed = session(&model, windows);
            let mut whole = session(&model, SessionOptions { keep_all: true, ..windows });
            let all = whole.cache().shape().max_pages;
            assert_eq!(all, n_layers * 10);
            assert_eq!(
                windowed.cache().shape().max_pages,
                global_layers * 10 + (n_layers - global_layers) * 2
            );
            // A prompt in parts of several batches and a rest, then token by token.
            for part in prompt.chunks(130) {
                assert_eq!(bits(windowed.prefill(part).unwrap()), bits(whole.prefill(part).unwrap()));
            }
            for &id in rest {
                assert_eq!(bits(windowed.decode(id).unwrap()), bits(whole.decode(id).unwrap()), "{name}");
                let length = windowed.tokens().len();
                let global = global_layers * length.div_ceil(PAGE);
                assert!(
                    pages_in_use(&windowed) <= global + (n_layers - global_layers) * 2,
                    "{name} at {length}"
                );
            }
            assert_eq!(pages_in_use(&whole), all);
        }
    }
}

#[test]
fn a_text_is_taken_back_as_far_as_the_windows_reach_and_read_again_beyond() {
    let model = fixture("gemma3");
    let ids = tokens(&model, 300);
    let strict = SessionOptions { strict: true, ..options(300) };
    let fresh = |ids: &[u32]| bits(session(&model, strict).prefill(ids).unwrap());
    let mut it = session(&model, SessionOptions { batch: 50, ..strict });
    it.prefill(&ids).unwrap();
    // The last batch began at 250 and needed 243 on, so the page from 192 on is there: the window of a token at 199.
    let error = it.truncate(198).unwrap_err();
    assert!(matches!(error, RunError::LeftBehind { len: 198 }), "{error}");
    assert_eq!(it.tokens(), ids, "as before");
    it.truncate(199).unwrap();
    assert_eq!(it.tokens(), &ids[..199]);
    assert_eq!(bits(it.prefill(&ids[199..]).unwrap()), fresh(&ids));

    // A reply within reach is taken back; one beyond it costs reading all.
    assert_eq!(it.keep_common(&ids[..290]).unwrap(), 289);
    assert_eq!(bits(it.prefill(&ids[289..290]).unwrap()), fresh(&ids[..290]));
    assert_eq!(it.keep_common(&ids[..100]).unwrap(), 0);
    assert!(it.tokens().is_empty());
    assert_eq!(bits(it.prefill(&ids[..100]).unwrap()), fresh(&ids[..100]));
    let mut other = ids[..99].to_vec();
    other.extend([5, 6, 7]);
    assert_eq!(it.keep_common(&other).unwrap(), 99);

    let mut all = session(&model, SessionOptions { keep_all: true, ..strict });
    all.prefill(&ids).unwrap();
    assert_eq!(all.keep_common(&ids[..20]).unwrap(), 19);
    assert_eq!(bits(all.prefill(&ids[19..20]).unwrap()), fresh(&ids[..20]));
}

#[test]
fn a_prompt_that_fails_leaves_the_batches_before() {
    for name in ["gemma3", "llama"] {
        let model = fixture(name);
        let mut ids = tokens(&model, 300);
        let good = std::mem::replace(&mut ids[270], u32::MAX);
        let mut it = session(&model, SessionOptions { batch: 50, ..options(300) });
        let error = it.prefill(&ids).unwrap_err();
        assert!(matches!(error, RunError::TokenOutOfRange { .. }), "{error}");
        assert_eq!(it.tokens(), &ids[..250]);
        ids[270] = good;
        let expected = bits(session(&model, options(300)).prefill(&ids).unwrap());
        assert_eq!(bits(it.prefill(&ids[250..]).unwrap()), expected, "{name}");
    }
}

/// Sets the flag when it sees a layer, and notes what it sees afterwards.
struct CancelAt {
    layer: usize,
    flag: Arc<AtomicBool>,
    later: Vec<(usize, Site)>,
}

impl Observer for CancelAt {
    fn wants(&self, _: usize, site: Site) -> bool {
        matches!(site, Site::Q | Site::ResidualOut | Site::Logits)
    }

    fn observe(&mut self, layer: usize, site: Site, _: MatRef<'_>) {
        if self.flag.load(Ordering::SeqCst) {
            self.later.push((layer, site));
        } else if layer == self.layer && site == Site::Q {
            self.flag.store(true, Ordering::SeqCst);
        }
    }
}

#[test]
fn a_cancelled_pass_ends_within_its_layer_in_both_phases() {
    let model = fixture("gemma3");
    let last = model.config().n_layers - 1;
    for (phase, count) in [(Phase::Prompt, 40), (Phase::Decode, 1)] {
        for layer in [0, last] {
            let mut it = session(&model, SessionOptions { max_logits: count, ..options(100) });
            it.prefill(&[1, 2, 3]).unwrap();
            let flag = Arc::new(AtomicBool::new(false));
            it.set_cancel(Arc::clone(&flag));
            let mut observer = CancelAt { layer, flag: Arc::clone(&flag), later: Vec::new() };
            let ids = tokens(&model, count);
            let error = it.observe(phase, &ids, |_| true, &mut observer).unwrap_err();
            assert!(matches!(error, RunError::Kernel(KernelError::Cancelled)), "{error}");
            assert!(
                observer.later.iter().all(|seen| *seen == (layer, Site::ResidualOut)),
                "{:?}",
                observer.later
            );
            assert_eq!(it.tokens(), [1, 2, 3]);
            flag.store(false, Ordering::SeqCst);
            it.observe(phase, &ids, |_| true, &mut ()).unwrap();
        }
    }
}

/// The flag comes from another thread at any moment: what was read then is whole batches, and reading on gives the bits of a
/// prompt that nobody stopped.
#[test]
fn a_prompt_cancelled_at_any_moment_goes_on_where_it_stopped() {
    for name in ["llama", "gemma3"] {
        let model = fixture(name);
        let ids = tokens(&model, 300);
        let expected = bits(session(&model, options(300)).prefill(&ids).unwrap());
        let mut stopped = 0;
        for polls in (0..4000).step_by(100) {
            let mut it = session(&model, SessionOptions { batch: 50, ..options(300) });
            let flag = Arc::new(AtomicBool::new(polls == 0));
            it.set_cancel(Arc::clone(&flag));
            let cancel = std::thread::spawn(move || {
                (0..polls).for_each(|_| std::thread::yield_now());
                flag.store(true, Ordering::SeqCst);
                flag
            });
            let result = it.prefill(&ids).map(bits);
            cancel.join().unwrap().store(false, Ordering::SeqCst);
            let read = it.tokens().len();
            match result {
                Ok(found) => assert_eq!((found, read), (expected.clone(), 300), "{name}"),
                Err(error) => {
                    assert!(matches!(error, RunError::Kernel(KernelError::Cancelled)), "{error}");
                    assert!(read < 300 && read.is_multiple_of(50), "{name}: {read}");
                    assert_eq!(bits(it.prefill(&ids[read..]).unwrap()), expected, "{name}: from {read}");
                    stopped += 1;
                }
            }
        }
        assert!(stopped > 0, "{name}: no prompt was stopped");
    }
}

/// Wants everything.
struct Everything(usize);

impl Observer for Everything {
    fn wants(&self, _: usize, _: Site) -> bool {
        true
    }
    fn observe(&mut self, _: usize, _: Site, _: MatRef<'_>) {
        self.0 += 1;
    }
}

#[test]
fn an_observer_of_everything_changes_no_bit() {
    for name in ["llama", "gemma3", "gpt2", "qwen2", "qwen3"] {
        let model = fixture(name);
        let ids = tokens(&model, 20);
        for numerics in [Numerics::Exact, Numerics::Precise, Numerics::Fast] {
            let options = SessionOptions { numerics, ..options(30) };
            let (mut plain, mut observed) = (session(&model, options), session(&model, options));
            let mut observer = Everything(0);
            let last = |i| i == 18;
            let want = bits(plain.prefill(&ids[..19]).unwrap());
            let got = observed.observe(Phase::Prompt, &ids[..19], last, &mut observer).unwrap();
            assert_eq!(bits(got.row(0)), want, "{name} {numerics:?}: prompt");
            let want = bits(plain.decode(ids[19]).unwrap());
            let got = observed.observe(Phase::Decode, &ids[19..], |_| true, &mut observer).unwrap();
            assert_eq!(bits(got.row(0)), want, "{name} {numerics:?}: decoding");
            // Per layer all sites but the embedding, the final norm and the logits.
            assert_eq!(observer.0, 2 * (13 * model.config().n_layers + 3), "{name}");
        }
    }
}

#[test]
fn sizes_that_no_machine_has_are_errors() {
    let model = fixture("gemma3");
    let refused = |options: SessionOptions| {
        let error = Session::new(Arc::clone(&model), common::pool(), options).unwrap_err();
        assert!(matches!(error, RunError::Kernel(KernelError::Memory { .. })), "{error}");
        assert!(error.to_string().starts_with("no memory for "), "{error}");
    };
    refused(options(usize::MAX));
    refused(options(1 << 50));
    refused(SessionOptions { max_logits: 1 << 50, ..options(100) });
    refused(SessionOptions { batch: 1 << 50, ..options(1 << 50) });
}

/// How often the system has let each worker of the pools run, by name.
#[cfg(target_os = "linux")]
fn turns(name: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let named = |path: &std::path::PathBuf| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let stat = tasks.filter(named).map(|path| std::fs::read_to_string(path.join("schedstat")).unwrap());
    stat.map(|text| text.trim().rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Waits until a worker has nothing to do and sleeps.
#[cfg(target_os = "linux")]
fn settled(name: &str) -> u64 {
    let mut before = turns(name);
    loop {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let now = turns(name);
        if now == before {
            return now;
        }
        before = now;
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_phase_wakes_the_threads_it_was_given_and_no_others() {
    let model = fixture("llama");
    let ids = tokens(&model, 40);
    let expected = bits(session(&model, options(100)).prefill(&ids).unwrap());
    // Only this pool of the program has a fourth thread.
    let pool = Arc::new(Pool::new(4));
    for (prompt, decode) in [(4, 3), (3, 4)] {
        let own =
            SessionOptions { prompt_threads: Some(prompt), decode_threads: Some(decode), ..options(100) };
        let mut it = Session::new(Arc::clone(&model), Arc::clone(&pool), own).unwrap();
        let before = settled("gable-3");
        assert_eq!(bits(it.prefill(&ids).unwrap()), expected);
        let between = settled("gable-3");
        for id in 0..20 {
            it.decode(id).unwrap();
        }
        let after = settled("gable-3");
        assert_eq!((between > before, after > between), (prompt == 4, decode == 4), "{prompt}, {decode}");
    }
}

#[test]
fn a_timeline_has_no_gaps_in_a_pass_and_changes_no_bit() {
    for name in ["llama", "gemma3", "gpt2"] {
        let model = fixture(name);
        let ids = tokens(&model, 20);
        let (mut plain, mut timed) = (session(&model, options(32)), session(&model, options(32)));
        timed.start_timeline();
        for session in [&mut plain, &mut timed] {
            session.prefill(&ids[..18]).unwrap();
            session.decode(ids[18]).unwrap();
        }
        assert!(plain.timeline().is_none());
        // An observer sees its places as without a timeline.
        let seen = |session: &mut Session| {
            let mut last = Last(Vec::new());
            session.observe(Phase::Decode, &ids[19..], |_| true, &mut last).unwrap();
            last.0
        };
        assert_eq!(bits(&seen(&mut plain)), bits(&seen(&mut timed)), "{name}");
        assert_eq!(plain.calls(), timed.calls());
        let passes = timed.timeline().unwrap().passes();
        let extents: Vec<_> = passes.iter().map(|p| (p.phase, p.first, p.rows)).collect();
        assert_eq!(
            extents,
            [(Phase::Prompt, 0, 18), (Phase::Decode, 18, 1), (Phase::Decode, 19, 1)],
            "{name}"
        );
        for pass in passes {
            assert_eq!(pass.spans[0].start, pass.start);
            assert!(pass.spans.windows(2).all(|w| w[0].end == w[1].start && w[0].start <= w[0].end));
            assert!(pass.spans.last().unwrap().end <= pass.end);
            let count = |operation| pass.spans.iter().filter(|s| s.operation == operation).count();
            let n_layers = model.config().n_layers;
            for operation in [Operation::Qkv, Operation::Attention, Operation::GateUp, Operation::Down] {
                assert_eq!(count(operation), n_layers, "{name}: {operation:?}");
            }
            assert_eq!((count(Operation::Norm), count(Operation::Unembed)), (2 * n_layers + 1, 1), "{name}");
        }
        assert!(passes.windows(2).all(|w| w[0].end <= w[1].start));
    }
}

/// Keeps the logits.
struct Last(Vec<f32>);

impl Observer for Last {
    fn wants(&self, _: usize, site: Site) -> bool {
        site == Site::Logits
    }

    fn observe(&mut self, _: usize, _: Site, values: MatRef<'_>) {
        self.0 = values.row(0).to_vec();
    }
}

#[test]
fn the_highest_scores_are_those_of_the_whole_vocabulary_and_draw_the_same_tokens() {
    for name in ["llama", "gemma2"] {
        let model = fixture(name);
        let ids = tokens(&model, 5);
        for threads in [1, 3] {
            let pool = Arc::new(Pool::new(threads));
            let new = || Session::new(Arc::clone(&model), Arc::clone(&pool), options(64)).unwrap();
            let (mut all, mut top_k) = (new(), new());
            all.prefill(&ids).unwrap();
            top_k.prefill(&ids).unwrap();
            let config = SamplerConfig { top_k: 5, ..SamplerConfig::default() };
            let mut samplers =
                [(); 2].map(|()| Sampler::new(config.clone(), model.config().vocab_size).unwrap());
            let mut top = top_k.top_k(samplers[0].wants().unwrap()).unwrap();
            for token in ids.iter().copied().cycle().take(20) {
                let logits = all.decode(token).unwrap();
                top_k.decode_top_k(token, &mut top).unwrap();
                for entry in top.entries().unwrap() {
                    assert_eq!(entry.value.to_bits(), logits[entry.index as usize].to_bits());
                }
                assert_eq!(samplers[0].sample(logits).unwrap(), samplers[1].sample_top_k(&top).unwrap());
                assert_eq!(top_k.logits().rows(), 0);
            }
            assert_eq!(all.tokens(), top_k.tokens());
        }
    }
}
