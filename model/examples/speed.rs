//! Tokens per second of a GGUF file, prompt and generation: `speed FILE [exact]`.

use gable_kernels::{Kernels, Pool};
use gable_model::forward::Numerics;
use gable_model::model::{Model, OpenOptions};
use gable_model::session::{Session, SessionOptions};
use std::sync::Arc;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("which file?")?;
    let start = Instant::now();
    let model = Arc::new(Model::open(path.as_ref(), &OpenOptions::default())?);
    println!("open {:.3} s", start.elapsed().as_secs_f64());
    let mut options = SessionOptions::new(Kernels::new()?, 1024);
    if std::env::args().nth(2).is_some() {
        options.numerics = Numerics::Exact;
    }
    let mut session = Session::new(model, Arc::new(Pool::new(2)), options)?;
    let prompt: Vec<u32> = (0..512).map(|i| i * 37 % 5000).collect();
    for _ in 0..3 {
        session.truncate(0)?;
        let start = Instant::now();
        session.prefill(&prompt)?;
        println!("prompt {:.1} tokens/s", 512.0 / start.elapsed().as_secs_f64());
        session.truncate(0)?;
        let start = Instant::now();
        for token in 0..64 {
            session.decode(token)?;
        }
        println!("generation {:.1} tokens/s", 64.0 / start.elapsed().as_secs_f64());
    }
    Ok(())
}
