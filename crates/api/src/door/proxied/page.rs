//! HTML on its way from a proxied server to the client, with its links led through the proxy. Nothing is held but a tag
//! that is not whole yet, and what a decoder keeps.

use std::io::{self, Write};
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::BoxError;
use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateDecoder, DeflateEncoder, GzEncoder, MultiGzDecoder, ZlibDecoder, ZlibEncoder};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http_body::Frame;
use lol_html::html_content::Element;
use lol_html::send::{HtmlRewriter, Settings};
use lol_html::{AsciiCompatibleEncoding, ElementContentHandlers, MemorySettings, OutputSink, Selector};

use super::links::Links;

/// Most bytes that are held of one page: a tag with an image in its address has to be whole. What comes after a tag that is
/// longer is passed on as it is.
const MAX_HELD: usize = 4 * 1024 * 1024;
/// Bytes of a body that are rewritten at a time: compressed ones may become a thousand times as many.
const PIECE: usize = 1024;

/// Which attributes of an element hold URLs. (HTML 4.01, index of attributes, and HTML's list of attributes.)
fn attributes(element: &str) -> &'static [&'static str] {
    match element {
        "a" | "area" | "base" | "link" => &["href"],
        "applet" => &["codebase"],
        "audio" | "embed" | "script" | "source" => &["src"],
        "blockquote" | "del" | "ins" | "q" => &["cite"],
        "body" => &["background"],
        "button" => &["formaction"],
        "command" => &["icon"],
        "form" => &["action"],
        "frame" | "iframe" => &["longdesc", "src"],
        "head" => &["profile"],
        "html" => &["manifest"],
        "img" => &["longdesc", "src", "usemap"],
        "input" => &["src", "usemap", "formaction"],
        "object" => &["classid", "codebase", "data", "usemap"],
        "video" => &["poster", "src"],
        _ => &[],
    }
}

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Plain,
    Gzip,
    /// With zlib's frame, or, as some send it, without.
    Deflate,
}

/// How a page is encoded; none for what is no HTML, or is encoded in another way: that is passed on as it is.
fn coding(headers: &HeaderMap) -> Option<Coding> {
    let text = |name| headers.get(name).map_or(Some(""), |value| value.to_str().ok());
    let media = text(CONTENT_TYPE)?.split(';').next().unwrap_or_default();
    match text(CONTENT_ENCODING)? {
        _ if media.trim() != "text/html" => None,
        "" => Some(Coding::Plain),
        "gzip" => Some(Coding::Gzip),
        "deflate" => Some(Coding::Deflate),
        _ => None,
    }
}

/// Passes an answer's body on; with the links of HTML rewritten, whose length then is not known beforehand.
pub(super) fn pass<B>(headers: &mut HeaderMap, body: B, links: Links) -> Body
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    let Some(coding) = coding(headers) else { return Body::new(body) };
    headers.remove(CONTENT_LENGTH);
    if body.is_end_stream() {
        return Body::new(body);
    }
    Body::new(Page { body, links, coding, mill: Mill::Idle, rest: Bytes::new(), done: Output::default() })
}

/// Bytes that are ready to go.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What turns a body into another.
enum Mill {
    /// Nothing came yet.
    Idle,
    Running(Box<dyn Write + Send>),
    /// All has gone through.
    Stopped,
}

struct Page<B> {
    body: B,
    links: Links,
    coding: Coding,
    mill: Mill,
    /// What came and is not through the mill.
    rest: Bytes,
    done: Output,
}

impl<B> Page<B> {
    fn grind(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(first) = bytes.first() else { return Ok(()) };
        if matches!(self.mill, Mill::Idle) {
            self.mill = Mill::Running(self.mill(*first));
        }
        match &mut self.mill {
            Mill::Running(mill) => mill.write_all(bytes),
            Mill::Idle | Mill::Stopped => Ok(()),
        }
    }

    /// Decoder, rewriter and encoder, each of which writes into the next; dropping the first ends all of them.
    fn mill(&self, first: u8) -> Box<dyn Write + Send> {
        let out = self.done.clone();
        let level = Compression::default();
        match self.coding {
            Coding::Plain => Box::new(self.rewriter(out)),
            Coding::Gzip => Box::new(MultiGzDecoder::new(self.rewriter(GzEncoder::new(out, level)))),
            // The method of a zlib header; bare data would begin with a stored block and padding that is not zero.
            Coding::Deflate if first & 0x0f == 8 => {
                Box::new(ZlibDecoder::new(self.rewriter(ZlibEncoder::new(out, level))))
            }
            Coding::Deflate => Box::new(DeflateDecoder::new(self.rewriter(DeflateEncoder::new(out, level)))),
        }
    }

    fn rewriter<W: Write + Send + 'static>(&self, out: W) -> Rewriter<W> {
        let sink = Sink(Arc::new(Mutex::new(out)));
        Rewriter { html: Some(rewriter(self.links.clone(), Sink(sink.0.clone()))), sink }
    }
}

