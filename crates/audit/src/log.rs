//! Records as lines of a file, which is rotated, or of standard output.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::{mpsc, oneshot};

use crate::AuditError;
use crate::metrics::Metrics;
use crate::queue::{Message, Mode, Queue};

/// For metrics.
const NAME: &str = "log";
/// Records that wait, at most (Kubernetes' `--audit-log-batch-buffer-size`).
const BUFFER: usize = 10_000;
/// Records that are written with one flush, at most.
const TOGETHER: usize = 400;
/// Megabytes of a file where nothing is said.
const MEGABYTES: u64 = 100;
/// Characters of a rotated file's time (`2026-01-31T23-59-59.999`).
const STAMP: &str = "%Y-%m-%dT%H-%M-%S";

/// How the file is written.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// `-` for standard output.
    pub path: PathBuf,
    /// A file of this many megabytes is rotated; 0 for 100.
    pub max_megabytes: u64,
    /// Rotated files that are kept, at most; 0 for any number.
    pub max_backups: usize,
    /// Days that they are kept, at most; 0 for ever.
    pub max_days: u64,
    /// Whether they are compressed with gzip.
    pub compress: bool,
    /// Whether requests wait.
    pub mode: Mode,
    /// Bytes of a record: a larger one loses its bodies.
    pub max_record: Option<usize>,
}

/// Opens the file, and writes from a thread of its own: a slow disk must not hold up others.
pub(crate) fn start(options: LogOptions, metrics: &Metrics) -> Result<Queue, AuditError> {
    let failed = |source| AuditError::File { path: options.path.display().to_string(), source };
    let (mode, limit) = (options.mode, options.max_record);
    let mut out = Out::open(options.clone()).map_err(failed)?;
    let (sender, mut receiver) = mpsc::channel(BUFFER);
    let counts = metrics.clone();
    let writer = move || {
        let mut batch = Vec::new();
        while receiver.blocking_recv_many(&mut batch, TOGETHER) > 0 {
            write(&mut out, std::mem::take(&mut batch), &counts);
        }
    };
    std::thread::Builder::new().name("audit-log".to_owned()).spawn(writer).map_err(failed)?;
    Ok(Queue { name: NAME, mode, limit, sender, metrics: metrics.clone() })
}

fn write(out: &mut Out, batch: Vec<Message>, metrics: &Metrics) {
    let mut waiting: Vec<oneshot::Sender<bool>> = Vec::new();
    let mut lost = 0;
    // Put into the buffer, and on no disk yet.
    let mut buffered = 0;
    for message in batch {
        match message {
            Message::Record(line, told) => {
                waiting.extend(told);
                buffered += 1;
                if let Err(error) = out.line(&line) {
                    tracing::error!(path = %out.options.path.display(), %error, "records of the audit log are lost");
                    lost += std::mem::take(&mut buffered);
                    // It may work again with the file opened anew.
                    out.file = None;
                }
            }
            Message::Flush(told) => waiting.push(told),
        }
    }
    if let Err(error) = out.flush() {
        tracing::error!(path = %out.options.path.display(), %error, "records of the audit log are lost");
        lost += buffered;
        out.file = None;
    }
    if lost > 0 {
        metrics.lost(NAME, lost);
    }
    for told in waiting {
        let _ = told.send(lost == 0);
    }
}

/// The file.
struct Out {
    options: LogOptions,
    /// None when it has to be opened first.
    file: Option<BufWriter<Box<dyn Write + Send>>>,
    bytes: u64,
}

impl Out {
    fn open(options: LogOptions) -> std::io::Result<Self> {
        let mut out = Self { options, file: None, bytes: 0 };
        out.ready()?;
        Ok(out)
    }

    fn is_standard(&self) -> bool {
        self.options.path == Path::new("-")
    }

    fn ready(&mut self) -> std::io::Result<&mut BufWriter<Box<dyn Write + Send>>> {
        let file = match self.file.take() {
            Some(file) => file,
            None if self.is_standard() => {
                BufWriter::new(Box::new(std::io::stdout()) as Box<dyn Write + Send>)
            }
            None => {
                if let Some(parent) = self.options.path.parent() {
                    std::fs::create_dir_all(parent)?;
                }
                let file = private(&self.options.path)?;
                self.bytes = file.metadata()?.len();
                BufWriter::new(Box::new(file) as Box<dyn Write + Send>)
            }
        };
        Ok(self.file.insert(file))
    }

