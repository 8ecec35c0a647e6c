//! A session in a file, to go on with later without reading its text again.
//!
//! All integers are little-endian; elements of the cache have the byte order of the machine that wrote them.
//!
//! ```text
//! magic        8 bytes, "GABLESES"
//! version      u32, 1
//! byte order   u32, 0x01020304 as the machine wrote it
//! model        u64, its identity: see `identity`        name    u32 and that many bytes of UTF-8
//! cache type   u32: 0 f32, 1 f16, 2 bf16, 3 q8_0
//! shape        u32 layers, u32 key heads, u32 head dimension
//! note         u64 and that many bytes, which are the caller's own
//! tokens       u64 and that many u32
//! first        u64 per layer: the first position that the layer holds (sliding windows leave some behind)
//! rows         per layer: positions first .. tokens, each as `KvCache::export` gives it
//! checksum     u64 of everything before it
//! ```
//!
//! Nothing in a file is believed: every length is compared with what is left, and nothing is allocated by one.

mod checksum;

pub use checksum::checksum;

use crate::LoadError;
use crate::config::ModelConfig;
use crate::gguf::ByteReader;
use crate::model::Model;
use crate::session::Session;
use crate::window;
use checksum::{Checksum, Summed};
use gable_kernels::attention::{CacheType, PAGE};
use std::io::{self, Write};

const MAGIC: &[u8; 8] = b"GABLESES";
const VERSION: u32 = 1;
const BYTE_ORDER: u32 = 0x0102_0304;
/// Bytes of a tensor that go into a model's identity.
const SAMPLE: usize = 64;

const CACHE_TYPES: [CacheType; 4] = [CacheType::F32, CacheType::F16, CacheType::Bf16, CacheType::Q8_0];

/// A number for a model: of its shape, of how it knows positions, and of every tensor's name, shape, type and first 64
/// bytes. Copies of a model have the same one, other weights of the same shape another. It reads a page or two of each
/// tensor.
pub fn identity(model: &Model) -> u64 {
    let mut sum = Checksum::default();
    let ModelConfig { architecture, n_layers, n_heads, n_kv_heads, head_dim, positions, windows, .. } =
        model.config();
    let shape = [n_layers, n_heads, n_kv_heads, head_dim];
    sum.add(format!("{architecture} {shape:?} {positions:?} {windows:?}").as_bytes());
    for tensor in model.files().tensors() {
        sum.add(format!("{} {:?} {}", tensor.name, tensor.dims, tensor.format).as_bytes());
        let bytes = model.files().bytes(tensor);
        sum.add(bytes.get(..SAMPLE).unwrap_or(bytes));
    }
    sum.value()
}

