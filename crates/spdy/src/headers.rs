//! Header blocks: names and values, deflated with a dictionary that both sides know. (SPDY/3, section 2.6.10.)
//!
//! All blocks of one direction are one zlib stream, each ended by a sync flush. So every block must be inflated, even those of
//! frames that are refused, or none that follows can be read.

use bytes::Buf;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::Error;

/// Most bytes of an inflated block. Clients send a handful of short headers.
const MAX_BLOCK: usize = 16 * 1024;
/// Most headers in a block.
const MAX_HEADERS: u32 = 64;
/// Room for a deflated block without headers.
const EMPTY_BLOCK: usize = 256;

/// The dictionary's first part: each word stands there behind its length.
#[rustfmt::skip]
const WORDS: [&str; 65] = [
    "options", "head", "post", "put", "delete", "trace", "accept", "accept-charset",
    "accept-encoding", "accept-language", "accept-ranges", "age", "allow", "authorization",
    "cache-control", "connection", "content-base", "content-encoding", "content-language",
    "content-length", "content-location", "content-md5", "content-range", "content-type", "date",
    "etag", "expect", "expires", "from", "host", "if-match", "if-modified-since", "if-none-match",
    "if-range", "if-unmodified-since", "last-modified", "location", "max-forwards", "pragma",
    "proxy-authenticate", "proxy-authorization", "range", "referer", "retry-after", "server", "te",
    "trailer", "transfer-encoding", "upgrade", "user-agent", "vary", "via", "warning",
    "www-authenticate", "method", "get", "status", "200 OK", "version", "HTTP/1.1", "url", "public",
    "set-cookie", "keep-alive", "origin",
];
/// Its second part.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
    403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
    Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
    chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
    text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS {
        bytes.extend_from_slice(&(word.len() as u32).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TEXT.as_bytes());
    bytes
}

/// Names in lower case with their values.
#[derive(Debug, Default, PartialEq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Headers with these names (in lower case) and values.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// The first value under a name (in lower case).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Reads an inflated block.
    fn parse(mut block: &[u8]) -> Result<Self, Error> {
        const SHORT: Error = Error::Malformed("a header block ends too early");
        let count = block.try_get_u32().map_err(|_| SHORT)?;
        if count > MAX_HEADERS {
            return Err(Error::TooLarge { what: "number of headers", size: count as usize });
        }
        let mut text = || {
            let length = block.try_get_u32().map_err(|_| SHORT)? as usize;
            let (bytes, rest) = block.split_at_checked(length).ok_or(SHORT)?;
            block = rest;
            // Of several values, which are parted by NUL, nothing here needs more than the first.
            let first = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            std::str::from_utf8(first)
                .map(str::to_owned)
                .map_err(|_| Error::Malformed("a header is not UTF-8"))
        };
        let mut headers = Vec::new();
        for _ in 0..count {
            headers.push((text()?, text()?));
        }
        match block {
            [] => Ok(Self(headers)),
            _ => Err(Error::Malformed("a header block goes on behind its last header")),
        }
    }
}

/// Reads the header blocks of one direction of a connection.
pub(crate) struct Inflater(Decompress);

impl Inflater {
    pub(crate) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// Inflates and reads the next block.
    ///
    /// # Errors
    /// When it is damaged or too large; the connection cannot go on then.
    pub(crate) fn read(&mut self, block: &[u8]) -> Result<Headers, Error> {
        const DAMAGED: Error = Error::Malformed("a header block cannot be inflated");
        let mut out = Vec::with_capacity(MAX_BLOCK);
        let start = self.0.total_in();
        let mut asked = false;
        loop {
            let read = (self.0.total_in() - start) as usize;
            let rest = block.get(read..).ok_or(DAMAGED)?;
            if rest.is_empty() {
                break;
            }
            let (before, filled) = (self.0.total_in(), out.len());
            match self.0.decompress_vec(rest, &mut out, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => return Err(DAMAGED),
                Ok(_) if self.0.total_in() == before && out.len() == filled => return Err(DAMAGED),
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() && !asked => {
                    asked = true;
                    self.0.set_dictionary(&dictionary()).map_err(|_| DAMAGED)?;
                }
                Err(_) => return Err(DAMAGED),
            }
            if out.len() == MAX_BLOCK {
                return Err(Error::TooLarge { what: "header block", size: MAX_BLOCK });
            }
        }
        Headers::parse(&out)
    }
}

/// Writes the header blocks of the other direction.
pub(crate) struct Deflater(Compress);

impl Deflater {
    pub(crate) fn new() -> Result<Self, Error> {
        let mut zlib = Compress::new(Compression::default(), true);
        zlib.set_dictionary(&dictionary()).map_err(|_| Error::Malformed("zlib takes no dictionary"))?;
        Ok(Self(zlib))
    }

    /// A block with these headers.
    ///
    /// # Errors
    /// When zlib fails.
    pub(crate) fn write(&mut self, headers: &Headers) -> Result<Vec<u8>, Error> {
        let mut plain = (headers.0.len() as u32).to_be_bytes().to_vec();
        for text in headers.0.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        self.deflate(&plain)
    }

    fn deflate(&mut self, plain: &[u8]) -> Result<Vec<u8>, Error> {
        // Deflated, bytes become hardly more than they were.
        let room = plain.len() + plain.len() / 8 + EMPTY_BLOCK;
        let mut out = Vec::with_capacity(room);
        let start = self.0.total_in();
        let done = self.0.compress_vec(plain, &mut out, FlushCompress::Sync);
        let whole = self.0.total_in() - start == plain.len() as u64 && out.len() < room;
        match done {
            Ok(_) if whole => Ok(out),
            _ => Err(Error::Malformed("a header block cannot be deflated")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_one_of_the_specification() {
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in dictionary() {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        // Its Adler-32 stands at the front of every SPDY/3 header stream.
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
        assert_eq!(dictionary().len(), 1423);
    }

    #[test]
    fn blocks_are_read_one_after_another_with_one_state() {
        let (mut deflater, mut inflater) = (Deflater::new().unwrap(), Inflater::new());
        for kind in ["error", "stdin", "stdout", "stderr"] {
            let block = deflater.write(&Headers::new([("streamtype", kind), ("port", "1\x002")])).unwrap();
            let headers = inflater.read(&block).unwrap();
            assert_eq!(headers.get("streamtype"), Some(kind));
            assert_eq!(headers.get("port"), Some("1"));
            assert_eq!(headers.get("host"), None);
        }
        assert_eq!(inflater.read(&deflater.write(&Headers::default()).unwrap()).unwrap(), Headers::default());
    }

    #[test]
    fn damaged_and_large_blocks_are_refused() {
        let deflate = |plain: &[u8]| Deflater::new().unwrap().deflate(plain).unwrap();
        let cut = &Deflater::new().unwrap().write(&Headers::new([("streamtype", "stdin")])).unwrap()[..12];
        assert!(Inflater::new().read(cut).is_err());
        assert!(Inflater::new().read(&[]).is_err());
        assert!(Inflater::new().read(&[0x55; 100]).is_err());
        // A kilobyte that inflates to a megabyte.
        let bomb = deflate(&vec![0; 1024 * 1024]);
        assert!(matches!(Inflater::new().read(&bomb), Err(Error::TooLarge { .. })));
        let many = deflate(&u32::MAX.to_be_bytes());
        assert!(matches!(Inflater::new().read(&many), Err(Error::TooLarge { .. })));
        let long = deflate(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, b'a']);
        assert!(matches!(Inflater::new().read(&long), Err(Error::Malformed(_))));
    }
}
