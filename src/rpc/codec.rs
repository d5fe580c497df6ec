//! Messages that go out as the bytes they were made into beforehand, and are read however their
//! receiver wants them: the one codec of ours, for answers, for measuring clients and for benchmarks.

use std::marker::PhantomData;

use bytes::{Buf as _, BufMut as _, Bytes};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Bytes out; in, what `D` reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct BytesOut<D>(PhantomData<D>);

#[derive(Clone, Copy, Debug)]
pub struct EncodeBytes;

/// Reads a message as its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct DecodeBytes;

impl<D> Codec for BytesOut<D>
where
    D: Decoder<Error = Status> + Default + Send + 'static,
    D::Item: Send + 'static,
{
    type Encode = Bytes;
    type Decode = D::Item;
    type Encoder = EncodeBytes;
    type Decoder = D;

    fn encoder(&mut self) -> EncodeBytes {
        EncodeBytes
    }

    fn decoder(&mut self) -> D {
        D::default()
    }
}

impl Encoder for EncodeBytes {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for DecodeBytes {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
