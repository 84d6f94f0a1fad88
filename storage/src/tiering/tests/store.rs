use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Disk, OpenMode, SimulatedDisk};
use crate::tiering::store::Content;

#[test]
fn content_is_read_across_its_parts() {
    let disk = Disk::simulated(&SimulatedDisk::new());
    disk.write_durably(Path::new("/f"), b"..34567...").unwrap();
    let file = Arc::new(disk.open(Path::new("/f"), OpenMode::Existing).unwrap());
    let mut content = Content::default();
    content.push_bytes(Bytes::from_static(b"012"));
    content.push_file(file.clone(), 2, 5);
    content.push_bytes(Bytes::new());
    content.push_bytes(Bytes::from_static(b"89"));
    let all = b"0123456789";
    assert_eq!(content.len(), 10);
    for from in 0..=10 {
        for to in from..=10 {
            assert_eq!(content.read(from as u64, to - from).unwrap(), all[from..to], "{from}..{to}");
        }
    }
    let past_the_end = content.read(8, 3).unwrap_err();
    assert_eq!(past_the_end.kind(), io::ErrorKind::UnexpectedEof);
    file.set_len(4).unwrap();
    assert_eq!(
        content.read(0, 10).unwrap_err().kind(),
        io::ErrorKind::UnexpectedEof,
        "the file became shorter"
    );
}

#[test]
fn a_spool_holds_what_was_written_and_leaves_nothing() {
    use std::io::Write;

    let disk = Disk::simulated(&SimulatedDisk::new());
    let path = Path::new("/spool/joined");
    for text in ["a longer one, left by a crash", "short"] {
        let mut spool = crate::tiering::spool::Spool::create(&disk, path).unwrap();
        spool.write_all(&text.as_bytes()[..3]).unwrap();
        spool.write_all(&text.as_bytes()[3..]).unwrap();
        assert_eq!(spool.content().read(0, text.len()).unwrap(), text.as_bytes());
        assert_eq!(spool.len(), text.len() as u64);
        if text == "short" {
            drop(spool);
        } else {
            std::mem::forget(spool);
        }
    }
    assert!(!disk.exists(path).unwrap());
}
