//! How the program uses the machine: threads, CPUs, memory. The model is a tiny one of this repository, the program a
//! chat, which waits for its next message and can be looked at meanwhile.
#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Output, Stdio};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/fixtures/llama/model.gguf");

/// A running `gable chat`.
struct Chat {
    child: Child,
    input: Option<ChildStdin>,
    errors: BufReader<ChildStderr>,
    /// The line that says what computes.
    features: String,
}

impl Chat {
    fn start(model: &Path, more: &[&str]) -> Chat {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gable"));
        command
            .args(["chat", "--plain", "--temp", "0", "-n", "8", "--show-timings", "-m"])
            .arg(model)
            .args(more);
        command.env_remove("GABLE_MODEL").env_remove("GABLE_THREADS").env_remove("GABLE_NUMERICS");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let errors = BufReader::new(child.stderr.take().unwrap());
        let mut chat = Chat { child, input, errors, features: String::new() };
        chat.features = chat.error_line("isa ");
        chat
    }

    /// The next line on stderr with these words.
    fn error_line(&mut self, words: &str) -> String {
        let (mut line, mut all) = (String::new(), String::new());
        while !line.contains(words) {
            line.clear();
            assert!(self.errors.read_line(&mut line).unwrap() > 0, "{all:?} lacks {words:?}");
            all.push_str(&line);
        }
        line
    }

    fn say(&mut self, message: &str) {
        writeln!(self.input.as_mut().unwrap(), "{message}").unwrap();
    }

    /// Says something and waits for the whole reply.
    fn converse(&mut self, message: &str) {
        self.say(message);
        self.error_line("tokens generated");
    }

    /// A file that the system keeps about the process.
    fn proc(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).unwrap()
    }

    /// A field of the status of every thread, with the threads' names. One may end while the others are looked at.
    fn threads(&self, field: &str) -> Vec<(String, String)> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let status = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok());
        status.map(|text| (value(&text, "Name"), value(&text, field))).collect()
    }

    /// Ends the conversation: how the program ended, what it wrote to stdout and what else to stderr.
    fn end(mut self) -> (ExitStatus, Vec<u8>, String) {
        drop(self.input.take());
        let (mut out, mut errors) = (Vec::new(), String::new());
        self.child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
        self.errors.read_to_string(&mut errors).unwrap();
        (self.child.wait().unwrap(), out, errors)
    }
}

/// The value of `field: value`.
fn value(text: &str, field: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().to_owned()
}

/// The first CPU that this process may use.
fn a_cpu() -> u32 {
    let list = value(&std::fs::read_to_string("/proc/self/status").unwrap(), "Cpus_allowed_list");
    list.split([',', '-']).next().unwrap().parse().unwrap()
}

/// A copy of the model, removed at the end.
struct Copied(PathBuf);

impl Copied {
    fn new(name: &str) -> Copied {
        let path = std::env::temp_dir().join(format!("gable-machine-{}-{name}.gguf", std::process::id()));
        std::fs::copy(MODEL, &path).unwrap();
        Copied(path)
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_cpu_mask_holds_for_every_thread_and_decides_their_number() {
    let cpu = a_cpu();
    let mask = format!("{:x}", 1_u128 << cpu);
    let mut chat = Chat::start(Path::new(MODEL), &["-C", &mask]);
    assert!(chat.features.contains("threads 1,"), "{}", chat.features);
    chat.converse("hello");
    let mut more = Chat::start(Path::new(MODEL), &["-C", &mask, "-t", "3"]);
    more.converse("hello");
    for (chat, workers) in [(&chat, 0), (&more, 2)] {
        let threads = chat.threads("Cpus_allowed_list");
        assert_eq!(threads.iter().filter(|(name, _)| name.starts_with("gable-")).count(), workers);
        assert!(threads.iter().all(|(_, list)| *list == cpu.to_string()), "{threads:?}");
    }
    assert_eq!(chat.end().1, more.end().1);

    let nowhere = Command::new(env!("CARGO_BIN_EXE_gable"))
        .args(["run", "-m", MODEL, "-C", &format!("8{}", "0".repeat(250)), "x"])
        .output()
        .unwrap();
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("CPUs [1003]"), "{nowhere:?}");
}

#[test]
fn prompts_and_generation_have_their_own_numbers_of_threads_and_one_result() {
    let mut same = Chat::start(Path::new(MODEL), &["-t", "2"]);
    same.converse("hello");
    let same = same.end().1;
    for (generate, prompt) in [("1", "3"), ("3", "1")] {
        let mut chat = Chat::start(Path::new(MODEL), &["-t", generate, "-tb", prompt]);
        assert!(
            chat.features.contains(&format!("threads {generate} (prompt {prompt}),")),
            "{}",
            chat.features
        );
        chat.converse("hello");
        // A thread gives itself its name when it first runs, which on a busy machine may be after the answer.
        let workers = || chat.threads("Name").iter().filter(|(name, _)| name.starts_with("gable-")).count();
        let named = (0..1000).map(|_| workers()).find(|n| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            *n == 2
        });
        assert_eq!(named, Some(2), "the larger team, without the caller");
        assert_eq!(chat.end().1, same);
    }
}

#[test]
fn a_model_is_mapped_unless_it_is_to_be_read() {
    let name = Path::new(MODEL).file_name().unwrap().to_str().unwrap();
    let mut replies = Vec::new();
    for (args, mapped) in [(&[][..], true), (&["--no-mmap"][..], false)] {
        let mut chat = Chat::start(Path::new(MODEL), args);
        chat.converse("hello");
        assert_eq!(chat.proc("maps").contains(name), mapped, "{args:?}");
        replies.push(chat.end().1);
    }
    assert_eq!(replies.first(), replies.last());
}