impl<B> http_body::Body for Page<B>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        while !matches!(self.mill, Mill::Stopped) {
            if self.rest.is_empty() {
                match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                    Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                    // Trailers are of the body as it was.
                    Some(Ok(frame)) => self.rest = frame.into_data().unwrap_or_default(),
                    None => self.mill = Mill::Stopped,
                }
            }
            let most = self.rest.len().min(PIECE);
            let piece = self.rest.split_to(most);
            if let Err(error) = self.grind(&piece) {
                return Poll::Ready(Some(Err(error.into())));
            }
            let bytes = mem::take(&mut *self.done.lock());
            if !bytes.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(bytes.into()))));
            }
            if !self.rest.is_empty() {
                // A little may have become much: others have their turn.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        Poll::Ready(None)
    }
}

/// Where the rewriter writes; shared, because it goes on when the rewriter gives up.
struct Sink<W>(Arc<Mutex<W>>);

impl<W: Write> Sink<W> {
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes)
    }
}

impl<W: Write> OutputSink for Sink<W> {
    fn handle_chunk(&mut self, chunk: &[u8]) {
        // Writing to memory does not fail, with an encoder before it or without.
        if let Err(error) = self.write(chunk) {
            tracing::debug!(%error, "part of a page is lost");
        }
    }
}

struct Rewriter<W: Write> {
    /// None once it has given up.
    html: Option<HtmlRewriter<'static, Sink<W>>>,
    sink: Sink<W>,
}

