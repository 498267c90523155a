//! The screen and the serial port of real QEMU processes.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;
use crate::Way;

/// Sends back what comes on the serial port.
const ECHO: [u8; 15] = [
    0xba, 0xfd, 0x03, // again: mov dx, 0x3fd
    0xec, 0xa8, 0x01, 0x74, 0xfb, // wait: in al, dx; test al, 1; jz wait
    0xba, 0xf8, 0x03, 0xec, 0xee, // mov dx, 0x3f8; in al, dx; out dx, al
    0xeb, 0xf1, // jmp again
];

async fn read<const N: usize>(stream: &mut UnixStream) -> [u8; N] {
    let mut bytes = [0; N];
    timeout(Duration::from_secs(20), stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    bytes
}

async fn types_and_sees(stream: &mut UnixStream, text: &[u8; 5]) {
    stream.write_all(text).await.unwrap();
    assert_eq!(&read::<5>(stream).await, text);
}

/// Whether the other end is closed.
async fn is_closed(stream: &mut UnixStream) -> bool {
    let mut rest = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.is_ok()
}

#[test]
fn a_screen_is_seen_by_whoever_is_let_in() {
    Runtime::new().unwrap().block_on(async {
        let bench = Bench::new("screen", &ECHO);
        let qemu = bench.open().await;
        qemu.start(bench.config()).await.unwrap();
        let mut first = qemu.connect(&bench.uid, Way::Display).await.unwrap();
        let mut second = qemu.connect(&bench.uid, Way::Display).await.unwrap();
        for screen in [&mut first, &mut second] {
            assert_eq!(&read::<12>(screen).await, b"RFB 003.008\n");
            screen.write_all(b"RFB 003.008\n").await.unwrap();
            assert_eq!(read::<2>(screen).await, [1, 1], "one kind of security, and that is none");
            screen.write_all(&[1]).await.unwrap();
            assert_eq!(read::<4>(screen).await, [0; 4]);
            // Shared: who came before stays.
            screen.write_all(&[1]).await.unwrap();
            let [w1, w0, h1, h0, ..] = read::<20>(screen).await;
            assert!(u16::from_be_bytes([w1, w0]) >= 320 && u16::from_be_bytes([h1, h0]) >= 200);
            let length = u32::from_be_bytes(read(screen).await);
            for _ in 0..length {
                read::<1>(screen).await;
            }
            // A part of it, as it is.
            screen.write_all(&[3, 0, 0, 0, 0, 0, 0, 16, 0, 16]).await.unwrap();
            assert_eq!(read::<1>(screen).await, [0]);
        }
        qemu.stop(&bench.uid).await.unwrap();
        assert!(is_closed(&mut first).await && is_closed(&mut second).await);
        assert!(matches!(qemu.connect(&bench.uid, Way::Display).await, Err(Error::NotRunning { .. })));
        qemu.start(VmConfig { display: false, ..bench.config() }).await.unwrap();
        assert!(matches!(qemu.connect(&bench.uid, Way::Display).await, Err(Error::Refused { .. })));
        // Before its directory goes, which its end is written down in.
        qemu.stop(&bench.uid).await.unwrap();
    });
}

#[test]
fn a_serial_port_is_shared_and_its_log_goes_on() {
    Runtime::new().unwrap().block_on(async {
        let bench = Bench::new("serial", &ECHO);
        let qemu = bench.open().await;
        qemu.start(bench.config()).await.unwrap();
        hellos(&qemu, &bench.uid, 1).await;
        let mut first = qemu.connect(&bench.uid, Way::Serial).await.unwrap();
        types_and_sees(&mut first, b"first").await;
        let mut second = qemu.connect(&bench.uid, Way::Serial).await.unwrap();
        types_and_sees(&mut second, b"other").await;
        assert_eq!(&read::<5>(&mut first).await, b"other", "both see what the guest writes");
        drop(first);
        types_and_sees(&mut second, b"alone").await;
        let log = qemu.console_log(&bench.uid, None).await.unwrap();
        assert!(log.contains("hello") && log.contains("firstotheralone"), "{log:?}");
        drop(second);
        // Nobody is there any more, and what the guest writes is kept all the same.
        let ring = || async {
            let machine = qemu.find(&bench.uid).unwrap();
            let asked = machine.execute("query-chardev").await.unwrap();
            let own = asked.as_array().unwrap().iter().find(|one| one["label"] == "console").unwrap().clone();
            own["filename"].as_str().unwrap().to_owned()
        };
        let begun = Instant::now();
        while ring().await != "ringbuf" {
            assert!(begun.elapsed() < Duration::from_secs(20));
            sleep(Duration::from_millis(20)).await;
        }
        qemu.reboot(&bench.uid, Reboot::Hard).await.unwrap();
        hellos(&qemu, &bench.uid, 2).await;
        let mut third = qemu.connect(&bench.uid, Way::Serial).await.unwrap();
        qemu.stop(&bench.uid).await.unwrap();
        assert!(is_closed(&mut third).await);
    });
}

#[test]
fn a_console_is_kept_after_a_cloud_that_ended_while_somebody_was_there() {
    let bench = Bench::new("left", &ECHO);
    let first = Runtime::new().unwrap();
    let _there = first.block_on(async {
        let qemu = bench.open().await;
        qemu.start(bench.config()).await.unwrap();
        hellos(&qemu, &bench.uid, 1).await;
        qemu.connect(&bench.uid, Way::Serial).await.unwrap()
    });
    drop(first);
    Runtime::new().unwrap().block_on(async {
        let qemu = bench.open().await;
        qemu.reboot(&bench.uid, Reboot::Hard).await.unwrap();
        hellos(&qemu, &bench.uid, 2).await;
    });
}
