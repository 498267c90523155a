//! Frames and their bytes. (SPDY/3, section 2.2 and 2.6.)

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::Error;
use crate::headers::{Deflater, Headers, Inflater};

/// Most bytes of a control frame; header blocks are by far the largest.
const MAX_CONTROL: usize = 16 * 1024;
/// Most bytes of a data frame from a client; kubectl's have 32 KiB.
const MAX_DATA: usize = 1024 * 1024;
/// Bytes before a frame's content.
const HEAD: usize = 8;
/// First bit of a control frame; then comes the version.
const CONTROL: u16 = 0x8000;
const VERSION: u16 = 3;
/// All other bits of a stream's number.
const STREAM: u32 = 0x7fff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;
/// The setting that says how much may be sent on a new stream.
const INITIAL_WINDOW: u32 = 7;

/// Why a stream is reset.
pub const PROTOCOL_ERROR: u32 = 1;
/// A stream that is not known (any more).
pub const INVALID_STREAM: u32 = 2;
/// A stream that is not wanted.
pub const REFUSED_STREAM: u32 = 3;

/// A stream that is not needed any more.
pub const CANCEL: u32 = 5;

/// Why a connection ends: all is well.
pub const GOAWAY_OK: u32 = 0;
/// Why a connection ends: the other side does not keep to the protocol.
pub const GOAWAY_PROTOCOL_ERROR: u32 = 1;

/// What goes over the connection, both ways.
#[derive(Debug, PartialEq)]
pub enum Frame {
    /// The client opens a stream.
    SynStream {
        /// Its number.
        stream: u32,
        /// Whether nothing more comes on it.
        fin: bool,
        /// Whether nothing may be sent on it.
        unidirectional: bool,
        /// What it is for.
        headers: Headers,
    },
    /// A stream is taken; without headers.
    SynReply {
        /// The stream.
        stream: u32,
    },
    /// The end of a stream, both ways and at once.
    Reset {
        /// The stream.
        stream: u32,
        /// Why.
        status: u32,
    },
    /// Of all settings, the only one that counts here. Never sent.
    Settings {
        /// How much may be sent on a new stream, if it says so.
        initial_window: Option<u32>,
    },
    /// To be sent back as it is.
    Ping(u32),
    /// No more streams will be opened.
    GoAway {
        /// The last stream that was taken.
        last: u32,
        /// Why.
        status: u32,
    },
    /// More headers of a stream; they mean nothing here. Never sent.
    Headers {
        /// The stream.
        stream: u32,
        /// Whether nothing more comes on it.
        fin: bool,
    },
    /// So many bytes more may be sent on a stream; 0 is the whole connection.
    WindowUpdate {
        /// The stream.
        stream: u32,
        /// Bytes.
        delta: u32,
    },
    /// Bytes of a stream.
    Data {
        /// The stream.
        stream: u32,
        /// Whether nothing more comes on it.
        fin: bool,
        /// At most 16 MiB.
        bytes: Bytes,
    },
}

/// Takes frames off the bytes of the other side.
pub struct FrameDecoder(Inflater);

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameDecoder {
    /// For a new connection.
    pub fn new() -> Self {
        Self(Inflater::new())
    }

    /// Reads a control frame; none if it is of a kind that may be passed over.
    fn control(&mut self, kind: u16, flags: u8, mut body: &[u8]) -> Result<Option<Frame>, Error> {
        const SHORT: Error = Error::Malformed("a control frame is too short");
        let mut word = || body.try_get_u32().map_err(|_| SHORT);
        let fin = flags & FIN != 0;
        let frame = match kind {
            SYN_STREAM => {
                let stream = word()? & STREAM;
                // The stream it belongs to, and its priority.
                word()?;
                let headers = self.0.read(body.get(2..).ok_or(SHORT)?)?;
                Frame::SynStream { stream, fin, unidirectional: flags & UNIDIRECTIONAL != 0, headers }
            }
            SYN_REPLY => {
                let stream = word()? & STREAM;
                self.0.read(body)?;
                Frame::SynReply { stream }
            }
            RST_STREAM => Frame::Reset { stream: word()? & STREAM, status: word()? },
            SETTINGS => {
                let count = word()?;
                let mut initial_window = None;
                for _ in 0..count {
                    let (id, value) = (word()? & 0x00ff_ffff, word()?);
                    if id == INITIAL_WINDOW {
                        initial_window = Some(value);
                    }
                }
                Frame::Settings { initial_window }
            }
            PING => Frame::Ping(word()?),
            GOAWAY => Frame::GoAway { last: word()? & STREAM, status: word()? },
            HEADERS => {
                let stream = word()? & STREAM;
                self.0.read(body)?;
                Frame::Headers { stream, fin }
            }
            WINDOW_UPDATE => Frame::WindowUpdate { stream: word()? & STREAM, delta: word()? & STREAM },
            // The specification wants unknown kinds passed over.
            _ => return Ok(None),
        };
        Ok(Some(frame))
    }
}