impl<W: Write> Write for Rewriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.html {
            None => self.sink.write(bytes)?,
            // It has passed on all that it had.
            Some(html) => {
                if let Err(error) = html.write(bytes) {
                    tracing::debug!(%error, "links of a page are rewritten no further");
                    self.html = None;
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> Drop for Rewriter<W> {
    fn drop(&mut self) {
        if let Some(html) = self.html.take()
            && let Err(error) = html.end()
        {
            tracing::debug!(%error, "the end of a page is not rewritten");
        }
    }
}

fn rewriter<W: Write>(links: Links, sink: Sink<W>) -> HtmlRewriter<'static, Sink<W>> {
    let every: Selector = "*".parse().expect("it is a selector");
    let memory = MemorySettings::new()
        .with_max_allowed_memory_usage(MAX_HELD)
        .with_graceful_bail_out_on_memory_limit_exceeded(true);
    let handlers = ElementContentHandlers::default().element(move |element: &mut Element<'_, '_, _>| {
        rewrite(element, &links);
        Ok(())
    });
    // In this encoding every byte is a character, so that pages in any that begins with ASCII stay as they are.
    let bytes = AsciiCompatibleEncoding::new(encoding_rs::WINDOWS_1252).expect("it begins with ASCII");
    let settings = Settings::new_send()
        .with_encoding(bytes)
        .with_strict(false)
        .with_memory_settings(memory)
        .append_element_content_handler((std::borrow::Cow::Owned(every), handlers));
    HtmlRewriter::new(settings, sink)
}

fn rewrite<H: lol_html::HandlerTypes>(element: &mut Element<'_, '_, H>, links: &Links) {
    for name in attributes(&element.tag_name()) {
        let Some(value) = element.get_attribute(name) else { continue };
        // What is no URL is left to the browser.
        if let Ok(Some(new)) = links.rewrite(&slashes(&value))
            && let Err(error) = element.set_attribute(name, &new)
        {
            tracing::debug!(%error, name, "an attribute is not rewritten");
        }
    }
}

/// The value with its slashes as such: templates write them as references to characters, which matter to nobody but us.
fn slashes(value: &str) -> String {
    ["&#x2F;", "&#x2f;", "&#47;", "&sol;"]
        .iter()
        .fold(value.to_owned(), |value, from| value.replace(from, "/"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::{DeflateDecoder as ReadDeflate, MultiGzDecoder as ReadGzip, ZlibDecoder as ReadZlib};
    use futures::StreamExt;

    use super::super::links::tests::{PREFIX, links};
    use super::*;

    const PAGE: &str =
        "<!doctype html><p>/x &amp; \u{e4}<A HREF='/x?a&amp;b'>y</a><img src=a.png usemap=#m longdesc=/l>";

    fn expected() -> String {
        PAGE.replace("HREF='/x", &format!("HREF=\"{PREFIX}/x"))
            .replace("amp;b'", "amp;b\"")
            .replace("longdesc=/l", &format!("longdesc=\"{PREFIX}/l\""))
    }

    fn headers(kind: &str, encoding: &str) -> HeaderMap {
        let header = |text: &str| text.parse().unwrap();
        HeaderMap::from_iter([
            (CONTENT_TYPE, header(kind)),
            (CONTENT_ENCODING, header(encoding)),
            (CONTENT_LENGTH, header("99")),
        ])
    }

    /// What comes of a body in pieces of this many bytes.
    async fn passed(headers: &mut HeaderMap, body: &[u8], pieces: usize) -> Result<Vec<u8>, axum::Error> {
        let pieces: Vec<_> =
            body.chunks(pieces).map(|piece| Ok::<_, io::Error>(Bytes::copy_from_slice(piece))).collect();
        let body = Body::from_stream(futures::stream::iter(pieces));
        let bytes = axum::body::to_bytes(pass(headers, body, links()), usize::MAX).await?;
        Ok(bytes.to_vec())
    }

    async fn rewritten(page: &[u8]) -> Vec<u8> {
        passed(&mut headers("text/html; charset=x", ""), page, 7).await.unwrap()
    }

    #[tokio::test]
    async fn a_page_that_becomes_large_goes_through_in_pieces() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![b' '; 32 << 20]).unwrap();
        let bomb = encoder.finish().unwrap();
        let body = Body::from(bomb.clone());
        let mut body = pass(&mut headers("text/html", "gzip"), body, links());
        let mut polls = 0;
        std::future::poll_fn(|context| {
            loop {
                polls += 1;
                match http_body::Body::poll_frame(Pin::new(&mut body), context) {
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Ready(Some(frame)) => drop(frame.unwrap()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
        assert!(polls >= bomb.len() / PIECE, "{polls} for {} bytes", bomb.len());
    }

    #[tokio::test]
    async fn links_of_pages_are_rewritten_and_nothing_else() {
        for pieces in [1, 7, 4096] {
            let mut headers = headers("text/html", "");
            let page = passed(&mut headers, PAGE.as_bytes(), pieces).await.unwrap();
            assert_eq!(String::from_utf8(page).unwrap(), expected());
            assert!(!headers.contains_key(CONTENT_LENGTH));
        }
        let same = "<b src=/x><!-- <a href=/x> --><script>'<a href=/x>'</script><a href=x><a href='/%zz'>";
        assert_eq!(rewritten(same.as_bytes()).await, same.as_bytes());
        assert_eq!(rewritten(b"<a href='&#x2F;x'>").await, format!("<a href=\"{PREFIX}/x\">").as_bytes());
        // No bytes of another encoding are lost.
        let latin = |prefix: &str, q: &str| {
            [b"\xe4\x81<a href=", q.as_bytes(), prefix.as_bytes(), b"/\xe4\x81\xff", q.as_bytes(), b">"]
                .concat()
        };
        assert_eq!(rewritten(&latin("", "'")).await, latin(PREFIX, "\""));
    }

    #[tokio::test]
    async fn encoded_pages_stay_encoded() {
        let level = Compression::fast();
        let mut gzip = GzEncoder::new(Vec::new(), level);
        let mut zlib = ZlibEncoder::new(Vec::new(), level);
        let mut bare = DeflateEncoder::new(Vec::new(), level);
        for encoder in [&mut gzip as &mut dyn Write, &mut zlib, &mut bare] {
            encoder.write_all(PAGE.as_bytes()).unwrap();
        }
        let cases = [
            ("gzip", gzip.finish().unwrap()),
            ("deflate", zlib.finish().unwrap()),
            ("deflate", bare.finish().unwrap()),
        ];
        for (number, (encoding, body)) in cases.into_iter().enumerate() {
            let page = passed(&mut headers("text/html", encoding), &body, 5).await.unwrap();
            let mut text = String::new();
            let read = match number {
                0 => ReadGzip::new(page.as_slice()).read_to_string(&mut text),
                1 => ReadZlib::new(page.as_slice()).read_to_string(&mut text),
                _ => ReadDeflate::new(page.as_slice()).read_to_string(&mut text),
            };
            read.unwrap();
            assert_eq!(text, expected());
        }
        let broken = passed(&mut headers("text/html", "gzip"), b"this is not gzip", 99).await;
        assert!(broken.is_err());
    }

    #[tokio::test]
    async fn what_is_no_page_is_passed_on() {
        for (kind, encoding) in [("text/plain", ""), ("text/html", "br"), ("text/htmlx", "")] {
            let mut headers = headers(kind, encoding);
            assert_eq!(passed(&mut headers, b"<a href=/x>", 99).await.unwrap(), b"<a href=/x>");
            assert!(headers.contains_key(CONTENT_LENGTH));
        }
        // The answer to a HEAD request has no body, but the length that the page would have had.
        let mut headers = headers("text/html", "gzip");
        assert!(http_body::Body::is_end_stream(&pass(&mut headers, Body::empty(), links())));
        assert!(!headers.contains_key(CONTENT_LENGTH));
    }

    #[tokio::test]
    async fn a_page_streams_and_what_cannot_be_held_is_passed_on() {
        let (send, receive) = futures::channel::mpsc::unbounded::<io::Result<Bytes>>();
        let body = pass(&mut headers("text/html", ""), Body::from_stream(receive), links());
        let mut body = body.into_data_stream();
        send.unbounded_send(Ok("<a href=/x>".into())).unwrap();
        assert_eq!(body.next().await.unwrap().unwrap(), format!("<a href=\"{PREFIX}/x\">"));
        drop(send);
        assert!(body.next().await.is_none());

        let long = format!("<a href=/x><img alt='{}' src=/x><a href=/x>", "-".repeat(2 * MAX_HELD));
        let page = passed(&mut headers("text/html", ""), long.as_bytes(), 64 * 1024).await.unwrap();
        assert_eq!(String::from_utf8(page).unwrap(), long.replacen("/x", &format!("\"{PREFIX}/x\""), 1));
    }
}
