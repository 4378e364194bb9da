//! ELF libraries of little more than headers and the versions of libc that they need.

const HEADER: u64 = 64;
const DYNAMIC: u64 = HEADER + 2 * 56;
const NEEDS: u64 = DYNAMIC + 5 * 16;
/// Where the loader would put the first byte.
const ADDRESS: u64 = 4096;

/// ELF's number for `x86_64` or `aarch64`.
pub(crate) fn machine(name: &str) -> u16 {
    if name == "aarch64" { 183 } else { 62 }
}

/// A library that needs this version of libc.
pub(crate) fn library(machine: u16, need: &str) -> Vec<u8> {
    let strings = format!("\0libc.so.6\0{need}\0").into_bytes();
    let names = NEEDS + 32;
    let length = names + strings.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([3, machine, 1, 0].map(u16::to_le_bytes).concat());
    file.extend([0, HEADER, 0].map(u64::to_le_bytes).concat());
    file.extend([0, 0, 64, 56, 2, 0, 0, 0].map(u16::to_le_bytes).concat());
    for (kind, offset, size) in [(1, 0, length), (2, DYNAMIC, 5 * 16)] {
        file.extend([kind, 4].map(u32::to_le_bytes).concat());
        let address = offset + ADDRESS;
        let fields = [offset, address, address, size, size, 8];
        file.extend(fields.map(u64::to_le_bytes).concat());
    }
    // Names, their length, needed versions, of how many libraries, end.
    for (tag, value) in [
        (5, names + ADDRESS),
        (10, strings.len() as u64),
        (0x6fff_fffe, NEEDS + ADDRESS),
        (0x6fff_ffff, 1),
        (0, 0),
    ] {
        file.extend([tag, value].map(u64::to_le_bytes).concat());
    }
    file.extend([1u16, 1].map(u16::to_le_bytes).concat());
    file.extend([1, 16, 0, 0, 0, 11, 0].map(u32::to_le_bytes).concat());
    file.extend(strings);
    file
}

/// The system's own reader finds the table of needs.
#[test]
fn is_read_by_readelf() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("some.so");
    std::fs::write(&path, library(machine("x86_64"), "GLIBC_2.99")).unwrap();
    let readelf = crate::support::program("readelf", "binutils");
    let mut command = std::process::Command::new(readelf);
    let said = crate::support::process::run(command.args(["-h", "-d"]).arg(&path));
    assert!(said.contains("Advanced Micro Devices X86-64"), "{said}");
    assert!(
        said.contains("(VERNEEDNUM)") && said.contains("1\n"),
        "{said}"
    );
}