    fn line(&mut self, line: &[u8]) -> std::io::Result<()> {
        let length = line.len() as u64 + 1;
        let most = match self.options.max_megabytes {
            0 => MEGABYTES,
            some => some,
        } << 20;
        if !self.is_standard() && self.bytes > 0 && self.bytes + length > most {
            self.rotate()?;
        }
        let file = self.ready()?;
        file.write_all(line)?;
        file.write_all(b"\n")?;
        self.bytes += length;
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match &mut self.file {
            Some(file) => file.flush(),
            None => Ok(()),
        }
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        self.flush()?;
        self.file = None;
        let now = jiff::Timestamp::now();
        let stamp = format!("{}.{:03}", now.strftime(STAMP), now.subsec_millisecond());
        let (stem, extension) = parts(&self.options.path);
        let to = self.options.path.with_file_name(format!("{stem}-{stamp}{extension}"));
        std::fs::rename(&self.options.path, &to)?;
        let options = self.options.clone();
        // Another thread: compressing takes longer than requests should wait.
        std::thread::Builder::new().name("audit-rotate".to_owned()).spawn(move || {
            if let Err(error) = tidy(&options) {
                tracing::warn!(path = %options.path.display(), %error, "old files of the audit log were not tidied up");
            }
        })?;
        Ok(())
    }
}

fn private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// `audit` and `.log`.
fn parts(path: &Path) -> (String, String) {
    let text =
        |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let extension = text(path.extension());
    (text(path.file_stem()), if extension.is_empty() { extension } else { format!(".{extension}") })
}

/// The rotated files, newest first.
fn rotated(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (stem, extension) = parts(path);
    let begin = format!("{stem}-");
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let plain = name.strip_suffix(".gz").unwrap_or(&name);
        let stamp = plain.strip_prefix(&begin).and_then(|rest| rest.strip_suffix(&extension));
        // What else is there is somebody else's.
        if stamp.is_some_and(|stamp| stamp.len() == 23 && stamp.as_bytes()[10] == b'T') {
            found.push(entry.path());
        }
    }
    found.sort();
    found.reverse();
    Ok(found)
}

/// Removes rotated files that are too many or too old, and compresses the others.
fn tidy(options: &LogOptions) -> std::io::Result<()> {
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let oldest = (options.max_days > 0)
        .then(|| SystemTime::now().checked_sub(Duration::from_secs(options.max_days.saturating_mul(86_400))))
        .flatten();
    for (number, path) in rotated(&options.path)?.into_iter().enumerate() {
        let too_many = options.max_backups > 0 && number >= options.max_backups;
        let too_old = oldest.is_some_and(|oldest| {
            path.metadata().and_then(|meta| meta.modified()).is_ok_and(|written| written < oldest)
        });
        if too_many || too_old {
            std::fs::remove_file(&path)?;
        } else if options.compress && path.extension().is_none_or(|extension| extension != "gz") {
            let mut name = path.clone().into_os_string();
            name.push(".gz");
            let packed = PathBuf::from(name);
            let _ = std::fs::remove_file(&packed);
            let mut out = GzEncoder::new(private(&packed)?, Compression::default());
            std::io::copy(&mut File::open(&path)?, &mut out)?;
            out.finish()?.sync_all()?;
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use bytes::Bytes;

    use super::*;

    fn options(dir: &Path) -> LogOptions {
        LogOptions {
            path: dir.join("logs/audit.log"),
            max_megabytes: 1,
            max_backups: 2,
            max_days: 0,
            compress: true,
            mode: Mode::Blocking,
            max_record: None,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_is_rotated_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path());
        let metrics = Metrics::default();
        let queue = start(options.clone(), &metrics).unwrap();
        let line = Bytes::from(vec![b'x'; 300_000]);
        for _ in 0..16 {
            assert!(queue.put(line.clone()).await);
        }
        let now = options.path.metadata().unwrap();
        assert!(now.len() > 0 && now.len() <= 1 << 20);
        assert_eq!(now.permissions().mode() & 0o777, 0o600);
        // The thread that tidies up may still be at it.
        let settled = async {
            loop {
                let old = rotated(&options.path).unwrap();
                if old.len() <= 2 && old.iter().all(|path| path.extension().is_some_and(|e| e == "gz")) {
                    break old;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let old = tokio::time::timeout(Duration::from_secs(20), settled).await.expect("it is tidied up");
        let mut text = String::new();
        let mut packed = flate2::read::GzDecoder::new(File::open(&old[0]).unwrap());
        std::io::Read::read_to_string(&mut packed, &mut text).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert_eq!(old[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_cannot_be_written_is_said_and_it_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path());
        std::fs::create_dir_all(&options.path).unwrap();
        assert!(start(options.clone(), &Metrics::default()).is_err(), "a directory is no file");
        std::fs::remove_dir(&options.path).unwrap();
        let queue = start(options.clone(), &Metrics::default()).unwrap();
        assert!(queue.put(Bytes::from("a")).await);
        assert!(queue.put_now(Bytes::from("b")));
        queue.flush().await;
        assert_eq!(std::fs::read_to_string(&options.path).unwrap(), "a\nb\n");
    }
}
