//! `GET /logs/…`: what the node's own programs write to `/var/log`, as kubelets show it (`kubectl get --raw /api/v1/nodes/NAME/proxy/logs/`).

use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path as FilePath;

use axum::body::Body;
use axum::extract::Path;
use axum::response::{Html, IntoResponse, Response};
use http::{StatusCode, header};
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::refuse;

/// Where a node's programs have their logs.
const ROOT: &str = "/var/log";
/// Most entries of a directory that are shown.
const MOST_ENTRIES: usize = 10_000;

/// What there is at a path.
#[derive(Debug)]
enum Found {
    /// The names of what is in a directory, those of directories with a slash behind.
    Directory(Vec<String>),
    /// A file, with its bytes.
    File(std::fs::File, u64),
}

/// `GET /logs/`.
pub(crate) async fn root() -> Response {
    answer(FilePath::new(ROOT), String::new()).await
}

/// `GET /logs/PATH`.
pub(crate) async fn below(Path(path): Path<String>) -> Response {
    answer(FilePath::new(ROOT), path).await
}

async fn answer(root: &FilePath, path: String) -> Response {
    let (root, asked) = (root.to_owned(), path.clone());
    let found = tokio::task::spawn_blocking(move || find(&root, &asked)).await;
    match found.unwrap_or(Err(Errno::IO)) {
        // Links in the answer lead from the directory only then.
        Ok(Found::Directory(_)) if !path.is_empty() && !path.ends_with('/') => {
            let name = path.rsplit('/').next().unwrap_or_default();
            (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, format!("{}/", encode(name)))])
                .into_response()
        }
        Ok(Found::Directory(names)) => Html(page(&names)).into_response(),
        Ok(Found::File(file, bytes)) => {
            // It may grow meanwhile.
            let file = tokio::fs::File::from_std(file).take(bytes);
            let headers = [
                // Whatever is in it, no browser is to run it.
                (header::CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
                (header::CONTENT_LENGTH, bytes.to_string()),
            ];
            (headers, Body::from_stream(ReaderStream::with_capacity(file, 64 * 1024))).into_response()
        }
        Err(Errno::NOENT | Errno::NOTDIR | Errno::INVAL | Errno::NAMETOOLONG) => {
            refuse(StatusCode::NOT_FOUND, format!("there is no {path:?} in {ROOT} of this node"))
        }
        Err(Errno::XDEV | Errno::LOOP | Errno::ACCESS | Errno::PERM) => {
            refuse(StatusCode::FORBIDDEN, format!("{path:?} leads out of {ROOT}, or is no file to be read"))
        }
        Err(error) => {
            refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("{path:?} in {ROOT} can't be read: {error}"))
        }
    }
}

/// Opens what is at a path in the directory. No link leads out of it, whatever Pods that have it mounted make there.
fn find(root: &FilePath, path: &str) -> Result<Found, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let path = path.trim_start_matches('/');
    let path = if path.is_empty() { "." } else { path };
    // What it is is looked at before it is opened: opening a device or a pipe may do something.
    let kind = |fd: &OwnedFd| -> Result<FileType, Errno> {
        Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
    };
    let seen = rustix::fs::openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside)?;
    if !matches!(kind(&seen)?, FileType::Directory | FileType::RegularFile) {
        return Err(Errno::ACCESS);
    }
    let fd = rustix::fs::openat2(&root, path, flags | OFlags::NONBLOCK, Mode::empty(), inside)?;
    match kind(&fd)? {
        FileType::Directory => Ok(Found::Directory(list(&fd)?)),
        FileType::RegularFile => {
            let bytes = u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
            Ok(Found::File(fd.into(), bytes))
        }
        _ => Err(Errno::ACCESS),
    }
}

fn list(dir: &OwnedFd) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)?.take(MOST_ENTRIES) {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_dir = || match entry.file_type() {
            // Of a file system that does not say.
            FileType::Unknown => {
                rustix::fs::statat(dir, entry.file_name(), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
            }
            kind => kind == FileType::Directory,
        };
        if name != "." && name != ".." {
            names.push(if is_dir() { format!("{name}/") } else { name });
        }
    }
    names.sort();
    Ok(names)
}

/// A page of links.
fn page(names: &[String]) -> String {
    let mut text =
        "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n".to_owned();
    for name in names {
        let shown =
            name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
        // Writing to a String can't fail.
        let _ = writeln!(text, "<a href=\"{}\">{shown}</a>", encode(name));
    }
    text.push_str("</pre>\n");
    text
}

/// A name as part of a link. One with a colon in it would be taken for a scheme.
fn encode(name: &str) -> String {
    let mut text = if name.contains(':') { "./".to_owned() } else { String::new() };
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' | b':' => {
                text.push(char::from(byte));
            }
            // Writing to a String can't fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    async fn told(root: &FilePath, path: &str) -> (u16, String) {
        let answer = answer(root, path.to_owned()).await;
        let (status, location) = (answer.status().as_u16(), answer.headers().get(header::LOCATION).cloned());
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        (status, location.map_or(text, |location| location.to_str().unwrap().to_owned()))
    }

    #[tokio::test]
    async fn directories_are_listed_files_are_shown_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (root, secret) = (dir.path().join("log"), dir.path().join("secret"));
        std::fs::create_dir_all(root.join("a<b>/deep")).unwrap();
        std::fs::write(root.join("syslog"), "it works\n").unwrap();
        std::fs::write(root.join("a<b>/deep/x:1 %"), "deep\n").unwrap();
        std::fs::write(&secret, "no\n").unwrap();
        symlink("a<b>/deep", root.join("inside")).unwrap();
        symlink(&secret, root.join("out")).unwrap();
        symlink("../secret", root.join("up")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let (status, text) = told(&root, "").await;
        assert_eq!(status, 200);
        assert!(text.contains("<a href=\"a%3Cb%3E/\">a&lt;b&gt;/</a>\n"), "{text}");
        assert!(text.contains("<a href=\"syslog\">syslog</a>\n"), "{text}");
        assert_eq!(told(&root, "syslog").await, (200, "it works\n".to_owned()));
        assert_eq!(told(&root, "inside/x:1 %").await, (200, "deep\n".to_owned()));
        assert_eq!(told(&root, "a<b>/deep").await, (301, "deep/".to_owned()));
        let (_, text) = told(&root, "a<b>/deep/").await;
        assert!(text.contains("<a href=\"./x:1%20%25\">x:1 %</a>\n"), "{text}");
        for (path, code) in [
            ("none", 404),
            ("syslog/", 404),
            ("\0", 404),
            ("out", 403),
            ("up", 403),
            ("../secret", 403),
            ("inside/../../../secret", 403),
            ("magic/etc/passwd", 403),
            ("socket", 403),
        ] {
            let (status, text) = told(&root, path).await;
            assert_eq!(status, code, "{path}: {text}");
        }
    }
}
