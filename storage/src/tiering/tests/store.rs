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
            for buffer_len in 1..=all.len() {
                let visited = visit(&content, from as u64, (to - from) as u64, buffer_len).unwrap();
                assert_eq!(visited, all[from..to], "{from}..{to} by {buffer_len}");
            }
        }
    }
    assert_eq!(visit(&content, 8, 3, 4).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    let past_the_end = content.read(8, 3).unwrap_err();
    assert_eq!(past_the_end.kind(), io::ErrorKind::UnexpectedEof);
    file.set_len(4).unwrap();
    assert_eq!(
        content.read(0, 10).unwrap_err().kind(),
        io::ErrorKind::UnexpectedEof,
        "the file became shorter"
    );
    assert_eq!(visit(&content, 0, 10, 4).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

fn visit(content: &Content, position: u64, len: u64, buffer_len: usize) -> io::Result<Vec<u8>> {
    let mut visited = Vec::new();
    content.visit(position, len, &mut vec![0; buffer_len], |piece| visited.extend_from_slice(piece))?;
    Ok(visited)
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
