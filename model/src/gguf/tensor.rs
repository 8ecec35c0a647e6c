//! The tensor part of a header: names, shapes, types and places.
//!
//! A record is taken only if everything about it can be computed: at most four dimensions whose product fits, a type
//! that is implemented, rows of whole blocks, and an offset equal to the sum of the padded sizes before it. The last
//! rule leaves neither overlaps nor holes. Only when all records are read is it known where the data begin; then each
//! end is compared with the length of the file.

use gable_kernels::quant::Format;

use super::header::ByteReader;
use crate::LoadError;
use crate::tensor_table::{Dims, TensorInfo, check_place, unsupported_format};

/// Longest tensor name, in bytes: 64 with its terminating zero in other readers.
const MAX_NAME_BYTES: usize = 63;
/// Largest alignment of tensor data.
const MAX_ALIGNMENT: u32 = 65_536;
/// Alignment of tensor data where the file names none.
pub(super) const DEFAULT_ALIGNMENT: u32 = 32;

/// The alignment that `general.alignment` may have, as a `usize`.
pub(super) fn check_alignment(alignment: u32) -> Result<usize, LoadError> {
    let allowed = alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT;
    usize::try_from(alignment).ok().filter(|_| allowed).ok_or_else(|| LoadError::Metadata {
        key: "general.alignment".to_string(),
        reason: format!("is {alignment}; allowed: a power of two from 1 to {MAX_ALIGNMENT}"),
    })
}

/// Reads `count` records and places them behind the header.
pub(super) fn read_tensors(
    r: &mut ByteReader<'_>,
    count: u64,
    alignment: usize,
    shard: usize,
    file_len: usize,
) -> Result<Vec<TensorInfo>, LoadError> {
    let mut tensors = Vec::new();
    let mut expected = 0;
    for _ in 0..count {
        let tensor = read_tensor(r, shard, expected)?;
        let next =
            tensor.offset.checked_add(tensor.n_bytes).and_then(|end| end.checked_next_multiple_of(alignment));
        expected =
            next.ok_or_else(|| fault(&tensor.name, format!("its {} bytes overflow", tensor.n_bytes)))?;
        tensors.push(tensor);
    }
    let data = r.at().checked_next_multiple_of(alignment);
    for tensor in &mut tensors {
        let offset = data.and_then(|data| data.checked_add(tensor.offset));
        tensor.offset =
            offset.ok_or_else(|| fault(&tensor.name, format!("offset {} overflows", tensor.offset)))?;
        check_place(tensor, file_len)?;
    }
    Ok(tensors)
}

/// Reads a record whose data must begin at `expected`; its offset still counts from the first byte of data.
fn read_tensor(r: &mut ByteReader<'_>, shard: usize, expected: usize) -> Result<TensorInfo, LoadError> {
    let name = r.name("tensor name", MAX_NAME_BYTES)?;
    let (dims, type_id, offset) = read_fields(r).map_err(|err| match err {
        LoadError::Header { offset, reason } => fault(name, format!("{reason} (at byte {offset})")),
        other => other,
    })?;
    let Some(shape) = Dims::new(&dims) else {
        let fits = dims.len() <= Dims::MAX;
        let why = if fits { "has more elements than can be counted" } else { "has too many dimensions" };
        return Err(fault(
            name,
            format!("shape {dims:?} {why}; at most {} dimensions and 2^63 - 1", Dims::MAX),
        ));
    };
    let Some(format) = Format::from_gguf_id(type_id) else {
        let known = type_name(type_id).map_or(type_id.to_string(), |known| format!("{type_id} ({known})"));
        return Err(unsupported_format(name, &known));
    };
    if format.row_bytes(shape.cols()).is_none() {
        let (cols, block) = (shape.cols(), format.block_len());
        return Err(fault(
            name,
            format!("rows of {cols} values are no whole number of {format} blocks of {block}"),
        ));
    }
    let Some(n_bytes) = shape.n_bytes(format) else {
        return Err(fault(name, format!("shape {dims:?} of {format} has more bytes than can be counted")));
    };
    if usize::try_from(offset) != Ok(expected) {
        let reason = format!(
            "its data begin at offset {offset}, but the tensors before it end at {expected} (padded)"
        );
        return Err(fault(name, reason));
    }
    Ok(TensorInfo { name: name.into(), dims: shape, format, shard, offset: expected, n_bytes })
}

/// Dimensions, type number and offset as the file has them.
fn read_fields(r: &mut ByteReader<'_>) -> Result<(Vec<u64>, u32, u64), LoadError> {
    let n_dims = r.u32()?;
    if usize::try_from(n_dims).is_ok_and(|n| n > Dims::MAX) {
        return Err(r.error(format!("has {n_dims} dimensions; at most {} are read", Dims::MAX)));
    }
    let dims = (0..n_dims).map(|_| r.u64()).collect::<Result<Vec<u64>, LoadError>>()?;
    Ok((dims, r.u32()?, r.u64()?))
}

fn fault(name: &str, reason: String) -> LoadError {
    LoadError::Tensor { name: name.to_string(), reason }
}

/// Names of the types that have a number but no kernel here.
fn type_name(id: u32) -> Option<&'static str> {
    Some(match id {
        4 | 5 | 31..=33 | 36..=38 => "withdrawn",
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment_is_a_power_of_two_up_to_64_kib() {
        for good in [1, 2, 32, 65_536] {
            assert_eq!(check_alignment(good).ok(), usize::try_from(good).ok());
        }
        for bad in [0, 3, 48, 131_072, 1 << 31] {
            let err = check_alignment(bad).unwrap_err().to_string();
            assert!(err.contains(&format!("is {bad}; allowed: a power of two")), "{err}");
        }
    }

    #[test]
    fn implemented_types_are_not_listed_as_missing() {
        for id in 0..64 {
            assert!(Format::from_gguf_id(id).is_none() || type_name(id).is_none(), "{id}");
        }
    }
}
