//! Rope: an encoded message as a list of parts, without a copy of its large payloads.
//!
//! Why: `encode_to_vec` of a 500 MB model takes 2 s and 500 MB; the rope takes neither. prost hands each `bytes` field to
//! [`BufMut::put`] as a `Bytes`; large ones are kept as they are (a reference count), all else is copied to a staging buffer.
//!
//! **Never** copies a payload of [`KEEP`] bytes or more, **never** runs full.
use bytes::{Buf, BufMut, Bytes, BytesMut, buf::UninitSlice};
use prost::Message;

/// From this size on a payload is a part of its own.
const KEEP: usize = 4096;

/// The bytes of `message`, in order, in parts.
pub(crate) fn encode(message: &impl Message) -> Vec<Bytes> {
    let mut rope = Rope::default();
    message.encode(&mut rope).expect("a rope has no end");
    rope.cut();
    rope.parts
}

#[derive(Default)]
struct Rope {
    parts: Vec<Bytes>,
    /// What comes after the last part.
    staged: BytesMut,
    len: usize,
}

impl Rope {
    /// Makes what is staged a part.
    fn cut(&mut self) {
        if !self.staged.is_empty() {
            self.parts.push(self.staged.split().freeze());
        }
    }
}

#[expect(unsafe_code, reason = "BufMut is an unsafe trait, and prost writes to nothing else")]
// SAFETY: `chunk_mut` and `advance_mut` are those of `BytesMut`, which upholds the contract: the chunk stays valid and
// in place until the next call, and `put` and `put_slice` append through its safe methods only.
unsafe impl BufMut for Rope {
    fn remaining_mut(&self) -> usize {
        usize::MAX - self.len
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        self.len += count;
        // SAFETY: the caller has initialized `count` bytes of `chunk_mut()`, which is the chunk of `staged`.
        unsafe { self.staged.advance_mut(count) }
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        self.staged.chunk_mut()
    }

    fn put<T: Buf>(&mut self, mut payload: T) {
        let count = payload.remaining();
        self.len += count;
        if count >= KEEP {
            self.cut();
            self.parts.push(payload.copy_to_bytes(count)); // of a `Bytes`: a reference, no copy
        } else {
            self.staged.put(payload);
        }
    }

    fn put_slice(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        self.staged.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;

    use super::{KEEP, encode};
    use crate::schema::TensorProto;

    fn tensor(size: usize) -> TensorProto {
        TensorProto {
            dims: vec![size as i64],
            name: Some("w".into()),
            raw_data: Some(Bytes::from(vec![7; size])),
            ..Default::default()
        }
    }

    #[test]
    fn equals_the_encoding_of_prost() {
        for size in [0, 1, KEEP - 1, KEEP, KEEP + 1, 100_000] {
            assert_eq!(encode(&tensor(size)).concat(), tensor(size).encode_to_vec(), "{size}");
        }
    }

    #[test]
    fn keeps_large_payloads_where_they_lie() {
        let large = tensor(KEEP);
        let parts = encode(&large);
        let payload = large.raw_data.as_ref().unwrap().as_ptr();
        assert!(parts.iter().any(|part| part.as_ptr() == payload));
        let small = tensor(KEEP - 1);
        assert_eq!(encode(&small).len(), 1);
    }
}