impl Decoder for FrameDecoder {
    type Item = Frame;
    type Error = Error;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Frame>, Error> {
        loop {
            let Some(mut head) = source.get(..HEAD) else { return Ok(None) };
            let (first, second) = (head.get_u32(), head.get_u32());
            let (flags, length) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
            let control = (first >> 16) as u16 & CONTROL != 0;
            let most = if control { MAX_CONTROL } else { MAX_DATA };
            if length > most {
                return Err(Error::TooLarge { what: "frame", size: length });
            }
            let version = (first >> 16) as u16 & !CONTROL;
            if control && version != VERSION {
                return Err(Error::Version(version));
            }
            if source.len() < HEAD + length {
                source.reserve(HEAD + length - source.len());
                return Ok(None);
            }
            source.advance(HEAD);
            let body = source.split_to(length).freeze();
            if !control {
                return Ok(Some(Frame::Data { stream: first & STREAM, fin: flags & FIN != 0, bytes: body }));
            }
            if let Some(frame) = self.control(first as u16, flags, &body)? {
                return Ok(Some(frame));
            }
        }
    }
}

/// Makes bytes of frames.
pub struct FrameEncoder(Deflater);

impl FrameEncoder {
    /// For a new connection.
    ///
    /// # Errors
    /// When zlib fails.
    pub fn new() -> Result<Self, Error> {
        Ok(Self(Deflater::new()?))
    }
}

impl Encoder<Frame> for FrameEncoder {
    type Error = Error;

    fn encode(&mut self, frame: Frame, out: &mut BytesMut) -> Result<(), Error> {
        match frame {
            Frame::SynReply { stream } => {
                let block = self.0.write(&Headers::default())?;
                head(out, SYN_REPLY, 4 + block.len());
                out.put_u32(stream);
                out.put_slice(&block);
            }
            Frame::Reset { stream, status } => pair(out, RST_STREAM, stream, status),
            Frame::GoAway { last, status } => pair(out, GOAWAY, last, status),
            Frame::WindowUpdate { stream, delta } => pair(out, WINDOW_UPDATE, stream, delta),
            Frame::Ping(id) => {
                head(out, PING, 4);
                out.put_u32(id);
            }
            Frame::Data { stream, fin, bytes } => {
                // Callers cut their data into far smaller pieces than the 16 MiB a frame can hold.
                out.put_u32(stream);
                out.put_u32(u32::from(fin) << 24 | bytes.len() as u32);
                out.put_slice(&bytes);
            }
            Frame::SynStream { stream, fin, unidirectional, headers } => {
                let block = self.0.write(&headers)?;
                if block.len() > MAX_CONTROL {
                    return Err(Error::TooLarge { what: "header block", size: block.len() });
                }
                let flags = if fin { FIN } else { 0 } | if unidirectional { UNIDIRECTIONAL } else { 0 };
                out.put_u16(CONTROL | VERSION);
                out.put_u16(SYN_STREAM);
                out.put_u32(u32::from(flags) << 24 | (10 + block.len()) as u32);
                out.put_u32(stream);
                // The stream that it belongs to, and its priority.
                out.put_bytes(0, 6);
                out.put_slice(&block);
            }
            Frame::Settings { .. } | Frame::Headers { .. } => {
                return Err(Error::Malformed("no such frame is sent from here"));
            }
        }
        Ok(())
    }
}

