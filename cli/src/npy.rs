//! The head of NumPy's `.npy` files, for arrays of f32 that are written row by row.

/// Magic, version 1.0 and description of a little-endian, row-major f32 array; 64-byte aligned as NumPy writes it.
pub fn header(rows: usize, cols: usize) -> Vec<u8> {
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    while (text.len().saturating_add(11)) % 64 != 0 {
        text.push(' ');
    }
    text.push('\n');
    let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend(len.to_le_bytes());
    out.extend(text.bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_aligned_and_names_its_length() {
        for (rows, cols) in [(1, 1), (512, 262_144), (7, 49_152)] {
            let head = header(rows, cols);
            assert_eq!(head.len() % 64, 0);
            assert_eq!(usize::from(u16::from_le_bytes([head[8], head[9]])), head.len() - 10);
            assert!(head.starts_with(b"\x93NUMPY\x01\x00") && head[10] == b'{');
            assert_eq!(head.last(), Some(&b'\n'));
        }
    }
}
