//! How a vocabulary file spells bytes.
//!
//! Byte-level vocabularies (GPT-2 and after) spell each of the 256 bytes as one printable character: most of Latin-1
//! stands for itself, the rest is shifted to U+0100 and up, so that a space reads `Ġ`. SentencePiece vocabularies spell
//! text as it is, except that a space reads `▁` (U+2581) and a byte that is no text `<0xE2>`.

/// The spelling of a vocabulary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Alphabet {
    /// GPT-2's characters for bytes.
    ByteLevel,
    /// `▁` for space.
    SentencePiece,
}

/// SentencePiece's space.
pub(super) const SPACE_MARK: &str = "\u{2581}";

impl Alphabet {
    /// Appends what a spelling stands for; false, and nothing appended, if the alphabet has no such spelling.
    pub(super) fn read(self, spelling: &[u8], bytes: &mut Vec<u8>) -> bool {
        match self {
            Alphabet::ByteLevel => {
                let begin = bytes.len();
                let known = read_byte_level(spelling, bytes).is_some();
                if !known {
                    bytes.truncate(begin);
                }
                known
            }
            Alphabet::SentencePiece => {
                // Few tokens have a mark anywhere but in front, so copy what lies between marks as a whole.
                let (mark, mut rest) = (SPACE_MARK.as_bytes(), spelling);
                while let Some(at) = rest.windows(mark.len()).position(|window| window == mark) {
                    bytes.extend_from_slice(rest.get(..at).unwrap_or_default());
                    bytes.push(b' ');
                    rest = rest.get(at + mark.len()..).unwrap_or_default();
                }
                bytes.extend_from_slice(rest);
                // A space as such never comes out of the normaliser, so a token that holds one cannot match.
                !spelling.contains(&b' ')
            }
        }
    }
}

/// The byte that `<0xE2>` names.
pub(super) fn named_byte(spelling: &[u8]) -> Option<u8> {
    let digits = spelling.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let digits = std::str::from_utf8(digits).ok().filter(|d| d.len() == 2 && !d.starts_with('+'))?;
    u8::from_str_radix(digits, 16).ok()
}

fn read_byte_level(spelling: &[u8], bytes: &mut Vec<u8>) -> Option<()> {
    let mut rest = spelling.iter().copied();
    while let Some(first) = rest.next() {
        // All characters of the alphabet lie below U+0144: one or two bytes of UTF-8.
        let code = match first {
            0..0x80 => usize::from(first),
            0xC2..=0xC5 => {
                let second = rest.next().filter(|b| (0x80..0xC0).contains(b))?;
                usize::from(first & 0x1F) << 6 | usize::from(second & 0x3F)
            }
            _ => return None,
        };
        bytes.push(BYTE_OF_CHAR.get(code).copied().flatten()?);
    }
    Some(())
}

/// For each code point below U+0144 the byte it stands for.
static BYTE_OF_CHAR: [Option<u8>; 0x144] = {
    let mut table = [None; 0x144];
    let mut shifted = 0x100;
    let mut byte = 0;
    while byte < 256 {
        let printable = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let code = if printable { byte } else { shifted };
        if !printable {
            shifted += 1;
        }
        table[code] = Some(byte as u8);
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character_in_the_byte_level_alphabet() {
        let mut bytes: Vec<u8> = BYTE_OF_CHAR.iter().copied().flatten().collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn spellings_are_read_as_their_bytes() {
        let read = |alphabet: Alphabet, spelling: &str| {
            let mut bytes = Vec::new();
            alphabet.read(spelling.as_bytes(), &mut bytes).then_some(bytes)
        };
        assert_eq!(read(Alphabet::ByteLevel, "Ġhä"), Some(b" h\xe4".to_vec()));
        assert_eq!(read(Alphabet::ByteLevel, "ĊĠ"), Some(b"\n ".to_vec()));
        assert_eq!(read(Alphabet::ByteLevel, "日"), None);
        assert_eq!(read(Alphabet::ByteLevel, "a b"), None);
        assert_eq!(read(Alphabet::SentencePiece, "▁▁日"), Some("  日".as_bytes().to_vec()));
        assert_eq!(read(Alphabet::SentencePiece, "a b"), None);
        assert_eq!(named_byte(b"<0x0A>"), Some(10));
        assert_eq!(named_byte(b"<0x+A>"), None);
        assert_eq!(named_byte(b"<0x0A"), None);
    }
}