fn head(out: &mut BytesMut, kind: u16, length: usize) {
    out.put_u16(CONTROL | VERSION);
    out.put_u16(kind);
    out.put_u32(length as u32);
}

fn pair(out: &mut BytesMut, kind: u16, first: u32, second: u32) {
    head(out, kind, 8);
    out.put_u32(first);
    out.put_u32(second);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A control frame by hand.
    fn control(kind: u16, flags: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![0x80, 3];
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&(u32::from(flags) << 24 | body.len() as u32).to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    fn decode(bytes: &[u8]) -> Result<Vec<Frame>, Error> {
        let (mut decoder, mut source) = (FrameDecoder::new(), BytesMut::new());
        let mut frames = Vec::new();
        // Byte by byte: a frame may come in any number of pieces.
        for byte in bytes {
            source.put_u8(*byte);
            while let Some(frame) = decoder.decode(&mut source)? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn frames_survive_their_bytes() {
        let bytes = Bytes::from_static(b"some bytes");
        let headers = |kind: &str| Headers::new([("streamtype", kind)]);
        let frames = [
            Frame::SynStream { stream: 3, fin: false, unidirectional: false, headers: headers("stdin") },
            Frame::SynStream { stream: 5, fin: true, unidirectional: true, headers: headers("error") },
            Frame::Data { stream: 3, fin: false, bytes: bytes.clone() },
            Frame::Data { stream: 5, fin: true, bytes: Bytes::new() },
            Frame::Ping(7),
            Frame::SynReply { stream: 3 },
            Frame::Reset { stream: 3, status: PROTOCOL_ERROR },
            Frame::WindowUpdate { stream: 0, delta: 9 },
            Frame::GoAway { last: 5, status: GOAWAY_OK },
        ];
        let mut encoder = FrameEncoder::new().unwrap();
        let mut out = BytesMut::new();
        let count = frames.len();
        let debug = format!("{frames:?}");
        for frame in frames {
            encoder.encode(frame, &mut out).unwrap();
        }
        let read = decode(&out).unwrap();
        assert_eq!(read.len(), count);
        assert_eq!(format!("{read:?}"), debug);
    }

    #[test]
    fn settings_are_read_and_unknown_frames_passed_over() {
        let mut settings = 2_u32.to_be_bytes().to_vec();
        for word in [4_u32, 100, 0x0100_0000 | INITIAL_WINDOW, 12345] {
            settings.extend_from_slice(&word.to_be_bytes());
        }
        let bytes = [control(10, 0, b"x"), control(SETTINGS, 0, &settings), control(5, 0, &[])].concat();
        assert_eq!(decode(&bytes).unwrap(), [Frame::Settings { initial_window: Some(12345) }]);
        // It says more settings than it holds.
        assert!(decode(&control(SETTINGS, 0, &u32::MAX.to_be_bytes())).is_err());
    }

    #[test]
    fn nonsense_is_an_error_and_no_panic() {
        assert!(matches!(decode(&[0x80, 2, 0, 1, 0, 0, 0, 0]), Err(Error::Version(2))));
        assert!(matches!(decode(&[0x80, 3, 0, 1, 0, 0xff, 0, 0]), Err(Error::TooLarge { .. })));
        assert!(matches!(decode(&[0, 0, 0, 1, 0, 0xff, 0, 0]), Err(Error::TooLarge { .. })));
        for kind in 0..20 {
            for length in 0..24 {
                let _ = decode(&control(kind, 0xff, &vec![0xa5; length]));
            }
        }
        // A small generator of numbers: the same nonsense in every run.
        let mut seed = 1_u32;
        for _ in 0..2000 {
            let mut bytes = vec![0x80, 3, 0];
            for _ in 0..200 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                bytes.push((seed >> 24) as u8);
            }
            bytes[3] %= 12;
            bytes[5] = 0;
            bytes[6] = 0;
            let _ = decode(&bytes);
        }
    }
}