impl Session {
    /// Writes the tokens and what the model has made of them, so that [`restore`](Session::restore) goes on with the
    /// same bits, and a `note` of the caller's.
    ///
    /// Write to a temporary file, bring it to the disk, and rename it: then there is a whole file or none.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn save(&self, note: &[u8], out: &mut dyn Write) -> io::Result<()> {
        let (engine, sequence) = self.engine();
        let (model, cache) = (&engine.model, &engine.cache);
        let shape = cache.shape();
        let mut out = Summed { out, sum: Checksum::default() };
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&BYTE_ORDER.to_ne_bytes())?;
        out.write_all(&identity(model).to_le_bytes())?;
        out.u32(model.name().len())?;
        out.write_all(model.name().as_bytes())?;
        out.u32(CACHE_TYPES.iter().position(|t| *t == shape.cache_type).unwrap_or(CACHE_TYPES.len()))?;
        for extent in [shape.n_layers, shape.n_kv_heads, shape.head_dim] {
            out.u32(extent)?;
        }
        out.u64(note.len())?;
        out.write_all(note)?;
        let len = self.tokens().len();
        out.u64(len)?;
        for token in self.tokens() {
            out.write_all(&token.to_le_bytes())?;
        }
        let first = |layer: usize| cache.first_held(sequence, layer).map_err(io::Error::other);
        for layer in 0..shape.n_layers {
            out.u64(first(layer)?)?;
        }
        let mut page = vec![0; cache.position_bytes().saturating_mul(PAGE)];
        for layer in 0..shape.n_layers {
            let mut position = first(layer)?;
            while position < len {
                let end = position.saturating_add(PAGE).min(len);
                let n_bytes = end.saturating_sub(position).saturating_mul(cache.position_bytes());
                let rows = page.get_mut(..n_bytes).unwrap_or_default();
                cache.export(sequence, layer, position..end, rows).map_err(io::Error::other)?;
                out.write_all(rows)?;
                position = end;
            }
        }
        let sum = out.sum.value();
        out.write_all(&sum.to_le_bytes())?;
        out.flush()
    }

    /// Takes on what [`save`](Session::save) wrote, in place of what the session holds, and gives the note.
    ///
    /// The session must have the same model, cache type and shape; its context can be another, if it is long enough, and
    /// it may keep what sliding windows leave behind or not.
    ///
    /// # Errors
    /// [`LoadError`] for a file that is cut short, damaged or of another session, naming both values; the session is as
    /// before then. (Should the cache refuse what it has room for, the session is empty.)
    pub fn restore<'f>(&mut self, file: &'f [u8]) -> Result<&'f [u8], LoadError> {
        let parts = Parts::read(file, self)?;
        let (engine, sequence) = self.engine_mut();
        // All that could be wrong with the file has been looked at. What is left is the cache's own business.
        let restored = engine.cache.truncate(sequence, 0).and_then(|()| {
            let config = engine.model.config();
            let position_bytes = engine.cache.position_bytes();
            for (layer, (first, rows)) in parts.layers.iter().enumerate() {
                let needed = if engine.keep_all { 0 } else { needed(config, layer, parts.tokens.len()) };
                let from = (*first).max(needed / PAGE * PAGE);
                let skipped = from.saturating_sub(*first).saturating_mul(position_bytes);
                engine.cache.import(sequence, layer, from, rows.get(skipped..).unwrap_or_default())?;
            }
            Ok(())
        });
        if let Err(error) = restored {
            self.clear();
            return Err(different("memory", error.to_string(), "more".to_owned()));
        }
        self.set_tokens(&parts.tokens);
        Ok(parts.note)
    }
}

/// The first position that a layer must hold for a row at `next`.
fn needed(config: &ModelConfig, layer: usize, next: usize) -> usize {
    let window = config.windows.get(layer).copied().flatten();
    window.map_or(0, |n| window::first_key(next, n))
}

/// A file that was looked at from end to end.
struct Parts<'f> {
    note: &'f [u8],
    tokens: Vec<u32>,
    /// For each layer its first position and its rows.
    layers: Vec<(usize, &'f [u8])>,
}

