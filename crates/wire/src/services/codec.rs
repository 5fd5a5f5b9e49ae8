//! The codec under every call: it sends bytes that are a message already, and reads a message straight
//! into a noun of `model`. Used by the clients and by the router; knows no method.

use crate::WireError;
use bytes::{Buf, BufMut, Bytes};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// First allocation per call that is sent on, bytes. Requests and idle streams need far less than tonic's 8 KiB, and
/// a control plane holds thousands of streams; larger messages reserve what they need.
const BUFFER: usize = 512;

/// How many bytes of ready messages are sent in one piece.
const YIELD: usize = 32 * 1024;

/// Sends `Bytes`, receives what `decode` makes of a message.
pub(super) struct BytesCodec<F> {
    decode: F,
}

impl<F> BytesCodec<F> {
    pub(super) fn new(decode: F) -> Self {
        Self { decode }
    }
}

impl<F, T> Codec for BytesCodec<F>
where
    F: Fn(&mut DecodeBuf<'_>) -> Result<T, WireError> + Clone + Send + 'static,
    T: Send + 'static,
{
    type Encode = Bytes;
    type Decode = T;
    type Encoder = BytesEncoder;
    type Decoder = ModelDecoder<F>;

    fn encoder(&mut self) -> BytesEncoder {
        BytesEncoder
    }

    fn decoder(&mut self) -> ModelDecoder<F> {
        ModelDecoder { decode: self.decode.clone() }
    }
}

/// Copies a message into the stream.
pub(super) struct BytesEncoder;

impl Encoder for BytesEncoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(message.len());
        out.put(message);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, YIELD)
    }
}

/// Reads a message. One that cannot be read ends the stream with INTERNAL, which every caller retries.
pub(super) struct ModelDecoder<F> {
    decode: F,
}

impl<F, T> Decoder for ModelDecoder<F>
where
    F: Fn(&mut DecodeBuf<'_>) -> Result<T, WireError>,
{
    type Item = T;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let decoded = (self.decode)(bytes);
        // The frame must be used up, or its rest would be taken for the next one.
        bytes.advance(bytes.remaining());
        match decoded {
            Ok(value) => Ok(Some(value)),
            Err(e @ WireError::Malformed { .. }) => Err(Status::internal(e.to_string())),
            Err(e) => Err(Status::invalid_argument(e.to_string())),
        }
    }

    /// Nothing before there is a message: then what it needs.
    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(0, YIELD)
    }
}