#[test]
fn a_locked_model_is_locked_or_the_limit_is_named() {
    for more in [&["--mlock"][..], &["--mlock", "--no-mmap"]] {
        let bytes = std::fs::metadata(MODEL).unwrap().len();
        let chat = Chat::start(Path::new(MODEL), more);
        let locked = value(&chat.proc("status"), "VmLck");
        let locked: u64 = locked.trim_end_matches(" kB").parse().unwrap();
        assert!(locked * 1024 >= bytes, "{locked} kB of {bytes} bytes");
        assert!(chat.end().0.success());

        let script = format!("ulimit -l 64; exec \"$0\" run {} -m \"$1\" x", more.join(" "));
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_gable"), MODEL]);
        let out = command.output().unwrap();
        let error = String::from_utf8_lossy(&out.stderr);
        // Whoever may lock any amount is not held by the limit.
        assert!(out.status.success() || out.status.code() == Some(1), "{error}");
        assert!(
            out.status.success() || error.contains("cannot be locked") && error.contains("ulimit -l"),
            "{error}"
        );
    }
}

fn cut(path: &Path) {
    std::fs::File::options().write(true).open(path).unwrap().set_len(0).unwrap();
}

#[test]
fn a_model_that_is_cut_short_while_mapped_ends_the_program_with_a_message() {
    for threads in ["1", "3"] {
        let model = Copied::new(&format!("cut-{threads}"));
        let mut chat = Chat::start(&model.0, &["-t", threads]);
        chat.converse("hello");
        cut(&model.0);
        chat.say("and now?");
        let (status, _, errors) = chat.end();
        assert_eq!(status.code(), Some(1), "{status}: {errors}");
        assert!(errors.contains(model.0.to_str().unwrap()) && errors.contains("became shorter"), "{errors}");
        assert_eq!(errors.matches("error:").count(), 1, "{errors}");
    }
}

/// What happens to a file.
type Change = fn(&Path);

#[test]
fn a_model_that_is_deleted_or_replaced_or_was_copied_goes_on() {
    let mut undisturbed = Chat::start(Path::new(MODEL), &[]);
    undisturbed.converse("hello");
    undisturbed.converse("and now?");
    let replies = undisturbed.end().1;

    let disturb: [(&str, &[&str], Change); 3] = [
        ("deleted", &[], |path| std::fs::remove_file(path).unwrap()),
        ("replaced", &[], |path| {
            let other = path.with_extension("new");
            std::fs::write(&other, "no model").unwrap();
            std::fs::rename(other, path).unwrap();
        }),
        ("copied", &["--no-mmap"], cut),
    ];
    for (name, args, change) in disturb {
        let model = Copied::new(name);
        let mut chat = Chat::start(&model.0, args);
        chat.converse("hello");
        change(&model.0);
        chat.converse("and now?");
        let (status, out, errors) = chat.end();
        assert!(status.success(), "{name}: {errors}");
        assert_eq!(out, replies, "{name}");
    }
}

#[test]
fn a_bus_error_of_another_kind_kills_the_program_as_ever() {
    let chat = Chat::start(Path::new(MODEL), &[]);
    assert!(Command::new("kill").args(["-BUS", &chat.child.id().to_string()]).status().unwrap().success());
    let (status, _, errors) = chat.end();
    assert_eq!((status.code(), status.signal()), (None, Some(7)), "{errors}");
    assert!(!errors.contains("error:"), "{errors}");
}

/// `gable` with so many KiB of address space.
fn within(kib: u32, args: &[&str]) -> Output {
    let script = format!("ulimit -v {kib}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_gable")]).args(args).output().unwrap()
}

/// What `gable run` says on stderr with so many KiB of address space.
fn run_within(kib: u32, args: &[&str]) -> String {
    let out = within(kib, &[&["run"], args, &["hello"]].concat());
    let error = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{args:?}: {}: {error}", out.status);
    error
}

#[test]
fn too_little_memory_is_an_error_that_says_for_what() {
    // A model of 64 MiB, as far as its length goes: the file is one hole.
    let large = Copied::new("hole");
    std::fs::File::options().write(true).open(&large.0).unwrap().set_len(64 << 20).unwrap();
    let path = large.0.to_str().unwrap();
    let error = run_within(50_000, &["-m", path]);
    assert!(
        error.contains(path) && error.contains("address space to map all of its 67108864 bytes"),
        "{error}"
    );
    let error = run_within(50_000, &["-m", path, "--no-mmap"]);
    assert!(error.contains(path) && error.contains("no memory for a copy of its 67108864 bytes"), "{error}");
    let error = run_within(1_000_000, &["-m", MODEL, "-c", "16000000"]);
    assert!(error.contains("no memory for the key-value cache (") && error.contains("context"), "{error}");
    let error = run_within(100_000, &["-m", MODEL, "-c", "65536", "-b", "65536", "-ub", "65536"]);
    assert!(error.contains("error: no memory for ") && error.contains("batch smaller"), "{error}");
}

/// Wherever it is that memory ends, in the middle of a vocabulary or before a thread has its stack, the program says so.
#[test]
fn memory_may_end_anywhere() {
    // Less than the program itself is loaded with is the system's affair.
    let least = (10..100).map(|mib| mib << 10).find(|kib| within(*kib, &["--version"]).status.success());
    let least = least.unwrap();
    let mut refused = 0;
    for kib in (least..).step_by(700).take(200) {
        let out = within(kib, &["run", "-t", "2", "-m", MODEL, "-n", "1", "hello"]);
        if out.status.success() {
            break;
        }
        let error = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{kib} KiB: {}: {error}", out.status);
        assert!(error.contains("error: "), "{kib} KiB: {error}");
        refused += 1;
    }
    assert!((1..200).contains(&refused), "{refused}");
}
