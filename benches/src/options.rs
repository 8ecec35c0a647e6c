//! What the programs and benches are run with.

use gable_kernels::pool::default_threads;
use gable_kernels::{Isa, Kernels, Pool};
use std::rc::Rc;

/// From the command line of a program, or the defaults.
pub struct Options {
    /// Gable's instruction set.
    pub kernels: Kernels,
    /// Threads of everybody.
    pub threads: usize,
    /// Gable's threads.
    pub pool: Rc<Pool>,
    /// Times that every candidate is measured.
    pub rounds: usize,
    /// Answer requests instead of printing a table.
    pub serve: bool,
    /// Whatever else was given.
    pub rest: Vec<String>,
}

impl Options {
    /// From arguments.
    ///
    /// # Errors
    /// What was not understood.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Options, String> {
        let (mut threads, mut rounds, mut isa, mut serve) = (default_threads(), 15, None, false);
        let mut rest = Vec::new();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            let number = |x: String| x.parse::<usize>().map_err(|e| format!("{arg} {x}: {e}"));
            match arg.as_str() {
                "--threads" => threads = number(value()?)?,
                "--rounds" => rounds = number(value()?)?.max(1),
                "--isa" => isa = Some(value()?.parse::<Isa>().map_err(|e| e.to_string())?),
                "--serve" => serve = true,
                flag if flag.starts_with('-') => {
                    return Err(format!("{flag} is none of --threads, --rounds, --isa, --serve"));
                }
                _ => rest.push(arg),
            }
        }
        let kernels = isa.map_or_else(Kernels::new, Kernels::for_isa).map_err(|e| e.to_string())?;
        let pool = Rc::new(Pool::new(threads));
        Ok(Options { kernels, threads: pool.threads(), pool, rounds, serve, rest })
    }

    /// From the program's own arguments; ends it if they are wrong.
    pub fn of_program() -> Options {
        Options::parse(std::env::args().skip(1)).unwrap_or_else(|error| {
            eprintln!("{error}");
            std::process::exit(2)
        })
    }

    /// The best instruction set on all cores: what benches use.
    pub fn for_benches() -> Options {
        Options::parse([]).expect("GABLE_ISA names an instruction set of this CPU")
    }
}
