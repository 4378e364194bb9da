//! Layers of all kinds of bytes, and what a stack of them leaves.

use std::io::{Cursor, Write as _};

use proptest::prelude::*;

use super::*;

type Plain = Layer<u64>;

/// Counts a file's bytes.
struct Counted(u64);

impl Reader for Counted {
    type Seen = u64;

    fn bytes(&mut self, bytes: &[u8]) {
        self.0 += bytes.len() as u64;
    }

    fn end(self: Box<Self>) -> u64 {
        self.0
    }
}

fn read_blob(blob: &[u8]) -> Plain {
    let stated = Descriptor::of("layer", blob);
    read(&stated, blob, |_| Some(Box::new(Counted(0)))).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// A header of this kind and size, its name as given.
fn header(name: &str, kind: u8, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(0o644);
    header.set_uid(1);
    header.set_gid(2);
    header.set_mtime(3);
    header.set_size(size);
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    header
}

fn put(tar: &mut Vec<u8>, name: &str, kind: u8, bytes: &[u8]) {
    tar.extend_from_slice(header(name, kind, bytes.len() as u64).as_bytes());
    tar.extend_from_slice(bytes);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// `a/` a directory, `a -> b` a link, `a => b` a hard link, else a file of its own name.
fn stack(layers: &[&[&str]]) -> Vec<Plain> {
    let layer = |entries: &&[&str]| {
        let mut tar = Vec::new();
        for entry in *entries {
            let (name, kind, target) = if let Some((name, target)) = entry.split_once(" -> ") {
                (name, b'2', target)
            } else if let Some((name, target)) = entry.split_once(" => ") {
                (name, b'1', target)
            } else if entry.ends_with('/') {
                (*entry, b'5', "")
            } else {
                (*entry, b'0', "")
            };
            let mut header = header(name, kind, 0);
            header.set_link_name_literal(target).unwrap();
            header.set_cksum();
            tar.extend_from_slice(header.as_bytes());
        }
        tar.resize(tar.len() + 1024, 0);
        read_blob(&tar)
    };
    layers.iter().map(layer).collect()
}

/// Every path and, of an entry, layer and name.
fn tree_of(layers: &[&[&str]]) -> Vec<String> {
    let layers = stack(layers);
    let tree = Tree::new(&layers);
    let line = |path: &str| match tree.get(path, &layers) {
        Some(found) if found.entry.path() == path => format!("{path} {}", found.layer),
        Some(found) => format!("{path} {} {}", found.layer, found.entry.path()),
        None => format!("{path} -"),
    };
    tree.paths().map(line).collect()
}

#[test]
fn whiteouts_hide_lower_layers_alone() {
    assert_eq!(
        tree_of(&[
            &["a/", "a/b", "a/c/", "a/c/d", "e"],
            &[
                "a/",
                "a/.wh.b",
                "a/c/",
                "a/c/f",
                "a/c/.wh..wh..opq",
                ".wh.e",
                "e"
            ],
        ]),
        ["a 1", "a/c 1", "a/c/f 1", "e 1"]
    );
    // Of another's own, and of nothing.
    assert_eq!(
        tree_of(&[
            &["a"],
            &[".wh.", ".wh...", ".wh..wh.plnk/", ".wh..wh.plnk/1"]
        ]),
        ["a 0"]
    );
    assert_eq!(tree_of(&[&["a/", "a/b"], &[".wh..wh..opq"]]), [""; 0]);
}

#[test]
fn files_and_directories_replace_one_another() {
    assert_eq!(
        tree_of(&[&["a/", "a/b", "c"], &["a", "c/", "c/d"]]),
        ["a 1", "c 1", "c/d 1"]
    );
    assert_eq!(tree_of(&[&["a/", "a/b"], &["a/"]]), ["a 1", "a/b 0"]);
}

#[test]
fn entries_go_through_links_and_never_beyond_the_root() {
    assert_eq!(
        tree_of(&[
            &["c/", "a -> c", "up -> ../../c"],
            &["a/b", "up/d", "../e", "f/../g"]
        ]),
        [
            "a 0",
            "c 0",
            "c/b 1 a/b",
            "c/d 1 up/d",
            "e 1 ../e",
            "g 1 f/../g",
            "up 0"
        ]
    );
    // A directory takes a link's place, and whiteouts go through links too.
    assert_eq!(
        tree_of(&[
            &["c/", "c/x", "c/y", "a -> /c"],
            &["a/.wh.x"],
            &["a/", "a/b"]
        ]),
        ["a 2", "a/b 2", "c 0", "c/y 0"]
    );
    assert_eq!(tree_of(&[&["a -> b", "b -> a", "a/c"]]), ["a 0", "b 0"]);
    assert_eq!(
        tree_of(&[&["a -> b/c", "a/d"]]),
        ["a 0", "b -", "b/c -", "b/c/d 0 a/d"]
    );
}

#[test]
fn a_hard_link_stays_the_file_it_was() {
    assert_eq!(
        tree_of(&[&["a", "b => a", "c => ./b"], &["a", "d => nothing"]]),
        ["a 1", "b 0 a", "c 0 a", "d 1"]
    );
}

#[test]
fn paths_are_resolved() {
    let layers = stack(&[&[
        "a/",
        "a/b",
        "l -> a",
        "m -> l/../l/b",
        "x -> y",
        "y -> x",
        "n -> /no",
    ]]);
    let tree = Tree::new(&layers);
    assert_eq!(tree.resolve("m", &layers), Ok("a/b".to_owned()));
    assert_eq!(tree.resolve("/l/./b", &layers), Ok("a/b".to_owned()));
    assert_eq!(
        tree.resolve("x", &layers),
        Err(Missing::Loop("x".to_owned()))
    );
    assert_eq!(
        tree.resolve("n", &layers),
        Err(Missing::Nothing("no".to_owned()))
    );
}

#[test]
fn names_come_from_headers_before() {
    let long = "d/".repeat(150) + "f";
    let mut tar = Vec::new();
    put(
        &mut tar,
        "././@LongLink",
        b'L',
        format!("{long}\0").as_bytes(),
    );
    put(&mut tar, "short", b'0', b"abc");
    let record = format!("path={long}.py\n");
    let record = format!("{} {record}", record.len() + 4);
    put(
        &mut tar,
        "pax",
        b'x',
        format!("{record}14 mtime=12.5\n11 a=b\nc=d\n").as_bytes(),
    );
    put(&mut tar, "short", b'0', b"abcd");
    put(&mut tar, "global", b'g', b"9 a=bcde\n");
    put(&mut tar, "./last", b'0', b"");
    let layer = read_blob(&tar);
    assert_eq!(layer.damage, None);
    let seen: Vec<_> = layer
        .entries
        .iter()
        .map(|e| (e.path(), e.seen, e.modified))
        .collect();
    assert_eq!(
        seen,
        [
            (long.clone(), Some(3), 3),
            (format!("{long}.py"), Some(4), 12),
            ("last".to_owned(), Some(0), 3),
        ]
    );
}

#[test]
fn a_sparse_file_has_its_own_name_and_size_and_is_not_looked_at() {
    let mut tar = Vec::new();
    let records =
        "28 GNU.sparse.name=a/sparse\n30 GNU.sparse.realsize=100000\n24 path=GNUSparseFile/x\n";
    put(&mut tar, "pax", b'x', records.as_bytes());
    put(&mut tar, "GNUSparseFile/x", b'0', b"0\n");
    put(&mut tar, "b", b'0', b"b");
    let layer = read_blob(&tar);
    assert_eq!(layer.damage, None);
    let seen: Vec<_> = layer
        .entries
        .iter()
        .map(|e| (e.path(), e.size, e.seen))
        .collect();
    assert_eq!(
        seen,
        [
            ("a/sparse".to_owned(), 100_000, None),
            ("b".to_owned(), 1, Some(1))
        ]
    );
}

#[test]
fn what_claims_too_much_ends_the_reading() {
    let damage = |tar: &[u8]| read_blob(tar).damage.unwrap_or_default();
    let huge = header("a", b'0', 1 << 60);
    assert_eq!(
        damage(huge.as_bytes()),
        "the tar has a file of 1152921504606846976 bytes"
    );
    let large = header("a", b'0', 1 << 30);
    assert_eq!(damage(large.as_bytes()), "the tar has an end inside `a`");
    let huge = header("a", b'x', 1 << 30);
    assert_eq!(
        damage(huge.as_bytes()),
        "the tar has a header of 1073741824 bytes"
    );
    let mut wrong = *header("a", b'0', 0).as_bytes();
    wrong[0] = b'b';
    assert_eq!(
        damage(&wrong),
        "the tar has a header whose checksum is wrong"
    );
    assert_eq!(damage(&wrong[..300]), "the tar has an end inside a header");
    let mut tar = Vec::new();
    put(&mut tar, "pax", b'x', b"99999 path=a\n");
    assert_eq!(damage(&tar), "the tar has a pax record that cannot be read");
}

#[test]
fn what_costs_nothing_to_claim_is_limited() {
    let damage = |entries: &[(&str, u8, &[u8])]| {
        let mut tar = Vec::new();
        for (name, kind, bytes) in entries {
            put(&mut tar, name, *kind, bytes);
        }
        tar.resize(tar.len() + 1024, 0);
        read_blob(&tar).damage.unwrap_or_default()
    };
    let deep = "d/".repeat(1000) + "f";
    assert!(damage(&[("long", b'L', deep.as_bytes()), ("f", b'0', b"")]).contains("1001 parts"));
    let usual = "d/".repeat(100) + "f";
    assert_eq!(
        damage(&[("long", b'L', usual.as_bytes()), ("f", b'0', b"")]),
        ""
    );
    let told = damage(&[
        ("pax", b'x', b"43 GNU.sparse.realsize=9223372036854775808\n"),
        ("f", b'0', b""),
    ]);
    assert!(told.contains("9223372036854775808 bytes"), "{told}");
}

#[test]
fn an_archive_may_end_with_the_last_bytes_of_its_last_file() {
    let mut tar = header("a", b'0', 3).as_bytes().to_vec();
    tar.extend_from_slice(b"abc");
    let layer = read_blob(&tar);
    assert!(layer.is_whole(), "{:?}", layer.damage);
    assert_eq!(layer.entries.len(), 1);
    tar.pop();
    assert!(!read_blob(&tar).is_whole());
}

#[test]
fn a_volumes_label_has_no_size() {
    let mut label = header("label", b'V', 0);
    label.as_old_mut().size = [0; 12];
    label.set_cksum();
    let mut tar = label.as_bytes().to_vec();
    put(&mut tar, "a", b'0', b"abc");
    tar.resize(tar.len() + 1024, 0);
    let layer = read_blob(&tar);
    assert!(layer.is_whole(), "{:?}", layer.damage);
    assert_eq!(layer.entries.last().map(|entry| &*entry.name), Some("a"));
}

#[test]
fn an_entry_knows_what_it_takes_of_the_blob() {
    let mut state = 1_u64;
    let mut noise = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    };
    let noise: Vec<u8> = (0..600_000).map(|_| noise()).collect();
    let mut tar = Vec::new();
    put(&mut tar, "even", b'0', &vec![b'x'; 1 << 20]);
    put(&mut tar, "noise", b'0', &noise);
    put(&mut tar, "small", b'0', b"x");
    let blob = gzip(&tar);
    let layer = read_blob(&blob);
    let packed: Vec<_> = layer.entries.iter().map(|entry| entry.packed).collect();
    assert!(packed[0] < 30_000, "{packed:?}");
    assert!((590_000..640_000).contains(&packed[1]), "{packed:?}");
    assert!(packed[2] < 10_000, "{packed:?}");
    assert!(packed.iter().sum::<u64>() <= blob.len() as u64);
    // Unpacked it takes what it is, with its headers.
    let layer = read_blob(&tar);
    assert_eq!(layer.entries[2].packed, 1024);
}

#[test]
fn packing_members_and_what_stands_behind() {
    let mut tar = Vec::new();
    // Longer than any buffer, so that members end anywhere in one.
    put(&mut tar, "a", b'0', &vec![7; 3_000_000]);
    tar.resize(tar.len() + 1024, 0);
    let half = tar.len() / 2;
    let noise: Vec<_> = (0..200_001u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    for (blob, packing, trailing) in [
        (tar.clone(), Packing::Tar, 0),
        (gzip(&tar), Packing::Gzip(1), 0),
        (
            [gzip(&tar[..half]), gzip(&tar[half..])].concat(),
            Packing::Gzip(2),
            0,
        ),
        (
            [gzip(&tar), noise.clone()].concat(),
            Packing::Gzip(1),
            noise.len() as u64,
        ),
    ] {
        let layer = read_blob(&blob);
        assert_eq!((layer.packing, layer.trailing), (packing, trailing));
        assert_eq!(layer.damage, None);
        assert_eq!(layer.diff_id, Some(Digest::of(&tar)));
        assert_eq!(layer.digest, Digest::of(&blob));
        assert_eq!(
            (layer.size, layer.unpacked),
            (blob.len() as u64, tar.len() as u64)
        );
        assert_eq!(layer.entries[0].seen, Some(3_000_000));
        let cut = read_blob(&blob[..blob.len() / 2 - 100]);
        assert_eq!(cut.digest, Digest::of(&blob[..blob.len() / 2 - 100]));
        assert!(cut.damage.is_some() || trailing > 0);
    }
    assert_eq!(read_blob(b"\x28\xb5\x2f\xfd...").packing, Packing::Zstd);
    assert_eq!(read_blob(b"").packing, Packing::Unknown);
}

#[test]
fn a_disk_that_fails_is_no_damage() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }
    let start = gzip(&vec![0; 100_000]);
    let stated = Descriptor::of("layer", &start);
    let blob = Cursor::new(start[..50].to_vec()).chain(Failing);
    let failed = read(&stated, blob, |_| None::<Box<dyn Reader<Seen = u64>>>);
    assert_eq!(failed.unwrap_err().to_string(), "the disk is gone");
}