impl<'f> Parts<'f> {
    fn read(file: &'f [u8], session: &Session) -> Result<Parts<'f>, LoadError> {
        let (engine, _) = session.engine();
        let (model, cache) = (&engine.model, &engine.cache);
        let shape = cache.shape();
        let mut reader = Fields(ByteReader::new(file));
        if reader.take(8, "the magic")? != MAGIC {
            return Err(reader.0.error("is no saved session".to_owned()));
        }
        let version = reader.u32("the version")?;
        reader.same("version", version, u64::from(VERSION))?;
        let order = reader.take(4, "the byte order")?;
        if order != BYTE_ORDER.to_ne_bytes() {
            let found = format!("{order:02x?}");
            return Err(different("byte order", found, format!("{:02x?}", BYTE_ORDER.to_ne_bytes())));
        }
        let found = reader.u64("the model")?;
        let n = reader.u32("the model's name")?;
        let name = String::from_utf8_lossy(reader.take(n, "the model's name")?);
        let own = identity(model);
        if found != own {
            let found = format!("{name} ({found:016x})");
            return Err(different("model", found, format!("{} ({own:016x})", model.name())));
        }
        let cache_type = reader.u32("the cache type")?;
        let found = usize::try_from(cache_type).ok().and_then(|i| CACHE_TYPES.get(i));
        if found != Some(&shape.cache_type) {
            let found = found.map_or_else(|| cache_type.to_string(), |t| t.name().to_owned());
            return Err(different("cache type", found, shape.cache_type.name().to_owned()));
        }
        for (what, extent) in [
            ("number of layers", shape.n_layers),
            ("number of key heads", shape.n_kv_heads),
            ("head dimension", shape.head_dim),
        ] {
            let found = reader.u32(what)?;
            reader.same(what, found, extent.try_into().unwrap_or(u64::MAX))?;
        }
        let n = reader.u64("the note's length")?;
        let note = reader.take(n, "the note")?;
        let n = reader.u64("the number of tokens")?;
        let bytes = reader.take(n.saturating_mul(4), "the tokens")?;
        let len = bytes.len() / 4;
        if len > engine.max_positions {
            let needed = format!("at most {}, the context", engine.max_positions);
            return Err(different("number of tokens", len.to_string(), needed));
        }
        let tokens: Vec<u32> = bytes.as_chunks().0.iter().map(|id| u32::from_le_bytes(*id)).collect();
        let vocab_size = model.config().vocab_size;
        if let Some(id) = tokens.iter().find(|id| usize::try_from(**id).map_or(true, |id| id >= vocab_size)) {
            return Err(different("token", id.to_string(), format!("below {vocab_size}")));
        }
        let mut firsts = Vec::new();
        for layer in 0..shape.n_layers {
            let first = reader.u64("a layer's first position")?;
            let most = needed(model.config(), layer, len);
            match usize::try_from(first) {
                Ok(first) if first.is_multiple_of(PAGE) && first <= most => firsts.push(first),
                _ => {
                    let needed = format!("a multiple of {PAGE} up to {most}");
                    return Err(different("first position of a layer", first.to_string(), needed));
                }
            }
        }
        let mut layers = Vec::new();
        for first in firsts {
            let n = len.saturating_sub(first).saturating_mul(cache.position_bytes());
            layers.push((first, reader.take(n.try_into().unwrap_or(u64::MAX), "a layer's rows")?));
        }
        let sum = checksum(file.get(..reader.0.at()).unwrap_or_default());
        let found = reader.u64("the checksum")?;
        if found != sum {
            let found = format!("{found:016x}");
            return Err(different("checksum", found, format!("{sum:016x}: the file is damaged")));
        }
        reader.same("number of bytes behind its end", reader.0.left().try_into().unwrap_or(u64::MAX), 0)?;
        Ok(Parts { note, tokens, layers })
    }
}

fn different(what: &'static str, found: String, needed: String) -> LoadError {
    LoadError::OtherSession { what, found, needed }
}

/// Reads with errors that name what is missing.
struct Fields<'f>(ByteReader<'f>);

impl<'f> Fields<'f> {
    fn take(&mut self, n: u64, what: &str) -> Result<&'f [u8], LoadError> {
        self.holds(n, what)?;
        self.0.take(n)
    }

    fn u32(&mut self, what: &str) -> Result<u64, LoadError> {
        self.holds(4, what)?;
        self.0.u32().map(u64::from)
    }

    fn u64(&mut self, what: &str) -> Result<u64, LoadError> {
        self.holds(8, what)?;
        self.0.u64()
    }

    fn holds(&self, n: u64, what: &str) -> Result<(), LoadError> {
        let left = self.0.left();
        if usize::try_from(n).is_ok_and(|n| n <= left) {
            return Ok(());
        }
        Err(self.0.error(format!("{what}: {n} bytes are needed but {left} are left; the file is cut short")))
    }

    fn same(&self, what: &'static str, found: u64, needed: u64) -> Result<(), LoadError> {
        if found == needed { Ok(()) } else { Err(different(what, found.to_string(), needed.to_string())) }
    }
}
