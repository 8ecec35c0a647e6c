//! Says what a file is that is not the model it was taken for.
//!
//! Most failed loads are not damaged models but other things under a model's name: the error page of a download, the
//! pointer file of a version control system, a checkpoint in another format. A first look at the bytes gives an
//! answer that helps more than a wrong magic number.

/// What the bytes look like and what to do about it, or `None` if they look like nothing known.
pub(crate) fn describe(bytes: &[u8]) -> Option<&'static str> {
    const MAGICS: [(&[u8], &str); 19] = [
        (b"GGUF", "is a GGUF file; open it as one, by its own name"),
        (b"version https://git-lfs", "is a Git LFS pointer, not the model itself; run `git lfs pull`"),
        (
            b"PK\x03\x04",
            "looks like a zip archive, perhaps a PyTorch checkpoint; convert it to GGUF or safetensors",
        ),
        (
            b"\x80\x02",
            "looks like a Python pickle (an old PyTorch checkpoint); convert it to GGUF or safetensors",
        ),
        (b"lmgg", "is a GGML file from before GGUF; convert the original model again"),
        (b"fmgg", "is a GGMF file from before GGUF; convert the original model again"),
        (b"tjgg", "is a GGJT file from before GGUF; convert the original model again"),
        (b"algg", "is an old GGLA adapter, not a model"),
        (b"\x1f\x8b", "is compressed with gzip; decompress it first"),
        (b"\x28\xb5\x2f\xfd", "is compressed with zstd; decompress it first"),
        (b"\xfd7zXZ\0", "is compressed with xz; decompress it first"),
        (b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive; extract it first"),
        (b"BZh", "is compressed with bzip2; decompress it first"),
        (b"\x89HDF", "is an HDF5 file; convert it to GGUF or safetensors"),
        (b"\x93NUMPY", "is a NumPy array; convert it to GGUF or safetensors"),
        (b"%PDF", "is a PDF document"),
        (b"\x7fELF", "is a program, not a model"),
        (b"MZ", "is a program, not a model"),
        (b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "begins with zeros; the download was probably interrupted"),
    ];
    if let Some((_, text)) = MAGICS.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some(text);
    }
    let text = bytes.trim_ascii_start();
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let starts =
        |word: &str| text.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word.as_bytes()));
    if ["<!doctype", "<html", "<head", "<body", "<?xml", "<!--"].into_iter().any(starts) {
        return Some(
            "looks like an HTML page: the download was probably an error page; fetch the file again",
        );
    }
    if text.starts_with(b"{") || text.starts_with(b"[") {
        return Some("looks like JSON, not a model; perhaps the reply of a failed download or a config file");
    }
    if is_safetensors(bytes) {
        return Some(
            "looks like a safetensors file; open the folder that holds it together with config.json",
        );
    }
    None
}

/// Eight bytes of header length that fit the file, then a JSON object.
fn is_safetensors(bytes: &[u8]) -> bool {
    let Some((len, rest)) = bytes.split_first_chunk::<8>() else { return false };
    let len = u64::from_le_bytes(*len);
    rest.trim_ascii_start().starts_with(b"{") && usize::try_from(len).is_ok_and(|n| n >= 2 && n <= rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_mix_ups_are_recognised() {
        let cases: [(&[u8], &str); 9] = [
            (b"<!DOCTYPE html><html>", "HTML page"),
            (b"\n  <HTML lang=en>", "HTML page"),
            (b"\xef\xbb\xbf<html>", "HTML page"),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
            (b"PK\x03\x04....", "zip archive"),
            (b"{\"error\": \"not found\"}", "JSON"),
            (b"\x02\0\0\0\0\0\0\0{}", "safetensors"),
            (b"tjgg\x03\0\0\0", "before GGUF"),
            (&[0; 64], "begins with zeros"),
        ];
        for (bytes, want) in cases {
            let got = describe(bytes).unwrap_or_default();
            assert!(got.contains(want), "{got:?} lacks {want:?}");
        }
        assert_eq!(describe(b"nothing in particular"), None);
        assert_eq!(describe(b""), None);
    }
}