#[test]
fn results_are_in_the_layers_order() {
    let blobs: Vec<_> = (1..9u64)
        .map(|number| {
            let mut tar = Vec::new();
            put(
                &mut tar,
                "a",
                b'0',
                &vec![1; usize::try_from(number).unwrap() * 10_000],
            );
            gzip(&tar)
        })
        .collect();
    let stated: Vec<_> = blobs
        .iter()
        .map(|blob| Descriptor::of("layer", blob))
        .collect();
    let open = |number: usize| match number {
        3 => Err(io::ErrorKind::NotFound.into()),
        _ => Ok(&*blobs[number]),
    };
    let layers = read_all(&stated, open, |_, _| Some(Box::new(Counted(0))));
    let seen: Vec<_> = layers
        .iter()
        .map(|layer| layer.as_ref().ok()?.entries[0].seen)
        .collect();
    let expected: Vec<_> = (1..9).map(|n| (n != 4).then_some(n * 10_000)).collect();
    assert_eq!(seen, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the bytes: a layer comes of them, of their own digest, and so does a tree.
    #[test]
    fn foreign_bytes_make_a_layer(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        is_packed in any::<bool>(),
    ) {
        let mut tar = Vec::new();
        put(&mut tar, "a/", b'5', b"");
        put(&mut tar, "pax", b'x', b"10 size=3\n10 path=b\n11 GNU.a=b\n");
        put(&mut tar, "a/b", b'0', b"abc");
        put(&mut tar, "long", b'L', b"a/.wh.b\0");
        put(&mut tar, "c", b'0', b"abc");
        put(&mut tar, "a/l", b'2', b"");
        put(&mut tar, "a/h", b'1', b"");
        put(&mut tar, "s", b'S', b"abc");
        tar.resize(tar.len() + 1024, 0);
        let mut blob = if is_packed { gzip(&tar) } else { tar };
        for (at, byte) in changes {
            let at = at.index(blob.len());
            blob[at] = byte;
        }
        blob.truncate(blob.len() - cut.index(blob.len()) / 8);
        let layer = read_blob(&blob);
        prop_assert_eq!(layer.digest, Digest::of(&blob));
        prop_assert_eq!(layer.size, blob.len() as u64);
        prop_assert_eq!(layer.damage.is_some() && layer.diff_id.is_some(), false);
        let layers = [layer.clone(), layer];
        let tree = Tree::new(&layers);
        for path in tree.paths() {
            let _ = tree.resolve(path, &layers);
        }
    }
}
