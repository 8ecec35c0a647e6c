//! The sum at a saved session's end.

use std::io::{self, Write};

/// The checksum of a file's bytes: words of eight bytes, each rotated into the last state and multiplied.
pub fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = Checksum::default();
    sum.add(bytes);
    sum.value()
}

/// Words of eight bytes, whatever pieces they come in.
#[derive(Debug, Clone, Default)]
pub(super) struct Checksum {
    state: u64,
    /// Bytes that do not make a word yet.
    rest: [u8; 8],
    n_rest: usize,
    length: u64,
}

impl Checksum {
    fn word(&mut self, word: [u8; 8]) {
        self.state =
            (self.state.rotate_left(23) ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    pub(super) fn add(&mut self, mut bytes: &[u8]) {
        self.length = self.length.wrapping_add(bytes.len().try_into().unwrap_or(u64::MAX));
        while self.n_rest > 0
            && let Some((byte, more)) = bytes.split_first()
        {
            bytes = more;
            self.push(*byte);
        }
        let (words, rest) = bytes.as_chunks();
        words.iter().for_each(|word| self.word(*word));
        rest.iter().for_each(|byte| self.push(*byte));
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.rest.get_mut(self.n_rest) {
            *place = byte;
            self.n_rest = self.n_rest.saturating_add(1);
        }
        if self.n_rest == self.rest.len() {
            let word = std::mem::take(&mut self.rest);
            self.n_rest = 0;
            self.word(word);
        }
    }

    pub(super) fn value(&self) -> u64 {
        let mut last = self.clone();
        last.word(self.rest);
        last.word(self.length.to_le_bytes());
        last.state ^ (last.state >> 29)
    }
}

/// A writer that sums what passes through it.
pub(super) struct Summed<'w> {
    pub(super) out: &'w mut dyn Write,
    pub(super) sum: Checksum,
}

impl Summed<'_> {
    /// A length, as four bytes.
    pub(super) fn u32(&mut self, n: usize) -> io::Result<()> {
        let n = u32::try_from(n).map_err(io::Error::other)?;
        self.write_all(&n.to_le_bytes())
    }

    /// A length, as eight bytes.
    pub(super) fn u64(&mut self, n: usize) -> io::Result<()> {
        let n = u64::try_from(n).map_err(io::Error::other)?;
        self.write_all(&n.to_le_bytes())
    }
}

impl Write for Summed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.sum.add(bytes.get(..n).unwrap_or_default());
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_does_not_depend_on_the_pieces_but_on_every_byte_and_the_length() {
        let bytes: Vec<u8> = (0..100u8).collect();
        for cut in 0..100 {
            let mut sum = Checksum::default();
            sum.add(&bytes[..cut]);
            sum.add(&bytes[cut..]);
            assert_eq!(sum.value(), checksum(&bytes), "{cut}");
            let mut other = bytes.clone();
            other[cut] ^= 0x40;
            assert_ne!(checksum(&other), checksum(&bytes), "{cut}");
        }
        assert_ne!(checksum(&[]), checksum(&[0]));
        assert_ne!(checksum(&[0; 8]), checksum(&[0; 16]));
    }
}
