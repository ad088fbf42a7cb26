//! The wire format of protobuf: one record after another.
//!
//! **Never** allocates for what it reads, **never** reads behind `end`, **never** recurses.
use std::ops::Range;

/// Groups in groups: as many as prost takes.
const MAX_GROUPS: usize = 100;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// A number of any width.
    Number,
    /// A message, a string, a payload or a packed list.
    Bytes,
    /// Something of protobuf's first version, which ONNX has never had.
    Group,
}

/// One field as it stands in the file.
pub(crate) struct Record {
    pub(crate) tag: u32,
    pub(crate) wire: Wire,
    /// Where its contents lie; for a group, up to its end.
    pub(crate) payload: Range<usize>,
}

/// Where the wire format breaks, and, if only bytes are missing, up to where they would reach.
pub(crate) struct Broken {
    pub(crate) offset: usize,
    pub(crate) needed: Option<u64>,
}

/// The record at `at`, in bytes that go to `end`; groups are read to their end.
pub(crate) fn record(bytes: &[u8], at: usize, end: usize) -> Result<Record, Broken> {
    let mut record = plain_record(bytes, at, end)?.0;
    let mut open = Vec::new();
    if record.wire == Wire::Group {
        open.push(record.tag);
    }
    while let Some(&group) = open.last() {
        let offset = record.payload.end;
        let (inner, closes) = plain_record(bytes, offset, end)?;
        record.payload.end = inner.payload.end;
        match inner.wire {
            Wire::Group if closes && inner.tag == group => drop(open.pop()),
            Wire::Group if closes || open.len() == MAX_GROUPS => return Err(Broken { offset, needed: None }),
            Wire::Group => open.push(inner.tag),
            _ => {}
        }
    }
    Ok(record)
}

/// The record at `at`, or the start or end (`true`) of a group.
fn plain_record(bytes: &[u8], at: usize, end: usize) -> Result<(Record, bool), Broken> {
    let (key, start) = varint(bytes, at, end)?;
    let (tag, kind) = (key >> 3, key & 7);
    let damaged = Broken { offset: at, needed: None };
    let Ok(tag @ 1..) = u32::try_from(tag) else { return Err(damaged) };
    let (wire, payload) = match kind {
        0 => (Wire::Number, start..varint(bytes, start, end)?.1),
        1 => (Wire::Number, span(start, 8, end)?),
        2 => {
            let (length, start) = varint(bytes, start, end)?;
            (Wire::Bytes, span(start, length, end)?)
        }
        3 | 4 => (Wire::Group, start..start),
        5 => (Wire::Number, span(start, 4, end)?),
        _ => return Err(damaged),
    };
    Ok((Record { tag, wire, payload }, kind == 4))
}

fn span(start: usize, length: u64, end: usize) -> Result<Range<usize>, Broken> {
    let needed = (start as u64).saturating_add(length);
    match usize::try_from(needed) {
        Ok(stop) if stop <= end => Ok(start..stop),
        _ => Err(Broken { offset: start, needed: Some(needed) }),
    }
}

/// The number at `at`, and where it ends.
fn varint(bytes: &[u8], at: usize, end: usize) -> Result<(u64, usize), Broken> {
    let mut value = 0u64;
    for (index, byte) in bytes[at..end].iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if *byte < 0x80 {
            return Ok((value, at + index + 1));
        }
    }
    let needed = (end - at < 10).then_some(end as u64 + 1);
    Err(Broken { offset: at, needed })
}
